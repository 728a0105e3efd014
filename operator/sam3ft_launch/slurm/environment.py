"""What a job takes over from the login shell: what the run needs to reach its stores and sinks, and nothing else.

The job itself inherits nothing (`--export=NONE`); these variables lie in a file that only its owner may read, each
value as a literal of the shell.
"""

import re
import secrets
import shlex
from collections.abc import Collection, Mapping

from sam3ft_api.fields import SinkName
from sam3ft_api.sinks import VARIABLES
from sam3ft_api.tokens import MIN_KEY_BYTES
from sam3ft_api.worker import (
    ENV_CACHE_DIR,
    ENV_CREDENTIALS_DIR,
    ENV_DATA_CREDENTIALS_DIR,
    ENV_RUN_KEY,
    ENV_STORAGE_PROFILES,
)

_TAKEN = re.compile(r"(SAM3FT_DATA_)?(AWS|GOOGLE|AZURE)_[A-Z0-9_]+|(HTTPS?|NO|ALL)_PROXY|(https?|no|all)_proxy|HF_HOME")
_NAMES = frozenset(
    {ENV_STORAGE_PROFILES, ENV_CREDENTIALS_DIR, ENV_DATA_CREDENTIALS_DIR, ENV_CACHE_DIR, "SSL_CERT_FILE"}
)


def job_environment(
    plan_env: Mapping[str, str], environ: Mapping[str, str], *, sinks: Collection[SinkName] = ()
) -> dict[str, str]:
    """Return the variables of an attempt, with a fresh key from which its token is derived.

    Args:
        plan_env: of the plan; they win.
        environ: of the process that submits.
        sinks: of the run's curves; the variables of others stay behind.
    """
    names = _NAMES.union(*(VARIABLES[sink] for sink in sinks))
    taken = {name: value for name, value in environ.items() if name in names or _TAKEN.fullmatch(name)}
    return {**taken, **plan_env, ENV_RUN_KEY: secrets.token_hex(2 * MIN_KEY_BYTES)}


def environment_file(environment: Mapping[str, str]) -> str:
    """Return shell code that sets the variables, each value literally."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(environment.items()))
