"""From `kubectl apply` to the first step, in turn with and without warm spares: how long, and with what."""

from statistics import median

import pytest
from beginning import begin
from e2e_site import Site, Story
from waiting import wait_until

from sam3ft_faults.record import Figures

pytestmark = [pytest.mark.soak, pytest.mark.timeout(2400)]
ROUNDS = 3


def test_from_apply_to_the_first_step(installed: Site, story: Story, figures: Figures) -> None:
    begin_and_delete(installed, "warm-up", spares=False)  # files of the image come from the disk once
    found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    for turn in range(ROUNDS):
        for spares, parts in found.items():
            parts.append(begin_and_delete(installed, f"begin-{turn}-{'spares' if spares else 'new'}", spares=spares))
    for spares, parts in found.items():
        medians = {f"s {part}": median(it[part] for it in parts) for part in parts[0]}
        whole_s = median(sum(it.values()) for it in parts)
        way = "with warm spares" if spares else "without spares"
        story(f"{way}: {whole_s:.1f} s in the median of {ROUNDS}")
        assert all(part >= 0 for it in parts for part in it.values()), parts
        figures.add(f"apply to first step {way}, medians of {ROUNDS}", seed="none", s_in_all=whole_s, **medians)


def begin_and_delete(site: Site, run: str, *, spares: bool) -> dict[str, float]:
    """Begin a run, and leave the machine as quiet as before it."""
    parts = begin(site, run, steps=1000, workers={"warmSpares": spares})
    site.in_lab("delete", "sft", run, "--timeout=120s")
    # Those that still save and end as well: they would take the cores of the next one.
    wait_until(lambda: not site.in_lab("get", "pods", "-l", f"sam3ft.dev/run={run}", "-o", "name"), within_s=90)
    return parts
