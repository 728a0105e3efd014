"""The YAML reader: what is refused, and that every message names line, path, value and what is allowed."""

import re
from pathlib import Path

import pytest

from sam3ft_api import limits
from sam3ft_api.convert import to_training_config
from sam3ft_api.errors import InvalidConfig
from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.yaml import load_finetune, read_yaml

SPECS = Path(__file__).parents[2] / "assets/specs"
BASE = """\
apiVersion: sam3ft.dev/v1alpha1
kind: SAM3FineTune
metadata: {name: blood}
spec:
  model: {uri: "preset:tiny"}
  data: {uri: s3://datasets/blood}
"""
BOMB = "  a0: &a0 [1, 1]\n" + "".join(f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]\n" for i in range(1, 7))


def problem(text: str) -> str:
    """Return the message of the refusal, having made sure of its code."""
    with pytest.raises(InvalidConfig) as caught:
        load_finetune(text)
    assert ExitCode.INVALID_CONFIG == caught.value.code
    return str(caught.value)


def test_the_shipped_specs_load() -> None:
    minimal, full = load_finetune(SPECS / "minimal.yaml"), load_finetune(str(SPECS / "full.yaml"))

    assert ("minimal", 2) == (minimal.metadata.name, minimal.spec.training.global_batch_size)
    assert (8e-5, "12h", "32") == (
        full.spec.training.learning_rate, full.spec.training.max_duration, full.spec.workers.resources.cpu,
    )  # fmt: skip


def test_yaml_1_2_is_read_so_that_numbers_and_words_mean_what_they_look_like() -> None:
    data = read_yaml("a: 8e-5\nb: no\nc: 010\nd: 2026-01-02\ne: 12:30:00\nf: 1e3\ng: 20.0\nh: ~\n", name="x").data

    assert {"a": 8e-5, "b": "no", "c": 10, "d": "2026-01-02", "e": "12:30:00", "f": 1000, "g": 20, "h": None} == data
    assert isinstance(data["f"], int)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (
            "  workers: {gpuPerNode: 8}\n",
            ["line 7", "spec.workers.gpuPerNode", "unknown key", "value 8", "did you mean gpusPerNode?", "minNodes"],
        ),
        ("  workers: {gpus_per_node: 8}\n", ["spec.workers.gpus_per_node", "did you mean gpusPerNode?"]),
        ("  trainingg: {}\n", ["line 7", "spec.trainingg", "did you mean training?"]),
        ("  zzz: 1\n", ["spec.zzz", "known keys here: backend, task, model"]),
        (
            "  training:\n    epochs: 3\n    learningRate: '1e-5'\n",
            ["line 9", "spec.training.learningRate", "'1e-5'", "a number from 1e-09 to 1"],
        ),
        ("  training: {precision: bf32}\n", ["spec.training.precision", "'bf32'", "one of bf16, fp16, fp32"]),
        ("  training: {resolution: 1000}\n", ["1000", "an integer from 28 to 2016, a multiple of 14"]),
        ("  training: {maxSteps: 1.5}\n", ["spec.training.maxSteps", "1.5", "an integer from 1"]),
        ("  training: {freeze: text}\n", ["spec.training.freeze", "'text'", "a list of one of vision, text"]),
        ("  training: {freeze: [text, text]}\n", ["spec.training.freeze", "'text' stands in the list twice"]),
        ("  suspend: yes\n", ["spec.suspend", "'yes'", "true or false", "YAML 1.2"]),
        ("  suspend: 1\n", ["spec.suspend", "1 is not allowed", "true or false"]),
        ("  slurm: {site: a, account: 7}\n", ["spec.slurm.account", "7", "put it in quotes"]),
        ("  slurm: {site: a, timeLimit: 12:00:00}\n", ["spec.slurm.timeLimit", "'12:00:00'", "90s, 30m, 12h or 3d"]),
        ("  slurm: {}\n", ["spec.slurm.site", "is required"]),
        ("  failurePolicy: 3\n", ["spec.failurePolicy", "3", "a group with the keys maxRestarts"]),
        ("  workers: {resources: {cpu: 1.5}}\n", ["spec.workers.resources.cpu", "1.5", "an amount as Kubernetes"]),
        ("  workers: {nodeSelector: {a b: c}}\n", ["spec.workers.nodeSelector.a b", "a Kubernetes label"]),
        (
            "  workers:\n    tolerations:\n    - key: a\n      operatorr: Exists\n",
            ["line 10", "spec.workers.tolerations[0].operatorr", "did you mean operator?"],
        ),
        ("  workers: {nodes: 2, maxNodes: 1}\n", ["line 7", "spec.workers", "minNodes <= nodes <= maxNodes"]),
        ("  workers: {gpusPerNode: 8}\n", ["spec: training.globalBatchSize is smaller than", "raise the batch"]),
        ("  training: {epochs: 2, maxSteps: 3}\n", ["spec.training", "epochs and maxSteps exclude each other"]),
        ("  evaluation: {metric: segm_AP}\n", ["segm_* needs task: segmentation"]),
        ("  backend: slurm\n", ["needs slurm.site"]),
        ("  checkpoint: {uri: http://x/y}\n", ["spec.checkpoint.uri", "'http://x/y'", "s3://BUCKET/PREFIX"]),
        ("  storage: {secretRef: AKIAABCDEFGHIJKLMNOP}\n", ["spec.storage.secretRef", "'***'"]),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_with_its_line_value_and_what_is_allowed(extra: str, words: list[str]) -> None:
    message = problem(BASE + extra)

    assert [] == [word for word in words if word not in message], message


