"""Putting plans in force: in this process when it starts, and in the processes that a test starts."""

import importlib
import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from sam3ft_faults.plans import FaultPlan, FaultPlanError, parse_plans
from sam3ft_faults.seams import SEAMS, Seam
from sam3ft_faults.striking import PLAN_ERROR, Striker

ENV_PLAN = "SAM3FT_FAULT_PLAN"
"""The plans, as in `plans`."""
ENV_RECORDS = "SAM3FT_FAULT_RECORDS"
"""Folder of the `fired` records."""
HOOK = Path(__file__).with_name("hook")
"""Folder whose `sitecustomize` puts the plans of the environment in force; it goes onto PYTHONPATH."""


def fault_environment(plan: str, records: Path, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment in which every Python process carries the plan out.

    Args:
        plan: one or several, separated by commas.
        records: folder of the `fired` records; made when the first fault fires.
        environ: to build on; None takes this process's.

    Raises:
        FaultPlanError: no such plan, or the trainer lacks the place that it names.
    """
    check_seams(parse_plans(plan))
    base = dict(os.environ if environ is None else environ)
    path = [str(HOOK), *filter(None, [base.get("PYTHONPATH", "")])]
    return base | {ENV_PLAN: plan, ENV_RECORDS: str(records), "PYTHONPATH": os.pathsep.join(path)}


def check_seams(plans: Sequence[FaultPlan]) -> None:
    """Look every place of the plans up in the installed trainer.

    Raises:
        FaultPlanError: one does not exist.
    """
    for seam in _needed(plans):
        try:
            module = importlib.import_module(seam.module)
        except ModuleNotFoundError as error:
            raise FaultPlanError(f"seam {seam.module}:{seam.attribute}: {error}") from error
        _owner(module, seam)


def install(environ: Mapping[str, str]) -> Striker | None:
    """Put the plans of the environment in force for what this process imports from now on; None without any.

    A plan that cannot be carried out ends the process with `PLAN_ERROR`, here or at the import of its module.
    """
    text = environ.get(ENV_PLAN)
    if not text:
        return None
    try:
        striker = Striker(parse_plans(text), Path(environ[ENV_RECORDS]))
    except (FaultPlanError, KeyError) as error:
        _end(error)
    sys.meta_path.insert(0, _Finder(striker, _needed(striker.plans)))
    return striker


def _needed(plans: Sequence[FaultPlan]) -> list[Seam]:
    phases = {plan.phase for plan in plans}
    return [seam for seam in SEAMS if seam.always or phases.intersection(seam.phases)]


def _owner(module: ModuleType, seam: Seam) -> tuple[Any, str]:
    """Return what holds the function, and its name there."""
    *path, name = seam.attribute.split(".")
    holder: Any = module
    for part in path:
        holder = getattr(holder, part, None)
    if not callable(getattr(holder, name, None)):
        raise FaultPlanError(f"seam {seam.module}:{seam.attribute} does not exist in the installed trainer")
    return holder, name


class _Finder(importlib.abc.MetaPathFinder):
    """Lets the other finders find a module that has a seam, and wraps the seam once the module has run."""

    def __init__(self, striker: Striker, seams: Sequence[Seam]) -> None:
        self._striker = striker
        self._seams: dict[str, list[Seam]] = {}
        for seam in seams:
            self._seams.setdefault(seam.module, []).append(seam)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of a module with seams; None leaves a module to the other finders."""
        if fullname not in self._seams:
            return None
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Loader(spec.loader, self._striker, self._seams[fullname])
                return spec
        return None


class _Loader(importlib.abc.Loader):
    """Runs a module as its own loader does, then wraps its seams."""

    def __init__(self, loader: Any, striker: Striker, seams: Sequence[Seam]) -> None:
        self._loader, self._striker, self._seams = loader, striker, seams

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Leave it to the module's own loader."""
        created: ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        """Run the module and wrap its seams; a seam that is missing ends the process."""
        self._loader.exec_module(module)
        for seam in self._seams:
            try:
                holder, name = _owner(module, seam)
            except FaultPlanError as error:
                _end(error)
            setattr(holder, name, seam.wrap(self._striker, getattr(holder, name)))

    def __getattr__(self, name: str) -> Any:
        """Be the module's own loader for everything else."""
        return getattr(self._loader, name)


def _end(error: Exception) -> NoReturn:
    """End the process: an exception would be swallowed by `site`, and a plan that is ignored proves nothing."""
    sys.stderr.write(f"fault harness: {error}\n")
    sys.stderr.flush()
    os._exit(PLAN_ERROR)
