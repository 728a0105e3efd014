"""What launchers and the coordinator say to each other: one JSON object a line, over one connection per launcher.

Every message carries `v` (protocol version) and `type`. Reading is strict: unknown keys, wrong types, unknown versions,
non-finite numbers and lines beyond `MAX_LINE_BYTES` raise `MalformedMessage`, and a reader closes the connection. Only
inside of `progress`, which is told and never obeyed, unknown keys are left out: a later version may have more figures.
No value that was read is ever quoted in an error, because a line may hold the attempt's token.

    launcher to coordinator   hello, hb, down, ready, verdict, leave, done
    coordinator to launcher   pong, round, stop, regroup, verdict, complete, refused

A node is a slot of the run (`slot` 0, 1, ...) with a name; an instance is one launcher process. Two instances may claim
one slot when a pod was replaced while its node was silent: the newer one stays.
"""

from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from sam3ft_api import limits
from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.worker import Metrics, Progress, Sentence

NodeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]{0,251}[A-Za-z0-9])?$", max_length=253)]
HostAddress = Annotated[str, Field(pattern=r"^[0-9A-Za-z:.%_-]+$", min_length=1, max_length=253)]
Port = Annotated[int, Field(ge=1, le=65535)]
Slot = Annotated[int, Field(ge=0, lt=limits.MAX_NODES)]
AttemptNumber = Annotated[int, Field(ge=1, le=limits.MAX_ATTEMPT)]
RoundNumber = Annotated[int, Field(ge=0, le=limits.MAX_ROUND)]
Step = Annotated[int, Field(ge=0, le=limits.MAX_STEP)]
Members = Annotated[tuple[NodeName, ...], Field(max_length=limits.MAX_NODES)]

VERDICT_CODES = frozenset(
    {
        ExitCode.INTERNAL_ERROR,
        ExitCode.INVALID_CONFIG,
        ExitCode.INVALID_DATASET,
        ExitCode.MODEL_UNUSABLE,
        ExitCode.STORAGE_DENIED,
        ExitCode.CHECKPOINT_INCOMPATIBLE,
        ExitCode.NON_FINITE_LOSS,
        ExitCode.OUT_OF_MEMORY,
        ExitCode.FENCED,
        ExitCode.STORAGE_UNAVAILABLE,
        ExitCode.HUNG,
    }
)
"""Codes that may end every member: the user's (10-16), 21, and 1, 22 and 24 once their budget is spent."""


class MalformedMessage(ValueError):
    """A line that is no message of this protocol; the text names what is wrong and quotes nothing that was read."""


class _Message(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )

    v: Literal[1] = 1


class Hello(_Message):
    """A launcher introduces itself; first message of every connection, also after a reconnection.

    Attributes:
        node: name of the node; unique in the run, and the same for a replacement of the same slot.
        slot: index of the node in the run, from 0; ranks follow the slots, so the order is numeric.
        instance: identifies this launcher process; another one on the same slot is a replacement.
        started_unix_s: wall clock at which this instance began; decides between two instances of one slot
            when the coordinator has seen neither before.
        attempt: attempt this launcher belongs to; another number than the coordinator's is refused.
        token: secret of the attempt, compared in constant time; never printed.
        addr: address at which the other nodes reach this one's workers.
        processes: worker processes on this node.
        round: round this node trains in now; 0 when it has not trained or its workers are stopped.
        members: names of the nodes of that round, in rank order; empty with round 0.
        past_round: newest round this launcher took part in, running or not; 0 before any. A coordinator that was
            restarted learns from it that the run has begun, so nobody waits for the nodes of a first start.
    """

    type: Literal["hello"] = "hello"
    node: NodeName
    slot: Slot
    instance: Annotated[str, Field(min_length=1, max_length=128)]
    started_unix_s: Annotated[float, Field(ge=0, strict=False)]
    attempt: AttemptNumber
    token: Annotated[str, Field(min_length=limits.MIN_TOKEN_CHARS, max_length=limits.MAX_TOKEN_CHARS, repr=False)]
    addr: HostAddress
    processes: Annotated[int, Field(ge=1, le=limits.MAX_GPUS_PER_NODE)] = 1
    round: RoundNumber = 0
    members: Members = ()
    past_round: RoundNumber = 0

    @model_validator(mode="after")
    def _members_belong_to_a_round(self) -> Self:
        if (self.round == 0) != (not self.members):
            raise ValueError("round 0 has no members, and every other round has some")
        if self.members and self.node not in self.members:
            raise ValueError("a node that trains is a member of its round")
        return self


