"""Exit codes, reference pages, names, limits, redaction, status and plan."""

import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sam3ft_api import errors, limits, names
from sam3ft_api.exit_codes import EXIT_RULES, ExitCode, rule_for
from sam3ft_api.fields import PATTERN_WORDS, seconds
from sam3ft_api.plan import JobPlan
from sam3ft_api.redact import redact, shown
from sam3ft_api.reference import main, pages
from sam3ft_api.status import Condition, ConditionType, Phase, SAM3FineTuneStatus
from sam3ft_api.training import TrainingConfig

DOCS = Path(__file__).parents[3] / "docs"
RUNS = st.from_regex(r"\A[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")
SUFFIXES = st.from_regex(r"\A[a-z0-9]{1,12}\Z")


def test_every_exit_code_has_a_rule_and_every_rule_a_reason_of_its_own() -> None:
    assert set(ExitCode) == set(EXIT_RULES)
    assert len(ExitCode) == len({rule.reason for rule in EXIT_RULES.values()})


def test_the_table_of_exit_codes_is_this_one() -> None:
    table = {int(code): (rule.is_verdict, rule.retry, rule.counts) for code, rule in EXIT_RULES.items()}

    verdict, free, counted, final = (True, False, False), (False, True, False), (False, True, True), (False,) * 3
    assert {
        0: final, 1: counted, **dict.fromkeys(range(10, 17), verdict), 20: free, 21: final, 22: free, 23: free,
        24: counted, 26: free, 137: counted, 143: free,
    } == table  # fmt: skip


@pytest.mark.parametrize(("code", "expected"), [(11, 11), (-9, 137), (-15, 143), (-11, 1), (2, 1), (255, 1), (0, 0)])
def test_any_code_has_a_rule(code: int, expected: int) -> None:
    assert EXIT_RULES[ExitCode(expected)] == rule_for(code)


def test_every_error_class_has_a_code_of_its_own() -> None:
    classes = [
        kind for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.Sam3ftError) and kind.code is not ExitCode.INTERNAL_ERROR
    ]  # fmt: skip

    assert {*range(10, 17), 20, 21, 22, 23, 24, 26, 143} == {int(kind.code) for kind in classes}
    assert len(classes) == len({kind.code for kind in classes})
    assert {kind.code for kind in classes if issubclass(kind, errors.UserError)} == {
        code for code, rule in EXIT_RULES.items() if rule.is_verdict
    }


@pytest.mark.parametrize("name", sorted(pages()))
def test_a_reference_page_is_what_the_models_generate(name: str) -> None:
    assert pages()[name] == (DOCS / name).read_text(), "run python -m sam3ft_api.reference docs/"


def test_the_pages_are_written_where_they_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main([str(tmp_path)])
    assert sorted(pages()) == sorted(path.name for path in tmp_path.iterdir())
    assert 2 == main([])
    assert "usage" in capsys.readouterr().err


def test_every_setting_is_documented() -> None:
    schema = TrainingConfig.model_json_schema()

    sections = [schema, *schema["$defs"].values()]
    fields = [(key, node) for part in sections for key, node in part["properties"].items()]
    # A group whose field repeats the sentence of its class has that sentence there.
    assert [] == [key for key, node in fields if not node.get("description") and "$ref" not in node]


def test_the_digest_of_the_numbers_changes_with_them_and_with_nothing_else() -> None:
    base = TrainingConfig().numbers_digest()

    def digest(**sections: Any) -> str:
        return TrainingConfig.model_validate(sections).numbers_digest()

    same: list[dict[str, Any]] = [
        {"checkpoint": {"uri": "s3://x/y", "keep_last": 7}}, {"runtime": {"threads": 2}}, {"identity": {"name": "b"}},
        {"data": {"uri": "/d", "train": {"images": "x"}, "on_change": "restartEpoch", "max_bad": 0.5}},
        {"model": {"uri": "s3://w"}}, {"export": {"uri": "/e"}}, {"evaluation": {"patience": 3}},
    ]  # fmt: skip
    other: list[dict[str, Any]] = [
        {"scratch": {"seed_value": 1}}, {"optim": {"lr": 1e-5}}, {"data": {"phrases": {"a": ["b"]}}},
        {"loss": {"weights": {"loss_ce": 1}}}, {"augment": {"crop": 0.1}}, {"model": {"freeze": ["text"]}},
    ]  # fmt: skip
    assert [base] * len(same) == [digest(**sections) for sections in same]
    assert len(other) + 1 == len({base, *(digest(**sections) for sections in other)})


@given(run=RUNS, suffix=SUFFIXES, other_run=RUNS, other_suffix=SUFFIXES)
def test_two_objects_never_share_a_name(run: str, suffix: str, other_run: str, other_suffix: str) -> None:
    name, other = names.object_name(run, suffix), names.object_name(other_run, other_suffix)

    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name)
    assert ((run, suffix) == (other_run, other_suffix)) == (name == other)


def test_long_names_that_differ_at_the_end_stay_apart() -> None:
    made = [names.worker_job_name("a" * 62 + end, attempt) for end in "xy" for attempt in (1, 2)]

    assert 4 == len(set(made))
    assert limits.MAX_JOB_NAME_CHARS == max(map(len, made))
    assert "a-1" == names.worker_job_name("a", 1)


