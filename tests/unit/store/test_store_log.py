import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from sam3ft_api.errors import CheckpointIncompatible, Fenced, StorageUnavailable
from sam3ft_trainer.store.history import DamagedHistory, entry_key
from sam3ft_trainer.store.log import ClaimRequest, CommitLog
from sam3ft_trainer.store.objects import AlreadyExists, Store
from sam3ft_trainer.store.records import CommitEntry, CommitMeta, Owner, RetireEntry, RunFacts

BLOOD = Owner(uid="1111", name="blood")
STEEL = Owner(uid="2222", name="steel")


@pytest.fixture
def request_of(facts: RunFacts):
    def made(owner: Owner = BLOOD, *, resume: str = "auto", adopt: bool = False, **changed: Any) -> Any:
        return ClaimRequest(owner, facts.model_copy(update=changed), resume=resume, adopt=adopt, world_size=1)

    return made


def commit(log: CommitLog, step: int, **meta: Any) -> Any:
    return log.append(
        lambda head: CommitEntry(
            **head,
            meta=CommitMeta(step=step, **meta),
            prefix=f"ckpt/g{log.history.generation:04d}-{step}",
            files=(),
            world_size=1,
            dataset_digest="d",
        )
    )


def retire(log: CommitLog, seq: int, reason: str = "retention") -> Any:
    return log.append(lambda head: RetireEntry(**head, seqs=(seq,), reason=reason))


def claimed(store: Store, request: Any, **options: Any) -> Any:
    log = CommitLog(store, outage_s=1.0, **options)
    log.claim(request)
    return log


def test_entries_are_numbered_chained_and_read_back(folder_store: Store, request_of: Callable[..., ClaimRequest]):
    log = claimed(folder_store, request_of())
    commit(log, 1)
    commit(log, 2)
    actual = CommitLog(folder_store).read()

    assert [1, 2, 3] == [entry.seq for entry in actual.entries]
    assert log.history == actual
    assert [2, 1] == [entry.meta.step for entry in actual.usable_commits()]


def test_a_second_reader_sees_what_was_added_since(folder_store: Store, request_of: Callable[..., ClaimRequest]):
    log = claimed(folder_store, request_of())
    reader = CommitLog(folder_store)
    reader.read()
    commit(log, 1)

    assert 2 == reader.read().head_seq


def test_numbers_of_every_kind_read_back_equal(folder_store: Store, request_of: Callable[..., ClaimRequest]):
    log = claimed(folder_store, request_of())
    metrics = {"tiny": 5e-324, "third": 1 / 3, "nan": math.nan, "infinity": math.inf}
    commit(log, 1, metrics=metrics, cursor={"position": 2**53 + 1}, extra={"rng": [1, None, "x"]})
    actual = CommitLog(folder_store).read().commits[0].meta

    assert math.isnan(actual.metrics.pop("nan"))
    metrics.pop("nan")
    assert metrics == actual.metrics
    assert {"position": 2**53 + 1} == actual.cursor
    assert {"rng": [1, None, "x"]} == actual.extra


def test_a_newer_claim_fences_the_older_one_which_writes_nothing(
    folder_store: Store, request_of: Callable[..., ClaimRequest]
):
    old = claimed(folder_store, request_of())
    commit(old, 1)
    new = claimed(folder_store, request_of())

    with pytest.raises(Fenced, match="generation 2 of 'blood'"):
        commit(old, 2)
    with pytest.raises(Fenced):
        retire(old, 2)
    commit(new, 2)
    assert [1, 2] == [entry.gen for entry in CommitLog(folder_store).read().commits]


def test_a_fenced_one_stays_fenced_however_much_the_newer_one_writes(
    folder_store: Store, request_of: Callable[..., ClaimRequest]
):
    old, new = claimed(folder_store, request_of()), claimed(folder_store, request_of())
    for step in range(5):
        commit(new, step)

    for _ in range(2):
        with pytest.raises(Fenced):
            commit(old, 9)


def test_of_two_claims_at_once_both_land_and_the_later_fences_the_earlier(
    folder_store: Store, request_of: Callable[..., ClaimRequest]
):
    class Racing(Store):
        """Lets another group claim between this one's reading and its creating."""

        def put_if_absent(self, key: str, data: bytes) -> None:
            if not others:
                others.append(claimed(folder_store, request_of()))
            super().put_if_absent(key, data)

    others = []
    log = claimed(Racing(folder_store._backend, address="x", folder=folder_store.folder), request_of())

    assert [1, 2] == [claim.gen for claim in log.history.claims]
    with pytest.raises(Fenced):
        commit(others[0], 1)
    commit(log, 1)


