"""The answer to "why is it not running", the same for a run of this machine and one on a cluster."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Explanation:
    """An answer.

    Attributes:
        state: where the run stands, in one word.
        why: one sentence; empty when there is nothing to say beyond the state.
        fix: what to do; empty when nothing has to be done.
    """

    state: str
    why: str
    fix: str = ""

    def line(self, name: str) -> str:
        """Return it as one line for people."""
        why = f": {self.why.rstrip('. ')}" if self.why else ""
        fix = f"; to do: {self.fix.rstrip('. ')}" if self.fix else ""
        return " ".join(f"{name} is {self.state}{why}{fix}".split())