def test_a_run_that_looks_like_a_shortened_one_does_not_take_its_name() -> None:
    long = "a" * 63
    stem = names.object_name(long, "x").removesuffix("-x")

    assert names.object_name(long, "x") != names.object_name(stem, "x")


def test_a_suffix_with_a_dash_or_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="a-z and 0-9"):
        names.object_name("run", "a-b")
    with pytest.raises(ValueError, match="leaves no room"):
        names.object_name("a" * 63, "b" * 52)


@pytest.mark.parametrize("make", [names.preflight_name, names.config_name, names.coordinator_name, names.token_name])
def test_child_names_fit_for_the_longest_run(make: Any) -> None:
    assert limits.MAX_NAME_CHARS >= len(make("a" * 63))


def test_a_slurm_name_tells_replacements_apart() -> None:
    uid = "0A1B2C3D-4e5f-6071-8293-a4b5c6d7e8f9"

    assert "sft-0a1b2c3d4e5f6071-2-0-0" == names.slurm_job_name(uid, 2)
    assert names.slurm_job_name(uid, 2, slot=1) != names.slurm_job_name(uid, 2, slot=1, generation=1)
    assert names.slurm_job_name("local", 1) != names.slurm_job_name("other", 1)


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("30m", 1800), ("12h", 43_200), ("3d", 259_200)])
def test_durations_have_one_unit(text: str, expected: int) -> None:
    assert expected == seconds(text)


@pytest.mark.parametrize("text", ["", "12", "1h30m", "0s", "-1h", "1.5h", "12H", "12h\n"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="90s, 30m, 12h or 3d"):
        seconds(text)


@pytest.mark.parametrize("pattern", PATTERN_WORDS)
def test_patterns_mean_the_same_in_every_engine(pattern: str) -> None:
    assert not re.search(r"\\[sdwbSDWB]|\(\?", pattern)
    assert pattern.startswith("^")
    assert pattern.endswith("$")


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("s3://KEY:hunter22@host/x", "hunter22"),
        ("https://h/x?X-Amz-Signature=abcdef&X-Amz-Date=1", "abcdef"),
        ("AWS_SECRET_ACCESS_KEY=abc123 next", "abc123"),
        ("password: hunter22", "hunter22"),
        ("key AKIAABCDEFGHIJKLMNOP", "AKIAABCDEFGHIJKLMNOP"),
        ("hf_abcdefghijklmnopqrst", "hf_abcdefghijklmnopqrst"),
        ("Authorization: Bearer abcdef123456", "abcdef123456"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.c2ln", "eyJzdWIiOiIx"),
    ],
)
def test_credentials_are_taken_out(text: str, gone: str) -> None:
    assert gone not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize("text", ["s3://models/sam3", "12h", "tokens per phrase", "loss 0.5, step 3", "a:b@c"])
def test_plain_text_stays(text: str) -> None:
    assert text == redact(text)


def test_values_are_shown_on_one_short_line() -> None:
    assert ["true", "null", "'a b'", "1e-05"] == [shown(value) for value in (True, None, "a b", 1e-5)]
    assert 80 == len(shown("x" * 500))
    assert "\n" not in shown({"a": "b\nc"})


def test_a_status_is_written_as_kubernetes_writes_it() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 999, tzinfo=timezone(timedelta(hours=1)))
    condition = Condition.model_validate(
        {"type": "Ready", "status": "True", "reason": "Complete", "lastTransitionTime": moment}
    )
    status = SAM3FineTuneStatus(phase=Phase.RUNNING, conditions=(condition,))

    document = status.model_dump(mode="json", exclude_none=True)

    assert "2026-01-02T02:04:05Z" == document["conditions"][0]["lastTransitionTime"]
    assert status.conditions[0].last_transition_time.astimezone(UTC).replace(microsecond=0) == (
        SAM3FineTuneStatus.model_validate(document).conditions[0].last_transition_time
    )
    assert ConditionType.READY == status.conditions[0].type


def test_a_status_of_a_newer_version_is_still_read() -> None:
    assert Phase.FAILED == SAM3FineTuneStatus.model_validate({"phase": "Failed", "invented": {"later": 1}}).phase
    assert [Phase.SUCCEEDED, Phase.FAILED] == [phase for phase in Phase if phase.is_final]


def plan(**fields: Any) -> JobPlan:
    base = {"name": "run", "uid": "u", "backend": "local", "config": TrainingConfig()}
    return JobPlan.model_validate(base | fields)


def test_a_plan_survives_json() -> None:
    made = plan(nodes=2, max_nodes=2, placement={"resources": {"cpu": 8}, "tolerations": [{"key": "a"}]})

    assert made == JobPlan.model_validate_json(made.model_dump_json())
    assert (2, "8") == (made.world_size, made.placement.resources["cpu"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"nodes": 2}, "nodes 2 is not within 1 to 1"),
        ({"processes_per_node": 3}, "3 processes cannot share a global batch of 2 images"),
        ({"attempt": 0}, "greater than or equal to 1"),
        ({"bogus": 1}, "Extra inputs"),
    ],
)
def test_a_plan_that_cannot_run_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        plan(**fields)
