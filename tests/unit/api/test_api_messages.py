"""Messages between launcher and coordinator: exact round trips, and refusal of everything else."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam3ft_api import limits, messages
from sam3ft_api.exit_codes import EXIT_RULES, ExitCode
from sam3ft_api.messages import (
    Complete,
    Done,
    Down,
    Heartbeat,
    Hello,
    Leave,
    MalformedMessage,
    Pong,
    Ready,
    Refused,
    Regroup,
    Round,
    Stop,
    Verdict,
    decode_from_coordinator,
    decode_from_launcher,
    encode,
)
from sam3ft_api.worker import STEP_BOUNDS_S, Progress

TOKEN = "0123456789abcdef" * 4
HELLO = Hello(
    node="run-1-0", slot=0, instance="i", started_unix_s=1.5, attempt=1, token=TOKEN, addr="10.0.0.1",
    round=3, members=("run-1-0", "run-1-1"),
)  # fmt: skip
FROM_LAUNCHER = (
    HELLO,
    Heartbeat(seq=1, round=3, step=10, commit_step=5, progress=Progress(state="training", loss=1.5)),
    Down(round=3, code=1, message="boom", rank=2),
    Ready(addr="fe80::1%eth0", port=29500, code=16, micro_batch_max=2),
    Verdict(code=11, message="no images", node="run-1-0", rank=0),
    Leave(commit_step=7, reason="evicted"),
    Done(step=9, complete=True, metrics={"bbox_AP": 0.5}),
)
FROM_COORDINATOR = (
    Pong(seq=1, round=3),
    Round(
        round=4, node_rank=1, first_rank=2, world_size=4, master_addr="h", master_port=1,
        members=("a", "b"), micro_batch_max=1,
    ),
    Stop(round=4, reason="lost b"),
    Regroup(round=4),
    Verdict(code=21),
    Complete(),
    Refused(reason="attempt 2 runs"),
)  # fmt: skip


def line(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize("message", FROM_LAUNCHER, ids=lambda message: message.type)
def test_a_launchers_message_survives_the_wire(message: messages.LauncherMessage) -> None:
    wire = encode(message)

    assert (wire.count(b"\n"), wire[-1:]) == (1, b"\n")
    assert message == decode_from_launcher(wire)


@pytest.mark.parametrize("message", FROM_COORDINATOR, ids=lambda message: message.type)
def test_a_coordinators_message_survives_the_wire(message: messages.CoordinatorMessage) -> None:
    assert message == decode_from_coordinator(encode(message))


@pytest.mark.parametrize("message", [m for m in FROM_LAUNCHER if m.type != "verdict"], ids=lambda message: message.type)
def test_a_message_of_the_other_direction_is_refused(message: messages.LauncherMessage) -> None:
    with pytest.raises(MalformedMessage, match="unknown type of message"):
        decode_from_coordinator(encode(message))


@pytest.mark.parametrize(
    ("wire", "words"),
    [
        (b"", "line: Invalid JSON"),
        (b"\xff\xfe", "line: Invalid JSON"),
        (b"[]", "line: Input should be an object"),
        (b"{}", "line: Unable to extract tag"),
        (line(type="hb", seq="1"), "hb.seq: Input should be a valid integer"),
        (line(type="hb", seq=True), "hb.seq: Input should be a valid integer"),
        (line(type="hb", seq=1.5), "hb.seq: Input should be a valid integer"),
        (line(type="hb", seq=0), "hb.seq: Input should be greater than or equal to 1"),
        (line(type="hb", seq=1, extra=2), "hb.extra: Extra inputs are not permitted"),
        (line(type="leave", v=2), "leave.v: Input should be 1"),
        (line(type="verdict", code=20), "a verdict's code is one of"),
        (line(type="ready", addr="a b", port=1), "ready.addr: String should match pattern"),
        (line(type="ready", addr="a", port=65536), "ready.port: Input should be less than or equal to 65535"),
        (b'{"type":"done","step":1,"metrics":{"a":"1"}}', "done.metrics.a: Input should be a valid number"),
    ],
)  # fmt: skip
def test_a_malformed_line_is_named_by_its_field(wire: bytes, words: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        decode_from_launcher(wire)

    assert words in str(caught.value)


def test_figures_of_a_later_version_are_left_out_and_end_no_connection() -> None:
    steps = {"counts": [0] * (len(STEP_BOUNDS_S) + 1), "total_s": 0.0, "later": 1}
    figures = {"grad_norm": 1.5, "steps": steps, "ranks": [{"rank": 0, "later": 1}], "later": {"a": 1}}
    told = {"state": "training", "step": 3, "total_steps": 9, "figures": figures, "later": 1}

    heartbeat = decode_from_launcher(line(type="hb", seq=1, progress=told))

    assert isinstance(heartbeat, messages.Heartbeat)
    assert heartbeat.progress is not None
    assert heartbeat.progress.figures is not None
    assert (3, 1.5) == (heartbeat.progress.step, heartbeat.progress.figures.grad_norm)
    assert b"later" not in encode(heartbeat)


def test_sinks_and_intervals_of_a_later_version_are_left_out() -> None:
    sent = {"sent": 1, "lost": 0}
    figures = {
        "steps": {"counts": [0] * (len(STEP_BOUNDS_S) + 2), "total_s": 0.0},
        "sinks": {"later": sent, "otlp": sent},
    }
    told = {"state": "training", "step": 3, "total_steps": 9, "figures": figures}

    heartbeat = decode_from_launcher(line(type="hb", seq=1, progress=told))

    assert isinstance(heartbeat, messages.Heartbeat)
    assert heartbeat.progress is not None
    assert heartbeat.progress.figures is not None
    assert (None, ["otlp"]) == (heartbeat.progress.figures.steps, list(heartbeat.progress.figures.sinks))


def test_a_refused_hello_never_shows_its_token() -> None:
    wire = encode(HELLO).replace(b'"slot":0', b'"slot":"0"')

    with pytest.raises(MalformedMessage) as caught:
        decode_from_launcher(wire)

    assert TOKEN not in str(caught.value)
    assert caught.value.__cause__ is None
    assert TOKEN not in repr(HELLO)


def test_a_line_beyond_the_limit_is_refused_unread() -> None:
    with pytest.raises(MalformedMessage, match=f"exceeds {limits.MAX_LINE_BYTES}"):
        decode_from_launcher(b" " * (limits.MAX_LINE_BYTES + 1))


def test_the_longest_round_fits_a_line() -> None:
    members = tuple(f"{i:04d}".rjust(63, "a") for i in range(limits.MAX_NODES))
    message = Round(
        round=limits.MAX_ROUND, node_rank=1023, first_rank=16383, world_size=16384, master_addr="a" * 253,
        master_port=65535, members=members,
    )  # fmt: skip

    assert message == decode_from_coordinator(encode(message))


@pytest.mark.parametrize("members", [(), ("other",)])
def test_a_hello_that_trains_is_among_its_members(members: tuple[str, ...]) -> None:
    fields = HELLO.model_dump() | {"members": members}

    with pytest.raises(ValueError, match="member"):
        Hello.model_validate(fields)


@pytest.mark.parametrize("change", [{"node_rank": 2}, {"first_rank": 4}, {"members": ("a", "a")}])
def test_a_round_with_ranks_outside_is_refused(change: dict[str, Any]) -> None:
    fields = FROM_COORDINATOR[1].model_dump() | change

    with pytest.raises(ValueError, match=r"lie inside|member once"):
        Round.model_validate(fields)


def test_every_user_code_can_be_a_verdict() -> None:
    verdicts = {code for code, rule in EXIT_RULES.items() if rule.is_verdict}

    assert verdicts <= messages.VERDICT_CODES
    assert not {ExitCode.SUCCEEDED, ExitCode.INTERRUPTED, ExitCode.REGROUP} & messages.VERDICT_CODES


@given(wire=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_a_message_or_malformed_and_nothing_else(wire: bytes) -> None:
    for decode in (decode_from_launcher, decode_from_coordinator):
        try:
            decode(wire)
        except MalformedMessage as error:
            assert str(error)  # noqa: PT017 - either outcome is fine, any other exception is not


def test_numbers_that_json_does_not_have_become_none_or_are_left_out() -> None:
    progress = Progress(state="training", loss=float("nan"), metrics={"bbox_AP": 0.5, "segm_AP": float("nan")})

    assert progress == decode_from_launcher(encode(Heartbeat(seq=1, progress=progress))).progress  # type: ignore[union-attr]
    assert (None, {"bbox_AP": 0.5}) == (progress.loss, progress.metrics)