@pytest.mark.parametrize("word", ["y", "N", "yes", "No", "ON", "off"])
def test_a_word_that_kubectl_takes_for_a_boolean_stands_in_quotes(word: str) -> None:
    message = problem(BASE + f"  workers: {{profile: {word}}}\n")

    assert f"line 7: spec.workers.profile: '{word}' is a word in YAML 1.2 and a boolean to kubectl" in message
    quoted = load_finetune(BASE + f"  training: {{config: {{model: {{x: '{word}'}}}}}}\n")
    assert {"model": {"x": word}} == quoted.spec.training.config


@pytest.mark.parametrize("number", ["010", "-07", "00"])
def test_a_number_that_kubectl_reads_in_base_8_is_refused(number: str) -> None:
    message = problem(BASE + f"  training: {{seed: {number}}}\n")

    assert f"spec.training.seed: '{number}' is read in base 8 by kubectl" in message


@pytest.mark.parametrize("number", ["1_000", "._7", "0O1", "0B1", "1e400"])
def test_a_number_that_others_take_for_a_word_or_the_other_way_round_is_refused(number: str) -> None:
    message = problem(BASE + f"  training: {{config: {{optim: {{x: {number}}}}}}}\n")

    assert f"spec.training.config.optim.x: '{number}' is" in message


@pytest.mark.parametrize(
    "key", ["yes", "N", "True", "~", "Null", "1.0", ".5", "1e3", "010", "0x1F", "1_000", "+1", ".inf"]
)
def test_a_key_that_kubectl_changes_stands_in_quotes(key: str) -> None:
    message = problem(BASE.replace("{uri: s3://datasets/blood}", f"{{uri: s3://d/x, phrases: {{{key}: [cell]}}}}"))

    assert "kubectl makes something else of this key; put it in quotes" in message
    quoted = BASE.replace("{uri: s3://datasets/blood}", f"{{uri: s3://d/x, phrases: {{'{key}': [cell]}}}}")
    assert {key: ("cell",)} == load_finetune(quoted).spec.data.phrases


