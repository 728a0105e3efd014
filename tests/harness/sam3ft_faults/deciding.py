"""Which rule strikes which request, and the account of it all."""

import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sam3ft_faults.rules import Rule

PASS = Rule()
_KEPT_REQUESTS = 2000


@dataclass(slots=True)
class _Standing:
    """A rule in force: since when, and what it has seen and done."""

    rule: Rule
    since_s: float
    seen: int = 0
    struck: int = 0

    def strikes(self, now_s: float, draw: Callable[[], float]) -> bool:
        """Say whether the rule strikes a request that matches, and count it."""
        rule, age_s = self.rule, now_s - self.since_s
        self.seen += 1
        if age_s < rule.after_s or (rule.for_s is not None and age_s >= rule.after_s + rule.for_s):
            return False
        if self.seen <= rule.skip or (rule.times is not None and self.struck >= rule.times):
            return False
        if rule.share < 1.0 and draw() >= rule.share:
            return False
        self.struck += 1
        return True


@dataclass(slots=True)
class Decider:
    """Chooses a rule for each request and keeps count.

    Attributes:
        seed: of the draws for `share`.
        clock: monotonic seconds.
    """

    seed: int = 0
    clock: Callable[[], float] = time.monotonic
    _rules: list[_Standing] = field(default_factory=list)
    _random: random.Random = field(init=False)
    _done: Counter[str] = field(default_factory=Counter)
    _requests: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_KEPT_REQUESTS))

    def __post_init__(self) -> None:
        """Seed the draws."""
        self._random = random.Random(self.seed)

    def set_rules(self, rules: Sequence[Rule]) -> None:
        """Put these rules in place of the present ones; their times and counts begin now."""
        self._rules = [_Standing(rule, self.clock()) for rule in rules]

    def choose(self, method: str, target: str) -> Rule:
        """Return the rule for a request, `PASS` when none strikes."""
        chosen = PASS
        for standing in self._rules:
            if standing.rule.matches(method, target) and standing.strikes(self.clock(), self._random.random):
                chosen = standing.rule
                break
        self.count("requests")
        self.count(f"fault:{chosen.fault}" if chosen is not PASS else "passed")
        self._requests.append({"method": method, "target": target, "fault": chosen.fault, "struck": chosen is not PASS})
        return chosen

    def count(self, what: str, amount: int = 1) -> None:
        """Add to one of the totals."""
        self._done[what] += amount

    def account(self) -> dict[str, Any]:
        """Return the totals, what each present rule has seen and struck, and the newest requests."""
        return {
            "totals": dict(self._done),
            "rules": [{"seen": standing.seen, "struck": standing.struck} for standing in self._rules],
            "requests": list(self._requests),
        }
