"""From Hydra groups and overrides to a validated TrainingConfig, and from nothing else.

The groups ship inside the package and are trusted. What a user types is data: interpolations (`${...}`) and
instantiation targets (`_target_`) are refused before Hydra sees them, and the composed document is validated
against the contract, which knows no such keys either.
"""

import difflib
from collections.abc import Sequence

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.conf.document import known_keys, validate_document

FORBIDDEN = ("${", "_target_")
"""Text that could make the composition compute or import something."""


def compose_config(overrides: Sequence[str] = ()) -> TrainingConfig:
    """Compose the shipped groups with `overrides` and validate the result.

    Args:
        overrides: Hydra's override grammar, `scratch.resolution=504`, `model=sam3`, `+data.phrases.cell=[red cell]`.

    Raises:
        InvalidConfig: an override is malformed, names no setting, or has a value that is not allowed; the message
            names the path, the value and what is allowed.
    """
    for override in overrides:
        for text in FORBIDDEN:
            if text in override:
                raise InvalidConfig(
                    f"override {override!r} contains {text!r}; settings are plain values here, "
                    "nothing is interpolated or instantiated: write the value itself"
                )
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("sam3ft_trainer.conf", version_base="1.3"):
            composed = compose("config", overrides=list(overrides))
        document = OmegaConf.to_container(composed, resolve=False)
    except (HydraException, OmegaConfBaseException) as error:
        raise InvalidConfig(_explain(error, overrides)) from error
    return validate_document(document)


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    for override in overrides:
        key = override.split("=", 1)[0].lstrip("+~")
        if key in str(error) and key not in known_keys():
            close = difflib.get_close_matches(key, known_keys(), n=1)
            hint = f"; did you mean {close[0]}?" if close else "; see docs/api.md for all settings"
            return f"override {override!r} names no setting{hint}"
    return f"the overrides cannot be composed: {reason}"