class Heartbeat(_Message):
    """A launcher is alive; sent every second.

    Attributes:
        seq: counts up from 1 on every connection; the answer repeats it.
        round: round in which the workers run, 0 when none run.
        step: last finished optimizer step of this node's workers.
        commit_step: step of the newest commit that this node knows of.
        restarts: starts of the workers in this container beyond the first.
        progress: content of `progress.json`, from the launcher of rank 0 alone, when it has changed.
    """

    type: Literal["hb"] = "hb"
    seq: Annotated[int, Field(ge=1)]
    round: RoundNumber = 0
    step: Step = 0
    commit_step: Step | None = None
    restarts: Annotated[int, Field(ge=0)] = 0
    progress: Progress | None = None


class Down(_Message):
    """A worker of this node has failed and `ready` follows, perhaps after a pause: the others need not wait for it.

    Attributes:
        round: round in which it ran.
        code: exit code of the first failure.
        message: first failure on this node, for people.
        rank: global rank that failed first.
        commit_step: step of the newest commit that this node knows of.
    """

    type: Literal["down"] = "down"
    round: RoundNumber
    code: Annotated[int, Field(ge=0, le=255)]
    message: Sentence = ""
    rank: Annotated[int, Field(ge=0, lt=limits.MAX_WORLD_SIZE)] | None = None
    commit_step: Step | None = None


class Ready(_Message):
    """This node's workers are stopped and it waits for a round; it is no member of the running one.

    Attributes:
        addr: address that the other nodes use if this one becomes rank 0.
        port: free port on that address for rank 0's process group.
        micro_batch_max: bound of images per forward pass after a device ran out of memory; None without a bound.
        code: exit code that ended the workers; None before the first start, and after `stop`.
        message: first failure on this node, for people.
        rank: global rank that failed first; None when none did.
        commit_step: step of the newest commit that this node knows of.
    """

    type: Literal["ready"] = "ready"
    addr: HostAddress
    port: Port
    micro_batch_max: Annotated[int, Field(ge=1)] | None = None
    code: Annotated[int, Field(ge=0, le=255)] | None = None
    message: Sentence = ""
    rank: Annotated[int, Field(ge=0, lt=limits.MAX_WORLD_SIZE)] | None = None
    commit_step: Step | None = None


class Verdict(_Message):
    """End the run with this code, both ways: the first one wins and is repeated to everyone and to later hellos.

    Attributes:
        code: one of `VERDICT_CODES`; every launcher exits with it.
        message: why, for people.
        node: where it happened; empty when the coordinator itself decided.
        rank: global rank that failed; None when no rank did.
        step: last finished optimizer step there.
    """

    type: Literal["verdict"] = "verdict"
    code: int
    message: Sentence = ""
    node: NodeName | Literal[""] = ""
    rank: Annotated[int, Field(ge=0, lt=limits.MAX_WORLD_SIZE)] | None = None
    step: Step = 0

    @model_validator(mode="after")
    def _code_ends_a_run(self) -> Self:
        if self.code not in VERDICT_CODES:
            raise ValueError(f"a verdict's code is one of {sorted(int(code) for code in VERDICT_CODES)}")
        return self


class Leave(_Message):
    """This node goes and saved before; its absence is no loss.

    Attributes:
        commit_step: step that it committed; None when there was nothing to save.
        reason: for people.
    """

    type: Literal["leave"] = "leave"
    commit_step: Step | None = None
    reason: Sentence = ""


class Done(_Message):
    """All workers of this node ended with 0.

    Attributes:
        step: last optimizer step.
        complete: the final commit and the export are verified, so nobody needs to wait for stragglers.
        metrics: last evaluation, by name.
    """

    type: Literal["done"] = "done"
    step: Step = 0
    complete: bool = False
    metrics: Metrics = {}


class Pong(_Message):
    """The coordinator has heard the heartbeat `seq`; `round` is its present round, 0 before the first."""

    type: Literal["pong"] = "pong"
    seq: Annotated[int, Field(ge=1)]
    round: RoundNumber = 0


