"""A small data set, and a run of `preset:tiny-nano` on it with two commits, made without training."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.evaluate.scores import SplitScores
from sam3ft_trainer.model.freeze import freeze_parts
from sam3ft_trainer.model.load import LoadedModel, load_model
from sam3ft_trainer.model.text import PhraseCache
from sam3ft_trainer.run.ema import Ema
from sam3ft_trainer.run.facts import run_facts
from sam3ft_trainer.run.foundation import open_splits
from sam3ft_trainer.run.optim import build_optimizer
from sam3ft_trainer.run.selection import Selection
from sam3ft_trainer.run.state import LoopState
from sam3ft_trainer.run.tensors import all_tensors
from sam3ft_trainer.store.checkpoint import open_run_store
from sam3ft_trainer.store.exchange import LocalExchange
from sam3ft_trainer.store.records import CommitMeta

torch.set_num_threads(1)
SIDE = 56


def _write_split(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(count)
    images, annotations = [], []
    for number in range(1, count + 1):
        pixels = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": [5, 5, 30, 20]})
    categories = [{"id": 1, "name": "cell"}, {"id": 2, "name": "a category whose name is a long sentence"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "_annotations.coco.json").write_text(json.dumps(document))


@pytest.fixture(scope="session")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of train, two of test, two categories, one of which nothing has."""
    root = tmp_path_factory.mktemp("coco")
    _write_split(root / "train", 6)
    _write_split(root / "test", 2)
    return root


@pytest.fixture
def configured(coco: Path, tmp_path: Path) -> Callable[..., TrainingConfig]:
    """Return a function that makes a configuration; sections are merged into a small one."""

    def make(**sections: Any) -> TrainingConfig:
        base: dict[str, dict[str, Any]] = {
            "scratch": {"resolution": 28, "precision": "fp32", "train_batch_size": 2, "max_data_epochs": 4},
            "model": {"uri": "preset:tiny-nano"},
            "data": {"uri": str(coco), "holdout": 0.3},
            "runtime": {"device": "cpu", "threads": 1},
            "checkpoint": {"uri": str(tmp_path / "run")},
        }
        names = base.keys() | sections.keys()
        return TrainingConfig.model_validate({name: base.get(name, {}) | sections.get(name, {}) for name in names})

    return make


@dataclass(frozen=True)
class MadeRun:
    """A run with commits of steps 3 and 6: the first scored best; weights of step n are the initial ones plus n."""

    config: TrainingConfig
    initial: dict[str, torch.Tensor]
    document: Path

    def log(self) -> dict[str, bytes]:
        """The log as it lies on the disk."""
        return {path.name: path.read_bytes() for path in Path(str(self.config.checkpoint.uri), "log").iterdir()}


@pytest.fixture
def made_run(configured: Callable[..., TrainingConfig], tmp_path: Path) -> Callable[..., MadeRun]:
    """Return a function that makes such a run with these settings; `scored=False` leaves the scores out."""

    def make(*, scored: bool = True, **sections: Any) -> MadeRun:
        config = configured(**sections)
        document = tmp_path / "config.json"
        document.write_text(config.model_dump_json())
        loaded = load_model(config.model.uri, config.model, resolution=28, device="cpu", seed=123)
        initial = {name: tensor.clone() for name, tensor in loaded.sam3.state_dict().items()}
        _commit_steps(config, loaded, scored=scored)
        return MadeRun(config, initial, document)

    return make


def _commit_steps(config: TrainingConfig, loaded: LoadedModel, *, scored: bool) -> None:
    datasets = open_splits(config)
    freeze_parts(loaded.sam3, config.model.freeze, task=config.task, geometry_cls=config.model.geometry_cls)
    if "text" in config.model.freeze:
        PhraseCache(loaded.sam3, loaded.tokenizer).release_encoder()
    optimizer = build_optimizer(loaded.sam3, config.optim, fused=False)
    ema = None if config.optim.ema_decay is None else Ema(loaded.sam3, config.optim.ema_decay)
    facts = run_facts(config, loaded, datasets, attempt=1)
    store = open_run_store(config.checkpoint, config.identity, facts, rank=0, world_size=1, exchange=LocalExchange())
    tensors = all_tensors(loaded.sam3, optimizer, ema)
    store.restore(tensors)
    baseline = SplitScores(split="valid", images=2, metrics={"bbox_AP": 0.1, "bbox_AP75": None}, per_class=())
    for step, value in ((3, 0.5), (6, 0.4)):
        with torch.no_grad():
            for name, parameter in loaded.sam3.named_parameters():
                if parameter.requires_grad:
                    parameter.add_(3)
                    if ema is not None:
                        ema.tensors()[name].copy_(parameter + 100)
        best = Selection(metric="bbox_AP", best_value=0.5, best_step=3) if scored else Selection(metric="bbox_AP")
        state = LoopState(
            step=step,
            total_steps=6,
            selection=best,
            micro_batch=2,
            threads=1,
            world_size=1,
            baseline={"valid": baseline} if scored else {},
        )
        metrics = {"bbox_AP": value} if scored else {}
        meta = CommitMeta(step=step, metrics=metrics, extra=json.loads(state.model_dump_json()))
        store.save(tensors, meta, wait=True)
    store.close()
