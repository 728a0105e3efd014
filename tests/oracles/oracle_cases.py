"""Discovery of oracle cases: files under tests/assets/oracles, and those of the folder in SAM3FT_ORACLES besides.

A test takes its cases with a marker and one argument:

    from oracle_cases import OracleCase

    @pytest.mark.oracle_cases("losses_*")
    def test_terms_equal_upstream(case: OracleCase) -> None:
        case.settings["terms"], case.tensors["in.final.pred_logits"]

A case is a `.json` file whose stem matches one of the marker's globs; a new file of the same form is a new test.
"""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

SHIPPED = Path(__file__).resolve().parent.parent / "assets" / "oracles"


@dataclass(frozen=True)
class OracleCase:
    """One case: settings and expected scalars from the JSON, arrays from the safetensors file of the same name."""

    path: Path

    @property
    def name(self) -> str:
        """Stem of the file, e.g. `losses_det_basic`."""
        return self.path.stem

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The JSON file."""
        return json.loads(self.path.read_text())

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The safetensors file of the same name; empty when there is none."""
        arrays = self.path.with_suffix(".safetensors")
        return load_file(arrays) if arrays.exists() else {}

    def neighbour(self, name: str) -> Path:
        """Return the path of another file of the case's folder, for files that the JSON names."""
        return self.path.parent / name

    def starting_with(self, prefix: str) -> dict[str, Tensor]:
        """Return the arrays whose name starts with `prefix`, the prefix taken off."""
        return {name[len(prefix) :]: value for name, value in self.tensors.items() if name.startswith(prefix)}


def oracle_folders() -> list[Path]:
    """Return the shipped folder, and that of SAM3FT_ORACLES when it is set."""
    other = os.environ.get("SAM3FT_ORACLES")
    if other and not Path(other).is_dir():
        raise FileNotFoundError(f"SAM3FT_ORACLES={other!r} is not a folder; name one that holds oracle cases")
    return [SHIPPED, *([Path(other)] if other else [])]


def oracle_cases(*globs: str) -> list[OracleCase]:
    """Return every case whose name matches one of `globs`, in name order, the shipped ones first."""
    return [
        OracleCase(path)
        for folder in oracle_folders()
        for path in sorted({path for pattern in globs for path in folder.glob(f"{pattern}.json")})
    ]


def case_id(case: OracleCase) -> str:
    """Return the name shown by pytest; cases of the extra folder are marked as such."""
    return case.name if case.path.parent == SHIPPED else f"extra:{case.name}"