class _Losing(Store):
    """Stores the object, then loses the response, `times` times."""

    times = 1

    def put_if_absent(self, key: str, data: bytes) -> None:
        super().put_if_absent(key, data)
        if self.times and "log/" in key:
            self.times -= 1
            raise StorageUnavailable("response lost")


def test_a_lost_response_of_a_commit_is_recognised_as_success(
    folder_store: Store, request_of: Callable[..., ClaimRequest]
):
    store = _Losing(folder_store._backend, address="x", folder=folder_store.folder)
    log = claimed(store, request_of())
    store.times = 1
    commit(log, 1)
    commit(log, 2)

    assert [1, 2] == [entry.meta.step for entry in CommitLog(folder_store).read().commits]


def test_a_lost_response_followed_by_a_refusal_of_the_repeat_is_recognised(
    folder_store: Store, request_of: Callable[..., ClaimRequest]
):
    class Repeating(Store):
        """Repeats a write whose response was lost, as HTTP clients do, and reports that the key is taken."""

        def put_if_absent(self, key: str, data: bytes) -> None:
            super().put_if_absent(key, data)
            raise AlreadyExists(key)

    log = claimed(Repeating(folder_store._backend, address="x", folder=folder_store.folder), request_of())
    commit(log, 1)

    assert 2 == CommitLog(folder_store).read().head_seq


def test_a_store_that_never_answers_ends_with_unavailable(folder_store: Store, request_of: Callable[..., ClaimRequest]):
    class Dead(Store):
        def put_if_absent(self, *_: Any) -> None:
            raise StorageUnavailable("no route")

    log = CommitLog(Dead(folder_store._backend, address="x"), outage_s=0.0)

    with pytest.raises(StorageUnavailable, match="the budget is 0 s"):
        log.claim(request_of())


def test_another_owner_is_refused_with_both_names(folder_store: Store, request_of: Callable[..., ClaimRequest]):
    claimed(folder_store, request_of(BLOOD))

    with pytest.raises(CheckpointIncompatible, match=r"'blood' \(uid 1111\).*'steel' \(uid 2222\).*adopt") as refusal:
        claimed(folder_store, request_of(STEEL))
    assert folder_store.address in str(refusal.value)
    assert 1 == CommitLog(folder_store).read().head_seq


def test_adopting_takes_the_prefix_over_and_locks_the_old_owner_out(
    folder_store: Store, request_of: Callable[..., ClaimRequest]
):
    commit(claimed(folder_store, request_of(BLOOD)), 7)
    log = claimed(folder_store, request_of(STEEL, adopt=True, numbers_digest="other"))

    assert 7 == log.history.usable_commits()[0].meta.step
    assert log.history.claims[-1].adopted
    with pytest.raises(CheckpointIncompatible, match="belongs to 'steel'"):
        claimed(folder_store, request_of(BLOOD))
    claimed(folder_store, request_of(STEEL, numbers_digest="other"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"task": "segmentation"}, r"the task 'detection'.*'segmentation'"),
        ({"model_digest": "x" * 64}, r"initial weights 'm{16}'.*'x{16}'"),
        (
            {"numbers_digest": "y" * 64, "settings": {"optim": {"lr": 2}, "data": {}}},
            r"settings 'n{16}'.*'y{16}' \(data: nothing there, \{\} here; optim.lr: nothing there, 2 here\)",
        ),
    ],
)
def test_another_computation_is_refused_with_what_differs(
    folder_store: Store, request_of: Callable[..., ClaimRequest], changed: dict[str, Any], words: str
):
    claimed(folder_store, request_of())

    with pytest.raises(CheckpointIncompatible, match=words):
        claimed(folder_store, request_of(**changed))


def test_resume_must_needs_a_commit_and_claims_nothing_without(
    folder_store: Store, request_of: Callable[..., ClaimRequest]
):
    with pytest.raises(CheckpointIncompatible, match="no commit"):
        claimed(folder_store, request_of(resume="must"))
    assert 0 == CommitLog(folder_store).read().head_seq

    commit(claimed(folder_store, request_of()), 1)
    log = claimed(folder_store, request_of(resume="must"))

    assert 1 == log.history.usable_commits()[0].meta.step


