"""Every file under examples/ is valid, and shows what it says."""

from pathlib import Path

import pytest

from sam3ft_api.convert import to_training_config
from sam3ft_api.yaml import load_finetune
from sam3ft_launch.prepare import load

EXAMPLES = Path(__file__).parents[3] / "examples"
FILES = sorted(EXAMPLES.glob("*.yaml"))


def test_the_examples_are_found():
    assert {"blood-cells", "segmentation", "s3-and-gpus"} == {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_becomes_a_config_document(path: Path):
    prepared = load(path, assignments=())

    assert prepared.config.data.uri is not None
    assert prepared.config.scratch.train_batch_size >= 1


def test_the_demo_is_local_small_and_finds_its_images():
    config = load(EXAMPLES / "blood-cells.yaml", assignments=()).config

    assert "preset:tiny" == config.model.uri
    assert str(EXAMPLES / "blood-cells") == config.data.uri
    assert {"train", "test"} <= {path.name for path in (EXAMPLES / "blood-cells").iterdir()}


def test_the_segmentation_example_trains_masks():
    config = load(EXAMPLES / "segmentation.yaml", assignments=()).config

    assert "segmentation" == config.task
    assert "segm_AP" == config.evaluation.metric


def test_the_cluster_example_is_one_that_pods_can_run():
    finetune = load_finetune(EXAMPLES / "s3-and-gpus.yaml")

    config = to_training_config(finetune, backend="kubernetes")

    assert finetune.spec.workers.gpus_per_node * (finetune.spec.workers.max_nodes or 0) <= 64
    assert "s3://runs/aerial-vehicles" == config.checkpoint.uri
