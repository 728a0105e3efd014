"""Amounts as Kubernetes writes them, as numbers."""

import re
from fractions import Fraction

_UNITS = {"m": Fraction(1, 1000), "": Fraction(1)}
_UNITS |= {unit: Fraction(1000 ** (power + 1)) for power, unit in enumerate("kMGTP")}
_UNITS |= {f"{unit}i": Fraction(1024 ** (power + 1)) for power, unit in enumerate("KMGTP")}


def num_bytes(quantity: str) -> int:
    """Return an amount such as 64Gi as a whole number, rounded down.

    Raises:
        ValueError: the text is no amount.
    """
    match = re.fullmatch(r"([0-9]+(?:[.][0-9]+)?)([a-zA-Z]*)", quantity)
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{quantity!r} is not an amount such as 8, 500m or 64Gi")
    return int(Fraction(match[1]) * _UNITS[match[2]])
