"""Names that more than one program must agree on: labels, annotations, and the names of objects and jobs.

An object's name is the run's name, a dash and a suffix without a dash, so that two runs never share one; a run's name
that would make it too long is cut and gets ten hex digits of its hash.
"""

import hashlib
import re

from sam3ft_api import limits
from sam3ft_api.spec import GROUP

LABEL_RUN = f"{GROUP}/run"
"""Name of the resource, shortened like an object's name."""
LABEL_UID = f"{GROUP}/uid"
"""UID of the resource; what selectors use, because names are given again."""
LABEL_ATTEMPT = f"{GROUP}/attempt"
"""Number of the attempt; 0 on objects that serve every attempt."""
LABEL_ROLE = f"{GROUP}/role"
"""preflight, coordinator or worker."""
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_PART_OF = "app.kubernetes.io/part-of"
LABEL_COMPONENT = "app.kubernetes.io/component"
MANAGER = "sam3ft"
"""Value of `LABEL_MANAGED_BY` and `LABEL_PART_OF`."""

ANNOTATION_PLAN = f"{GROUP}/plan-digest"
"""Digest of the plan that an object was rendered from."""
ANNOTATION_CONFIG = f"{GROUP}/config-digest"
"""Digest of the config document."""
ANNOTATION_OWNER = f"{GROUP}/owner"
"""NAMESPACE/NAME of the resource, for people."""
FINALIZER_SLURM = f"{GROUP}/slurm-job"
"""Held by the operator while a SLURM job may run."""

FIELD_MANAGER_OPERATOR = "sam3ft-operator"
FIELD_MANAGER_STATUS = "sam3ft-status"
FIELD_MANAGER_AGENT = "sam3ft-slurm-agent"

ROLE_PREFLIGHT = "preflight"
ROLE_COORDINATOR = "coordinator"
ROLE_WORKER = "worker"

_SUFFIX = re.compile(r"[a-z0-9]+")


def object_name(run: str, suffix: str, *, max_chars: int = limits.MAX_NAME_CHARS) -> str:
    """Return the name of one object of a run: a DNS label of at most `max_chars` characters.

    Two different pairs of run and suffix get two names: below the limit because the last dash separates them, above
    it because ten hex digits of the run's SHA-256 stand before the suffix.

    Args:
        run: name of the resource, a DNS label.
        suffix: lower-case letters and digits, no dash.
        max_chars: room for the name.

    Raises:
        ValueError: the suffix has other characters, or leaves no room for the hash.
    """
    if not _SUFFIX.fullmatch(suffix):
        raise ValueError(f"suffix {suffix!r} of an object's name is not made of a-z and 0-9")
    name = f"{run}-{suffix}"
    if len(name) <= max_chars and not _looks_hashed(run):
        return name
    digest = hashlib.sha256(run.encode()).hexdigest()[:10]
    kept = max_chars - len(suffix) - len(digest) - 2
    if kept < 1:
        raise ValueError(f"suffix {suffix!r} leaves no room for a name within {max_chars} characters")
    return f"{run[:kept].rstrip('-')}-{digest}-{suffix}"


def _looks_hashed(run: str) -> bool:
    """Tell whether a run's own name ends like a shortened one; it is then hashed as well, to stay apart from it."""
    return bool(re.search(r"-[0-9a-f]{10}$", run))


def worker_job_name(run: str, attempt: int) -> str:
    """Return the name of the Job that runs the workers of one attempt: `RUN-ATTEMPT`, 57 characters at most."""
    return object_name(run, str(attempt), max_chars=limits.MAX_JOB_NAME_CHARS)


def run_label(run: str) -> str:
    """Return the run's name as a label value."""
    return run if len(run) <= limits.MAX_NAME_CHARS else object_name(run, "run")


def preflight_name(run: str) -> str:
    """Return the name of the Job that checks the data set."""
    return object_name(run, ROLE_PREFLIGHT)


def config_name(run: str) -> str:
    """Return the name of the ConfigMap with the config document."""
    return object_name(run, "config")


def coordinator_name(run: str) -> str:
    """Return the name of the coordinator's pod and of its Service.

    A Service is a host name of the older kind, which begins with a letter; a run's name may begin with a digit. The
    suffix `meeting` stands in no other name, so the prefix cannot make two runs meet.
    """
    return object_name(run, ROLE_COORDINATOR) if run[:1].isalpha() else object_name(f"run-{run}", "meeting")


def policy_name(run: str, role: str) -> str:
    """Return the name of the NetworkPolicy of the pods of a role."""
    return object_name(run, role)


def token_name(run: str) -> str:
    """Return the name of the Secret with the key from which each attempt's token is derived."""
    return object_name(run, "token")


def agent_name(site: str) -> str:
    """Return the name of what belongs to a SLURM site's agent in a namespace: ServiceAccount, Role and Lease."""
    return f"sam3ft-slurm-{site}"


def slurm_job_name(uid: str, attempt: int, *, slot: int = 0, generation: int = 0) -> str:
    """Return the singleton name of a SLURM job.

    A replacement has another generation, so that it is not held behind its predecessor; the same submission made
    twice has the same name, so that the second is found or held.

    Args:
        uid: of the resource; its first 16 hex digits stand for it.
        attempt: number of the attempt.
        slot: index of the node in an array of single-node tasks.
        generation: number of replacements of this slot so far.
    """
    return f"{slurm_job_prefix(uid)}{attempt}-{slot}-{generation}"


def slurm_job_prefix(uid: str) -> str:
    """Return how the names of all jobs of a resource begin, whatever their attempt."""
    short = re.sub(r"[^0-9a-z]", "", uid.lower())[:16]
    if len(short) < 8:
        short = hashlib.sha256(uid.encode()).hexdigest()[:16]
    return f"sft-{short}-"
