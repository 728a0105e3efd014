"""`hf://org/name@revision`: a snapshot through huggingface_hub, with errors that say what to do."""

import re
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sam3ft_api.errors import InvalidConfig, ModelUnusable, StorageUnavailable

SCHEME = "hf://"
ALLOWED_FILES = (
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "processor_config.json",
    "preprocessor_config.json",
    "LICENSE*",
)
"""What is fetched: never a pickle, never code."""
_ADDRESS = re.compile(r"hf://(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[\w./-]+))?")


def parse_hub_address(uri: str) -> tuple[str, str | None]:
    """Return (repository, revision or None) of `hf://org/name[@revision]`.

    Raises:
        InvalidConfig: the address has another form.
    """
    match = _ADDRESS.fullmatch(uri)
    if match is None:
        raise InvalidConfig(f"model.uri {uri!r} is no Hub address; write hf://ORG/NAME or hf://ORG/NAME@REVISION")
    return match["repo"], match["revision"]


def fetch(uri: str, *, folder: Path | None = None) -> tuple[Path, str]:
    """Download what sam3ft reads of a Hub repository, and return (folder, address with the exact commit).

    Files lie in the Hub's cache, or as plain files in `folder`. `HF_TOKEN`, `HF_ENDPOINT`, `HF_HOME` and
    `HF_HUB_OFFLINE` act as in every Hub program.

    Raises:
        InvalidConfig: malformed address.
        ModelUnusable: no such repository or revision, or access is not granted.
        StorageUnavailable: the Hub does not answer and the snapshot is not in the cache.
    """
    repo, revision = parse_hub_address(uri)
    try:
        path = Path(snapshot_download(repo, revision=revision, allow_patterns=list(ALLOWED_FILES), local_dir=folder))
    except GatedRepoError as error:
        raise ModelUnusable(_denied(repo, error, "its licence has to be accepted first")) from error
    except RepositoryNotFoundError as error:
        raise ModelUnusable(_denied(repo, error, "it does not exist, or is private")) from error
    except RevisionNotFoundError as error:
        raise ModelUnusable(
            f"Hub repository {repo} has no revision {revision!r}; name a branch, tag or commit"
        ) from error
    except LocalEntryNotFoundError as error:
        refusal = error.__cause__
        if isinstance(refusal, HfHubHTTPError) and _status(refusal) in (401, 403):
            raise ModelUnusable(_denied(repo, refusal, "the token is not allowed to read it")) from error
        raise StorageUnavailable(
            f"the Hub at {constants.ENDPOINT} does not answer, and {repo} is not in the cache: {error}; "
            "check the network, or fetch the model into a folder on a machine that has one"
        ) from error
    except HfHubHTTPError as error:
        if _status(error) in (401, 403):
            raise ModelUnusable(_denied(repo, error, "the token is not allowed to read it")) from error
        raise StorageUnavailable(f"the Hub at {constants.ENDPOINT} failed for {repo}: {error}") from error
    except OSError as error:
        raise StorageUnavailable(f"fetching {repo} from {constants.ENDPOINT} failed: {error}") from error
    return path, f"{SCHEME}{repo}@{_commit(path) or revision or 'main'}"


def _commit(path: Path) -> str | None:
    """In the Hub's cache a snapshot's folder is named after its commit."""
    return path.name if re.fullmatch(r"[0-9a-f]{40}", path.name) else None


def _status(error: HfHubHTTPError) -> int | None:
    return None if error.response is None else error.response.status_code


def _denied(repo: str, error: HfHubHTTPError, cause: str) -> str:
    return (
        f"access to Hub repository {repo} was refused ({_status(error)}): {cause}. Open {constants.ENDPOINT}/{repo}, "
        "accept the terms with your account, and set HF_TOKEN to a token of that account with read access"
    )