class Round(_Message):
    """Start the workers.

    Attributes:
        round: number of the round, 1 for the attempt's first, always growing.
        node_rank: place of the receiver among the members (torchrun's GROUP_RANK).
        first_rank: global rank of the receiver's first process.
        world_size: processes of all members together.
        master_addr: address of rank 0's node.
        master_port: port of rank 0's process group.
        members: names of the nodes in rank order.
        micro_batch_max: smallest bound that any member named; None without one.
        commit_step: step of the newest commit that the coordinator has heard of; None without one.
    """

    type: Literal["round"] = "round"
    round: Annotated[int, Field(ge=1, le=limits.MAX_ROUND)]
    node_rank: Slot
    first_rank: Annotated[int, Field(ge=0, lt=limits.MAX_WORLD_SIZE)]
    world_size: Annotated[int, Field(ge=1, le=limits.MAX_WORLD_SIZE)]
    master_addr: HostAddress
    master_port: Port
    members: Annotated[tuple[NodeName, ...], Field(min_length=1, max_length=limits.MAX_NODES)]
    micro_batch_max: Annotated[int, Field(ge=1)] | None = None
    commit_step: Step | None = None

    @model_validator(mode="after")
    def _ranks_are_inside(self) -> Self:
        if self.node_rank >= len(self.members) or self.first_rank >= self.world_size:
            raise ValueError("node_rank and first_rank lie inside members and world_size")
        if len(set(self.members)) != len(self.members):
            raise ValueError("a node is a member once")
        return self


class Stop(_Message):
    """A member is lost or has left `round`: kill the workers of that round now, then send `ready`."""

    type: Literal["stop"] = "stop"
    round: RoundNumber
    reason: Sentence = ""


class Regroup(_Message):
    """Somebody waits to join `round`: raise the workers' flag, so that they save at the next step boundary and end."""

    type: Literal["regroup"] = "regroup"
    round: RoundNumber
    reason: Sentence = ""


class Complete(_Message):
    """The run is finished: exit with 0, whatever the own workers were about to do."""

    type: Literal["complete"] = "complete"


class Refused(_Message):
    """The coordinator closes this connection; the launcher logs the reason and tries again later.

    An instance that was replaced gets a `verdict` with code 21 instead.
    """

    type: Literal["refused"] = "refused"
    reason: Sentence


LauncherMessage = Hello | Heartbeat | Down | Ready | Verdict | Leave | Done
"""What a launcher may send."""
CoordinatorMessage = Pong | Round | Stop | Regroup | Verdict | Complete | Refused
"""What the coordinator may send."""

_FROM_LAUNCHER: TypeAdapter[LauncherMessage] = TypeAdapter(Annotated[LauncherMessage, Field(discriminator="type")])
_FROM_COORDINATOR: TypeAdapter[CoordinatorMessage] = TypeAdapter(
    Annotated[CoordinatorMessage, Field(discriminator="type")]
)


def encode(message: LauncherMessage | CoordinatorMessage) -> bytes:
    """Return the message as one JSON line with its newline.

    Raises:
        MalformedMessage: when the line would exceed `limits.MAX_LINE_BYTES`.
    """
    line = message.model_dump_json().encode() + b"\n"
    if len(line) > limits.MAX_LINE_BYTES:
        raise MalformedMessage(f"a {message.type} message of {len(line)} bytes exceeds {limits.MAX_LINE_BYTES}")
    return line


def decode_from_launcher(line: bytes) -> LauncherMessage:
    """Return the message that a launcher has sent.

    Args:
        line: one line, with or without its newline.

    Raises:
        MalformedMessage: for everything that is not exactly a `LauncherMessage` of this version.
    """
    return _decode(_FROM_LAUNCHER, line)


def decode_from_coordinator(line: bytes) -> CoordinatorMessage:
    """Return the message that the coordinator has sent.

    Args:
        line: one line, with or without its newline.

    Raises:
        MalformedMessage: for everything that is not exactly a `CoordinatorMessage` of this version.
    """
    return _decode(_FROM_COORDINATOR, line)


_MessageT = TypeVar("_MessageT")


def _decode(adapter: TypeAdapter[_MessageT], line: bytes) -> _MessageT:
    if len(line) > limits.MAX_LINE_BYTES:
        raise MalformedMessage(f"a line of {len(line)} bytes exceeds {limits.MAX_LINE_BYTES}")
    try:
        return adapter.validate_json(line)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        first = problems[0]
        path = ".".join(str(part) for part in first["loc"]) or "line"
        # pydantic quotes an unknown tag, and a confused peer might have put anything there.
        what = "unknown type of message" if first["type"] == "union_tag_invalid" else first["msg"]
        raise MalformedMessage(f"{path}: {what} (problems: {len(problems)})") from None