def test_resume_never_starts_a_new_history_and_keeps_the_old_entries(
    folder_store: Store, request_of: Callable[..., ClaimRequest]
):
    commit(claimed(folder_store, request_of()), 5)
    log = claimed(folder_store, request_of(resume="never"))

    assert [] == log.history.usable_commits()
    assert not log.history.had_commits()
    assert [5] == [entry.meta.step for entry in log.history.live_commits()]
    commit(log, 1)
    assert [1] == [entry.meta.step for entry in claimed(folder_store, request_of()).history.usable_commits()]


def test_resume_never_starts_over_once_for_each_invocation(
    folder_store: Store, request_of: Callable[..., ClaimRequest]
):
    log = claimed(folder_store, request_of(resume="never", invocation="a"))
    commit(log, 3)

    restarted = claimed(folder_store, request_of(resume="never", invocation="a"))
    assert [3] == [entry.meta.step for entry in restarted.history.usable_commits()]

    again = claimed(folder_store, request_of(resume="never", invocation="b"))
    assert [] == again.history.usable_commits()


def test_a_history_whose_commits_are_all_damaged_is_no_fresh_start(
    folder_store: Store, request_of: Callable[..., ClaimRequest]
):
    log = claimed(folder_store, request_of())
    retire(log, commit(log, 1).seq, "damaged")

    with pytest.raises(DamagedHistory, match="not a fresh start"):
        claimed(folder_store, request_of())
    assert [] == claimed(folder_store, request_of(resume="never")).history.usable_commits()


@pytest.mark.parametrize("seq", [1, 2])
def test_a_missing_entry_is_not_passed_over(folder_store: Store, request_of: Callable[..., ClaimRequest], seq: int):
    log = claimed(folder_store, request_of())
    commit(log, 1)
    commit(log, 2)
    folder_store.delete([entry_key(seq)])

    with pytest.raises(DamagedHistory, match=f"{entry_key(seq)} is missing"):
        claimed(folder_store, request_of())


def test_a_vanished_log_beside_checkpoint_files_is_no_fresh_start(
    folder_store: Store, request_of: Callable[..., ClaimRequest]
):
    log = claimed(folder_store, request_of())
    folder_store.put("ckpt/g0001-s00000001-abc-1/model-00001-of-00001.safetensors", b"x")
    assert log.history.generation == 1
    folder_store.delete_prefix("log")

    with pytest.raises(DamagedHistory, match="not a fresh start"):
        claimed(folder_store, request_of())


@pytest.mark.parametrize("content", [b"", b'{"kind": "commit"', b"\x00" * 300, b'{"kind": "party"}'])
def test_an_entry_that_cannot_be_read_stops_the_run(
    folder_store: Store, request_of: Callable[..., ClaimRequest], content: bytes
):
    log = claimed(folder_store, request_of())
    commit(log, 1)
    folder_store.put(entry_key(2), content)

    with pytest.raises(DamagedHistory, match=r"log/00000002.json \(\d+ bytes\) cannot be read"):
        claimed(folder_store, request_of())


def test_a_replaced_entry_breaks_the_chain(folder_store: Store, request_of: Callable[..., ClaimRequest]):
    log = claimed(folder_store, request_of())
    commit(log, 1)
    commit(log, 2)
    entry = json.loads(folder_store.get(entry_key(2)))
    entry["meta"]["step"] = 1_000_000
    folder_store.put(entry_key(2), json.dumps(entry).encode())

    with pytest.raises(DamagedHistory, match=r"00000003\.json does not follow"):
        claimed(folder_store, request_of())


def test_an_entry_under_another_number_is_noticed(folder_store: Store, request_of: Callable[..., ClaimRequest]):
    claimed(folder_store, request_of())
    folder_store.put(entry_key(2), folder_store.get(entry_key(1)))

    with pytest.raises(DamagedHistory, match="it was moved"):
        claimed(folder_store, request_of())


def test_a_foreign_file_in_the_log_is_named(folder_store: Store, request_of: Callable[..., ClaimRequest]):
    folder_store.put("log/notes.txt", b"hello")

    with pytest.raises(DamagedHistory, match=r"log/notes.txt does not belong"):
        claimed(folder_store, request_of())