@pytest.mark.parametrize("key", ["1", "0", "-5", "true", "yes no", "x1", "1.0.0", "1a"])
def test_a_key_that_kubectl_leaves_alone_needs_no_quotes(key: str) -> None:
    text = BASE.replace("{uri: s3://datasets/blood}", f"{{uri: s3://d/x, phrases: {{{key}: [cell]}}}}")

    assert {key: ("cell",)} == load_finetune(text).spec.data.phrases


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("  export: {uri: '${oc.env:HOME}'}\n", ["line 7", "spec.export.uri", "contains ${"]),
        ("  training: {config: {'${a}': 1}}\n", ["spec.training.config.${a}", "contains ${"]),
        ("  training: {config: {a: [x, {b: 'c ${d}'}]}}\n", ["spec.training.config.a[1].b", "contains ${"]),
        ("  training: {config: {_target_: os.system}}\n", ["spec.training.config._target_", "contains _target_"]),
        ("  _target_: os.system\n", ["line 7", "spec._target_", "nothing is instantiated"]),
        ("  training: {config: {optim: {_args_: [1]}}}\n", ["spec.training.config", "'_args_'", "begin with _"]),
        ("  x: !!python/object/apply:os.system [id]\n", ["line 7", "spec.x", "tag", "refused"]),
        ("  x: !env HOME\n", ["spec.x", "!env"]),
        ("  x: !!binary aGk=\n", ["spec.x", "binary"]),
        ("  base: &b {nodes: 1}\n  workers: {<<: *b}\n", ["line 8", "merge keys are not YAML 1.2"]),
        ("  suspend: true\n  suspend: false\n", ["line 8", "spec.suspend", "twice", "line 7"]),
        ("  x: &a [*a]\n", ["levels after aliases are expanded"]),
        (BOMB, ["more than 20000 nodes"]),
        ("  ? [a, b]\n  : c\n", ["a key is text"]),
        ("  training: {learningRate: .inf}\n", ["inf", "a number from 1e-09 to 1"]),
        ("  training: {learningRate: .nan}\n", ["nan", "a number from 1e-09 to 1"]),
        ("  foo: [1\n", ["line 8", "not YAML"]),
        ("\tfoo: 1\n", ["line 7", "not YAML"]),
        ("---\na: 1\n", ["2 YAML documents"]),
        ("  training: {maxSteps: " + "9" * 5000 + "}\n", ["spec.training.maxSteps", "is no int"]),
    ],
)  # fmt: skip
def test_what_is_not_plain_data_is_refused(extra: str, words: list[str]) -> None:
    message = problem(BASE + extra)

    assert [] == [word for word in words if word not in message], message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n", "0 YAML documents"),
        ("just text\n", "'just text' is not a SAM3FineTune"),
        ("- a\n- b\n", "is not a SAM3FineTune"),
        (BASE.replace("SAM3FineTune", "Deployment"), "one of SAM3FineTune"),
        (BASE.replace("v1alpha1", "v1"), "one of sam3ft.dev/v1alpha1"),
        (BASE.replace("blood}", "Blood_Cells}", 1), "metadata.name: 'Blood_Cells' is not allowed"),
        (BASE.replace('  model: {uri: "preset:tiny"}\n', ""), "spec.model: is required: a group with the keys uri"),
        (BASE.replace("{uri: s3://datasets/blood}", "{}"), "data needs uri, or train.images and train.annotations"),
        ("# " + "x" * limits.MAX_FILE_BYTES + "\n", "are read"),
    ],
)
def test_a_document_that_is_no_resource_is_refused(text: str, words: str) -> None:
    assert words in problem(text)


def test_all_problems_are_listed_at_once_up_to_a_bound() -> None:
    message = problem(BASE + "".join(f"  bogus{i}: 1\n" for i in range(20)))

    assert message.count("unknown key") == 12
    assert message.endswith("and 8 more")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: \xe9\n")
    large = tmp_path / "large.yaml"
    large.write_text("#" * (limits.MAX_FILE_BYTES + 1))

    assert "No such file" in problem(str(tmp_path / "missing.yaml"))
    assert "Is a directory" in problem(str(tmp_path))
    assert "not UTF-8" in problem(str(latin))
    assert "are read" in problem(str(large))


def test_null_is_the_same_as_absent() -> None:
    finetune = load_finetune(BASE + "  workers:\n  slurm: ~\n  training: {epochs: null, resolution: null}\n")

    assert (1, None, 1008) == (
        finetune.spec.workers.nodes, finetune.spec.slurm, finetune.spec.training.resolution,
    )  # fmt: skip


def test_the_examples_of_the_guide_load() -> None:
    guide = (Path(__file__).parents[3] / "docs/yaml.md").read_text()
    examples = re.findall(r"```yaml\n(.*?)```", guide, flags=re.DOTALL)

    specs = [load_finetune(example).spec for example in examples]

    assert ["detection", "segmentation"] == [spec.task for spec in specs]
    for example in examples:
        assert to_training_config(load_finetune(example), backend="kubernetes")
