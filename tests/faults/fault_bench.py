"""What the fault tests share: a small data set, a run of the smallest preset, and what is compared at its end."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from sam3ft_trainer.store.access import Access
from sam3ft_trainer.store.log import CommitLog
from sam3ft_trainer.store.uri import open_store

EXAMPLE = Path(__file__).parents[2] / "examples" / "blood-cells"
ATTEMPT_TIMEOUT_S = 600


@dataclass
class Bench:
    """A spec that is run several times in different circumstances.

    Attributes:
        folder: everything lies below it.
        data: address of the data set.
        steps: of the run.
        batch: global batch.
        every: steps between commits.
        processes: of `sam3ft run`.
        score_every: epochs between evaluations.
        restarts: allowed by the failure policy.
        checkpoint: address of the checkpoints, `{name}` in it the run's; empty is the run's folder.
        runtime: further settings of `runtime`.
        more: further fields of the spec, by dotted path.
    """

    folder: Path
    data: str
    steps: int = 12
    batch: int = 3
    every: int = 2
    processes: int = 2
    score_every: int = 3
    restarts: int = 50
    checkpoint: str = ""
    runtime: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)

    def spec(self, name: str) -> Path:
        """Write the spec of a run and return its path."""
        runtime = {"threads": 1, "micro_batch": 1, "trace_samples": True, "log_every": 1, "tensorboard": False}
        spec: dict[str, Any] = {
            "task": "detection",
            "model": {"uri": "preset:tiny-nano"},
            "data": {"uri": self.data},
            "training": {
                "maxSteps": self.steps,
                "globalBatchSize": self.batch,
                "learningRate": 0.001,
                "precision": "fp32",
                "resolution": 28,
                "config": {"runtime": runtime | self.runtime},
            },
            "workers": {"nodes": 1, "gpusPerNode": 1},
            "checkpoint": {"everySteps": self.every, "everySeconds": 600, "keepLast": 3},
            "evaluation": {"everyEpochs": self.score_every, "baseline": False},
            "failurePolicy": {"maxRestarts": self.restarts, "windowSeconds": 3600, "maxWithoutProgress": 20},
        }
        if self.checkpoint:
            spec["checkpoint"]["uri"] = self.checkpoint.format(name=name)
        for dotted, value in self.more.items():
            *parents, last = dotted.split(".")
            section = spec
            for parent in parents:
                section = section.setdefault(parent, {})
            section[last] = value
        document = {"apiVersion": "sam3ft.dev/v1alpha1", "kind": "SAM3FineTune", "metadata": {"name": "faults"}}
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps(document | {"spec": spec}, indent=1))  # JSON is YAML
        return path

    def start(self, name: str, environment: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
        """Start `sam3ft run` in the run's folder and return at once; output is collected."""
        command = [str(Path(sys.executable).with_name("sam3ft")), "run", str(self.spec(name))]
        command += ["--run-dir", str(self.folder / name), "--nproc", str(self.processes)]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**(os.environ if environment is None else environment), "COLUMNS": "200"},
            start_new_session=True,
        )

    def run(self, name: str, environment: Mapping[str, str] | None = None) -> "Ended":
        """Run to the end."""
        process = self.start(name, environment)
        try:
            output, _ = process.communicate(timeout=ATTEMPT_TIMEOUT_S)
        except BaseException:  # a time-out, or Ctrl-C: the run is in a session of its own and would go on
            kill_whole_run(process)
            raise
        return Ended(process.returncode, output.decode(errors="replace"), self.folder / name)


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        code: exit code of the command.
        output: of the command.
        folder: of the run.
    """

    code: int
    output: str
    folder: Path

    @property
    def log(self) -> str:
        """What launcher and ranks have written."""
        parts = [self.folder / "work/run.log", *sorted((self.folder / "work/logs").glob("*"))]
        return "\n".join(path.read_text(errors="replace") for path in parts if path.exists())

    @property
    def ends(self) -> list[str]:
        """The launcher's sentences on workers that ended early, in order."""
        lines = (self.folder / "work/run.log").read_text(errors="replace").splitlines()
        return [line for line in lines if line.startswith("launcher: rank ")]

    def succeeded(self) -> "Ended":
        """Return itself; fails with the output otherwise."""
        assert self.code == 0, self.output[-4000:] + self.log[-4000:]
        return self

    def state(self, step: int) -> dict[str, str]:
        """The hashes of the state that was committed at a step, for a run whose checkpoints lie in its folder."""
        return state_hashes(str(self.folder / "checkpoints"), step)

    def weights(self) -> bytes:
        """The exported model's bytes."""
        return (self.folder / "model/model.safetensors").read_bytes()


