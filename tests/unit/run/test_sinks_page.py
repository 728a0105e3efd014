"""docs/sinks.md: its tables are those of the code, its profile and its policy are what they say."""

import re
from pathlib import Path

from objects_bench import rendered

from sam3ft_api.profiles import parse_worker_profiles
from sam3ft_api.sinks import SECRETS, VARIABLES
from sam3ft_api.training import TrainingConfig
from sam3ft_api.yaml import read_yaml
from sam3ft_trainer.run.sinks.feed import CAPACITY, MAX_PAUSE_S
from sam3ft_trainer.run.sinks.otlp_sink import CURVES, SCORE, STEP, TERM
from sam3ft_trainer.run.sinks.sinks import CLOSE_S, MAX_SETTING_CHARS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/sinks.md").read_text()


def example(mark: str, language: str = "yaml") -> str:
    (text,) = re.findall(rf"<!-- executed by a test: {mark} -->\n\n```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(text)


def test_the_page_names_every_variable_beside_its_sink() -> None:
    short = {"MLFLOW_TRACKING_USERNAME": "_USERNAME", "MLFLOW_TRACKING_PASSWORD": "_PASSWORD"}
    for sink, names in VARIABLES.items():
        (row,) = re.findall(rf"^\| `{sink}` \|.*$", PAGE, re.MULTILINE)
        assert {short.get(name, name) for name in names} == set(re.findall(r"`(_?[A-Z][A-Z_]+)`", row.split("|")[3]))


def test_the_settings_of_the_page_are_a_document() -> None:
    settings = read_yaml(PAGE.split("```yaml\n")[1].split("```")[0], name="page").data["spec"]["training"]["config"]

    assert ("wandb", "mlflow", "otlp") == TrainingConfig.model_validate(settings).tracking.sinks


def test_the_profile_holds_addresses_of_sinks_and_no_secret() -> None:
    env = parse_worker_profiles(example("a profile"), name="page")["default"].env

    assert set(env) <= set().union(*VARIABLES.values()) - SECRETS
    assert 3 == len(env)


def test_the_policy_selects_the_workers_of_every_run_and_nobody_else() -> None:
    policy = read_yaml(example("a policy"), name="page").data["spec"]
    wanted = policy["podSelector"]["matchLabels"].items()
    pods = [
        item if item["kind"] == "Pod" else item["spec"]["template"]
        for item in rendered().objects
        if item["kind"] in {"Pod", "Job"}
    ]

    selected = [
        pod["metadata"]["labels"]["sam3ft.dev/role"] for pod in pods if wanted <= pod["metadata"]["labels"].items()
    ]
    assert ["worker"] == selected
    assert len(pods) > 1


def test_the_names_at_a_collector_are_the_instruments() -> None:
    rows = set(re.findall(r"^\| `(sam3ft\.curve\.\w+)` \| `(\{\w+\})` \|", PAGE, re.MULTILINE))

    assert {(it.name, it.unit) for it in (*CURVES.values(), STEP, TERM, SCORE)} == rows


def test_the_layer_of_the_page_has_the_versions_that_are_tested() -> None:
    lock = (ROOT / "requirements/dev.lock").read_text()
    named = re.findall(r"(wandb|mlflow-skinny)==([\d.]+)", PAGE)

    assert 2 == len(named)
    assert all(f"\n{name}=={version} " in lock for name, version in named)


def test_the_bounds_of_the_page_are_those_of_the_code() -> None:
    assert (1024, 300.0, 5.0, 500) == (CAPACITY, MAX_PAUSE_S, CLOSE_S, MAX_SETTING_CHARS)
    for words in ("a queue of 1,024 points", "to five minutes", "at most five seconds", "cut at 500 characters"):
        assert words in PAGE
