"""What was found in a data set: counts, problems with their first examples, and the rule that refuses."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

from sam3ft_api.errors import InvalidDataset

Severity = Literal["bad", "mended", "notice"]
"""bad: counted against `data.max_bad`, and left out. mended: changed, then used. notice: shown, nothing is changed."""

Key = TypeVar("Key")
MAX_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of finding.

    Attributes:
        kind: snake_case word, stable, listed in docs/bad-input.md.
        severity: what follows from it.
        count: how often it was found.
        examples: the first few, as sentences that name ids and values.
    """

    kind: str
    severity: Severity
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CategoryCount:
    """Counts of one category in one split.

    Attributes:
        id: COCO category id.
        name: its name.
        phrases: what it is asked with; the first one is used in evaluation.
        images: images with at least one object of it.
        objects: usable annotations, crowd regions not counted.
        masks: objects that have a mask.
        crowd: crowd regions; never trained on, ignored by the metrics.
        asked: False for an empty parent category that is left out.
    """

    id: int
    name: str
    phrases: tuple[str, ...]
    images: int
    objects: int
    masks: int
    crowd: int
    asked: bool


@dataclass(frozen=True, slots=True)
class DroppedObjects:
    """What upstream's train-time filters leave out of this split, whatever the epoch draws.

    Attributes:
        small_always: objects below `data.bounds.min_area` even at the largest scale that can be drawn.
        small_sometimes: objects below it at the smallest scale only; the drawn scale decides.
        crowded_pairs: (image, phrase) pairs with more than `data.bounds.max_objects_per_phrase` objects.
        crowded_objects: the objects of those pairs.
    """

    small_always: int = 0
    small_sometimes: int = 0
    crowded_pairs: int = 0
    crowded_objects: int = 0


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """The account of one split; every image and annotation is in one of its counts.

    Attributes:
        split: train, valid or test.
        address: of the annotation file.
        digest: hex SHA-256 of the annotation file's bytes.
        images: images of the split.
        annotations: annotations of those images, unusable ones included.
        empty_images: images without annotation; they are trained on as negatives.
        held_out: images of the same file that belong to another split or that a few-shot subset leaves out.
        decoded: whether every image was read and decoded; if not, damaged images are not among the problems.
        categories: in id order.
        problems: worst first.
        dropped: objects that training leaves out by size and count.
        phrases: every phrase that can be asked.
    """

    split: str
    address: str
    digest: str
    images: int
    annotations: int
    empty_images: int
    held_out: int
    decoded: bool
    categories: tuple[CategoryCount, ...]
    problems: tuple[Problem, ...]
    dropped: DroppedObjects
    phrases: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)

    def count(self, kind: str) -> int:
        """Return how often `kind` was found; 0 when it was not."""
        return next((problem.count for problem in self.problems if problem.kind == kind), 0)


@dataclass(slots=True)
class ProblemLog:
    """Collects findings while a split is read, so that one message can name several.

    Refusals end the reading when `raise_refused` is called; the other findings become `Problem`s.
    """

    _found: dict[tuple[Severity, str], tuple[int, list[str]]] = field(default_factory=dict)
    _refused: dict[str, tuple[int, list[str]]] = field(default_factory=dict)

    def add(self, kind: str, severity: Severity, example: str, *, count: int = 1) -> None:
        """Count one finding, or several that one sentence tells."""
        _append(self._found, (severity, kind), example, count)

    def extend(self, problems: Iterable[Problem]) -> None:
        """Take in what another log has found, in its order."""
        for problem in problems:
            self._found[(problem.severity, problem.kind)] = (problem.count, list(problem.examples))

    def refuse(self, kind: str, example: str) -> None:
        """Count one finding that no training can accept."""
        _append(self._refused, kind, example, 1)

    def raise_refused(self, where: str) -> None:
        """Do nothing without refusals.

        Raises:
            InvalidDataset: with the first example of every refused kind and the number of the others.
        """
        if not self._refused:
            return
        sentences = [
            examples[0] + (f" ({count - 1} more of this kind)" if count > 1 else "")
            for count, examples in self._refused.values()
        ]
        raise InvalidDataset(f"{where}: " + "; ".join(sentences))

    def problems(self) -> tuple[Problem, ...]:
        """Return what was found, worst first, then in the order of the first finding."""
        rank = ("bad", "mended", "notice")
        ordered = sorted(self._found.items(), key=lambda item: rank.index(item[0][0]))
        return tuple(Problem(kind, severity, count, tuple(examples)) for (severity, kind), (count, examples) in ordered)


def _append(table: dict[Key, tuple[int, list[str]]], key: Key, example: str, count: int) -> None:
    before, examples = table.setdefault(key, (0, []))
    if len(examples) < MAX_EXAMPLES:
        examples.append(example)
    table[key] = (before + count, examples)


def allowed(share: float, total: int) -> int:
    """Return how many of `total` may be bad: `share` of them rounded down, at least one, but never all."""
    return min(max(1, int(share * total + 1e-9)), max(0, total - 1))


def refuse_beyond_limit(problems: Iterable[Problem], kinds: frozenset[str], *, limit: int, of: str, where: str) -> None:
    """Do nothing while the bad findings of `kinds` together stay within `limit`.

    Raises:
        InvalidDataset: with counts, the limit and the first examples.
    """
    found = [problem for problem in problems if problem.severity == "bad" and problem.kind in kinds]
    count = sum(problem.count for problem in found)
    if count <= limit:
        return
    listed = "; ".join(
        f"{problem.kind.replace('_', ' ')} ({problem.count}): " + "; ".join(problem.examples[:3]) for problem in found
    )
    raise InvalidDataset(
        f"{where}: {count} bad {of}, and data.max_bad allows {limit}. {listed}. "
        "Mend or remove them, or raise data.max_bad to leave them out (a whole split never is)"
    )