@dataclass(frozen=True)
class Undisturbed:
    """A run from its first step to its last.

    Attributes:
        bench: the spec it was made from.
        ended: how it ended.
    """

    bench: Bench
    ended: Ended

    def commit_cursors(self) -> dict[int, int]:
        """Images used so far by the step of each commit."""
        commits = CommitLog(open_store(str(self.ended.folder / "checkpoints"))).read().commits
        return {commit.meta.step: int(commit.meta.cursor["images"]) for commit in commits}  # type: ignore[arg-type]


def make_data(folder: Path, images: int = 12) -> Path:
    """Make a data set of the example's first images; one or two will be held out."""
    document = json.loads((EXAMPLE / "train/_annotations.coco.json").read_text())
    document["images"] = document["images"][:images]
    kept = {image["id"] for image in document["images"]}
    document["annotations"] = [item for item in document["annotations"] if item["image_id"] in kept]
    (folder / "train").mkdir(parents=True)
    for image in document["images"]:
        shutil.copy(EXAMPLE / "train" / image["file_name"], folder / "train")
    (folder / "train/_annotations.coco.json").write_text(json.dumps(document))
    return folder


def family(process: "subprocess.Popen[Any]") -> list[psutil.Process]:
    """The process and all below it that live."""
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill_whole_run(process: "subprocess.Popen[Any]") -> None:
    """Kill -9 everything of a run, and see it gone."""
    members = family(process)
    for member in members:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(members, timeout=30)
    assert alive == []


def traced(*folders: Path) -> Iterator[dict[str, Any]]:
    """Every line of the sample traces below the folders; the last line before a kill may be torn."""
    for folder in folders:
        for path in sorted(folder.rglob("samples-rank-*.jsonl")):
            for line in path.read_text().splitlines():
                try:
                    yield json.loads(line)
                except ValueError:
                    continue


def assert_each_image_of_each_epoch_once(
    *folders: Path, steps: int, world_size: int | None = None
) -> dict[int, tuple[int, ...]]:
    """Judge the traces of all nodes of a run: a repeated step used the same images, and no image is missed or repeated.

    Args:
        folders: of the nodes.
        steps: of the run.
        world_size: ranks, where it never changed: each image of a step has one of them, and all have left traces.

    Returns:
        The sorted images of each step.
    """
    images_of: dict[int, dict[int, set[int]]] = {}
    epoch_of: dict[int, int] = {}
    for record in traced(*folders):
        shares = images_of.setdefault(record["step"], {})
        for image_id in record["image_ids"]:
            shares.setdefault(image_id, set()).add(record["rank"])
        assert epoch_of.setdefault(record["step"], record["epoch"]) == record["epoch"]
    assert list(range(steps)) == sorted(images_of)
    if world_size is not None:
        assert {1} == {len(ranks) for shares in images_of.values() for ranks in shares.values()}
        assert set(range(world_size)) == set().union(*(r for shares in images_of.values() for r in shares.values()))
    counts = Counter((epoch_of[step], image) for step, images in images_of.items() for image in images)
    assert set(counts.values()) == {1}, "an image was used by two steps of one epoch"
    everything = {image for epoch, image in counts if epoch == 0}
    for epoch in range(max(epoch_of.values())):
        assert everything == {image for other, image in counts if other == epoch}
    return {step: tuple(sorted(images)) for step, images in images_of.items()}


def state_hashes(address: str, step: int, *, access: Access | None = None) -> dict[str, str]:
    """Hash of every file of the commit of a step, by its name: the whole state, optimizer and averages included."""
    commits = CommitLog(open_store(address, access=access)).read().commits
    entry = next(entry for entry in reversed(commits) if entry.meta.step == step)
    return {file.key.rpartition("/")[2]: file.xxh3_128 for file in entry.files}
