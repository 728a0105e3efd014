"""Whether a verb means a cluster, and which run there."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.spec import SAM3FineTune
from sam3ft_launch.backend import Unsupported
from sam3ft_launch.cli.options import BackendName, BackendOption, refuse_options
from sam3ft_launch.prepare import load_resource

if TYPE_CHECKING:
    from sam3ft_launch.kubernetes.runs import ClusterRun, ClusterRuns

NamespaceOption = Annotated[
    str | None,
    typer.Option(
        "--namespace", "-n", metavar="NAME", help="Of the cluster. Default: the kubeconfig's.", show_default=False
    ),
]
ContextOption = Annotated[
    str | None,
    typer.Option("--context", metavar="NAME", help="Of the kubeconfig. Default: the current one.", show_default=False),
]
KubeconfigOption = Annotated[
    str | None,
    typer.Option(
        "--kubeconfig",
        metavar="FILE",
        help="Default: KUBECONFIG, else ~/.kube/config.",
        show_default=False,
    ),
]
ClusterRunArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help="The name of a run on the cluster, or its YAML file. Default: the only run of the namespace.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class ClusterPlace:
    """A namespace of a cluster, as the options name it.

    Attributes:
        namespace: None for the kubeconfig's, or the file's.
        context: None for the kubeconfig's current one.
        kubeconfig: None for the user's.
    """

    namespace: str | None
    context: str | None
    kubeconfig: str | None

    def runs(self, *, namespace: str | None = None) -> "ClusterRuns":
        """Return the runs of the namespace; nothing is asked yet.

        Args:
            namespace: that the run's file names; an option that names another is refused.

        Raises:
            InvalidConfig: file and option differ, or there are no credentials.
        """
        if namespace and self.namespace and namespace != self.namespace:
            raise InvalidConfig(
                f"--namespace {self.namespace}, but the file says metadata.namespace: {namespace}; leave one out"
            )
        from sam3ft_launch.kubernetes.connect import connect  # noqa: PLC0415 - an extra that other verbs do not need

        return connect(kubeconfig=self.kubeconfig, context=self.context, namespace=self.namespace or namespace)

    def find(self, run: str | None) -> "tuple[ClusterRuns, ClusterRun]":
        """Return the run that is meant: by name, by its file, or the only one of the namespace.

        Raises:
            InvalidConfig: there is no such run, or more than one where none is named.
        """
        if run is not None and Path(run).is_file():
            finetune, _ = load_resource(Path(run), assignments=())
            runs = self.runs(namespace=named_namespace(finetune))
            return runs, runs.get(finetune.metadata.name)
        runs = self.runs()
        if run is not None:
            return runs, runs.get(run)
        there = runs.all()
        if len(there) != 1:
            raise InvalidConfig(_which(there, runs.namespace))
        return runs, there[0]


def none_there(namespace: str) -> str:
    """Return what is said about a namespace without a run."""
    return f"there is no run in namespace {namespace}; start one with `sam3ft run FILE --backend kubernetes`"


def _which(there: "list[ClusterRun]", namespace: str) -> str:
    if not there:
        return none_there(namespace)
    known = ", ".join(found.name for found in there[:20])
    return f"name a run; there are {len(there)} in namespace {namespace}: {known}"


def named_namespace(finetune: SAM3FineTune) -> str | None:
    """Return the namespace that a file names; None when it names none."""
    metadata = finetune.metadata
    return metadata.namespace if "namespace" in metadata.model_fields_set else None


def placed(*, instead: str = "", starts: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a verb the options that say where it acts, in the place of its argument `place`.

    The verb gets a `ClusterPlace`, or None where runs lie in folders: on this machine, and on a SLURM site.

    Args:
        starts: the verb also wants to know, as its argument `on_slurm`, whether it is a SLURM site; the others find
            that in the run's folder.
        instead: for a verb that only a cluster has, what to do on this machine: it then acts on a cluster without
            being told, never gets None, and is refused with these words where this machine is meant.
    """
    default = BackendName.KUBERNETES if instead else BackendName.LOCAL

    def decorate(verb: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(verb)
        def placed_verb(
            *arguments: Any,
            backend: BackendName | None = None,
            namespace: str | None = None,
            context: str | None = None,
            kubeconfig: str | None = None,
            **more: Any,
        ) -> Any:
            place = cluster_place(backend, ClusterPlace(namespace, context, kubeconfig), default=default)
            if place is None and instead:
                raise Unsupported(f"`sam3ft {verb.__name__}` is for --backend kubernetes; on this machine {instead}")
            if starts:
                more["on_slurm"] = backend is BackendName.SLURM
            return verb(*arguments, place=place, **more)

        shown = inspect.signature(verb, eval_str=True)
        kept = [parameter for name, parameter in shown.parameters.items() if name not in ("place", "on_slurm")]
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for name, annotation in _OPTIONS.items()
        ]
        # Typer reads signature and annotations, each in its place.
        placed_verb.__signature__ = shown.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
        placed_verb.__annotations__ = {it.name: it.annotation for it in (*kept, *added)}
        return placed_verb

    return decorate


_OPTIONS = {
    "backend": BackendOption,
    "namespace": NamespaceOption,
    "context": ContextOption,
    "kubeconfig": KubeconfigOption,
}


def cluster_place(
    backend: BackendName | None, given: ClusterPlace, *, default: BackendName = BackendName.LOCAL
) -> ClusterPlace | None:
    """Return where on a cluster a verb acts; None for this machine.

    An option that only a cluster has means a cluster.

    Args:
        backend: None when it is not named.
        given: what the options of a cluster say.
        default: of the verb.

    Raises:
        InvalidConfig: the backend is another one while an option means a cluster; the client's library is not
            installed.
    """
    options = {"--namespace": given.namespace, "--context": given.context, "--kubeconfig": given.kubeconfig}
    chosen = backend or (BackendName.KUBERNETES if any(options.values()) else default)
    if chosen is not BackendName.KUBERNETES:
        refuse_options(options, "is for --backend kubernetes")
        return None
    _require_client()
    return given


def _require_client() -> None:
    """Look before any module that needs the client is imported.

    Raises:
        InvalidConfig: it is not installed.
    """
    if find_spec("kubernetes") is None:
        raise InvalidConfig("the library kubernetes is not installed; install it with: pip install 'sam3ft[operator]'")
