"""The patch that makes the status what it should be."""

from typing import Any

from engine_bench import _merged
from hypothesis import given
from hypothesis import strategies as st

from sam3ft_api.status import Phase, ProgressStatus, SAM3FineTuneStatus, SummaryStatus
from sam3ft_operator.status_patch import status_patch


def test_the_same_status_needs_no_patch() -> None:
    status = SAM3FineTuneStatus(phase=Phase.RUNNING, progress=ProgressStatus(step=3))

    assert {} == status_patch(status.model_dump(mode="json", exclude_none=True), status)


def test_a_field_that_is_gone_is_removed_by_null() -> None:
    before = SAM3FineTuneStatus(phase=Phase.RUNNING, progress=ProgressStatus(step=3, loss=0.5))
    patch = status_patch(
        before.model_dump(mode="json", exclude_none=True),
        SAM3FineTuneStatus(phase=Phase.RUNNING, progress=ProgressStatus(step=4)),
    )

    assert {"progress": {"step": 4, "loss": None}} == patch


def test_what_the_agent_of_a_site_writes_is_never_touched() -> None:
    before = {"slurm": {"jobId": "7"}}

    assert "slurm" not in status_patch(before, SAM3FineTuneStatus(phase=Phase.PENDING))


STATUSES = st.builds(
    SAM3FineTuneStatus,
    phase=st.sampled_from(Phase) | st.none(),
    restarts=st.integers(0, 3),
    summary=st.builds(SummaryStatus, step=st.sampled_from(["", "1/2"])) | st.none(),
    progress=st.builds(ProgressStatus, step=st.integers(0, 3), loss=st.floats(0, 1) | st.none()) | st.none(),
)


@given(STATUSES, STATUSES)
def test_after_the_patch_the_status_is_what_it_should_be(before: SAM3FineTuneStatus, after: SAM3FineTuneStatus) -> None:
    old: dict[str, Any] = before.model_dump(mode="json", exclude_none=True)

    assert after.model_dump(mode="json", exclude_none=True) == _merged(old, status_patch(old, after))
