"""Random numbers without state: every draw is a hash of what it is drawn for.

A generator's stream depends on how many numbers were taken before, hence on world size, threads and restarts. A hash
of (seed, epoch, image, purpose) does not, and it stays the same when another kind of draw is added.
"""

from dataclasses import dataclass

import xxhash


def hash64(*parts: int | str) -> int:
    """Return the XXH3 hash of `parts`, an integer in [0, 2**64), the same on every machine and version."""
    return int(xxhash.xxh3_64_intdigest("\x1f".join(str(part) for part in parts).encode()))


@dataclass(frozen=True, slots=True)
class Draws:
    """All random numbers of one image in one epoch.

    Attributes:
        seed: of the run.
        epoch: counted from 0.
        image_id: COCO image id.
    """

    seed: int
    epoch: int
    image_id: int

    def uniform(self, purpose: str) -> float:
        """Return a number in [0, 1), fixed for this image, epoch and purpose."""
        return (hash64(self.seed, self.epoch, self.image_id, purpose) >> 11) * 2.0**-53

    def below(self, purpose: str, bound: int) -> int:
        """Return an integer in [0, `bound`); the bias of the remainder is below bound / 2**64."""
        return hash64(self.seed, self.epoch, self.image_id, purpose) % bound

    def chance(self, purpose: str, probability: float) -> bool:
        """Return True with `probability`; never at 0, always at 1."""
        return self.uniform(purpose) < probability
