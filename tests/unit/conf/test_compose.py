import pytest

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.conf.compose import compose_config


def test_the_groups_without_overrides_are_the_contracts_defaults() -> None:
    assert compose_config() == TrainingConfig()


def test_upstreams_keys_work_as_overrides() -> None:
    config = compose_config(["scratch.enable_segmentation=true", "scratch.resolution=504", "optim.lr=1e-5"])

    assert config.task == "segmentation"
    assert (config.scratch.resolution, config.optim.lr) == (504, 1e-5)


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("model=frozen_text", ("model.freeze", ("text",))),
        ("model=sam3", ("model.uri", "hf://facebook/sam3")),
        ("loss=odinw", ("loss.pos_weight", 5.0)),
        ("scratch=odinw", ("scratch.max_data_epochs", 40)),
        ("augment=flips", ("augment.quarter_turns", True)),
        ("augment=small_objects", ("augment.tiles", 2)),
    ],
)
def test_each_shipped_alternative_composes(group: str, expected: tuple[str, object]) -> None:
    config = compose_config([group])

    path, value = expected
    section, key = path.split(".")
    assert getattr(getattr(config, section), key) == value


def test_a_category_gets_its_phrases() -> None:
    config = compose_config(["+data.phrases.cell=[red cell, erythrocyte]"])

    assert config.data.phrases == {"cell": ("red cell", "erythrocyte")}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("scratch.resolutoin=28", "did you mean scratch.resolution"),
        ("nonsense=1", "names no setting"),
        ("optim.lr=fast", "optim.lr = fast"),
        ("scratch.resolution=5", "greater than or equal to 28"),
        ("scratch.resolution=100", "multiple of the patch size 14"),
        ("model.uri=${oc.env:HOME}", r"contains '\$\{'"),
        ("+model._target_=os.system", "contains '_target_'"),
        ("evaluation.metric=segm_AP", "needs masks"),
        ("model=none_such", "cannot be composed|names no setting"),
        ("[[", "names no setting|cannot be composed"),
    ],
)
def test_a_wrong_override_is_refused_with_10_and_says_what_to_do(override: str, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message) as caught:
        compose_config([override])

    assert caught.value.code == 10
