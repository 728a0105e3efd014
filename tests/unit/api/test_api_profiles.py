"""Worker profiles: the administrator's file."""

import textwrap
from pathlib import Path

import pytest

from sam3ft_api import profiles
from sam3ft_api.errors import InvalidConfig
from sam3ft_api.profiles import CacheVolume, WorkerProfile, find_profile, load_worker_profiles, parse_worker_profiles


def parsed(text: str) -> dict[str, WorkerProfile]:
    return parse_worker_profiles(text, name="workers.yaml")


@pytest.mark.parametrize("text", ["", "\n", "profiles: {}", "profiles: {a: {}}"])
def test_the_default_profile_is_always_there(text: str):
    default = parsed(text)["default"]

    assert WorkerProfile() == default
    assert ("nvidia.com/gpu", "IfNotPresent", "") == (default.gpu_resource, default.image_pull_policy, default.image)


def test_a_file_may_say_what_default_is():
    assert "amd.com/gpu" == parsed("profiles: {default: {gpuResource: amd.com/gpu}}")["default"].gpu_resource


def test_the_example_of_the_module_is_a_file_of_profiles(tmp_path: Path):
    lines = (profiles.__doc__ or "").splitlines()
    start = lines.index("    profiles:")
    example = textwrap.dedent("\n".join(lines[start : lines.index("", start)]))
    (tmp_path / "workers.yaml").write_text(example)

    found = load_worker_profiles(tmp_path / "workers.yaml")

    assert {"default", "a100"} == found.keys()
    assert ({"rdma/hca": "1"}, "site-ca") == (found["a100"].extra_resources, found["a100"].ca_config_map)
    assert CacheVolume.model_validate({"sizeLimit": "300Gi"}) == found["a100"].cache_volume


def test_a_profile_may_have_no_cache():
    assert "none" == parsed("profiles: {a: {cacheVolume: none}}")["a"].cache_volume


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("{imagee: x}", "profiles.a.imagee: unknown key (value 'x'); did you mean image?"),
        ("{hostPath: /data}", "profiles.a.hostPath: unknown key"),
        ("{serviceAccountName: admin}", "unknown key"),
        ("{gpuResource: cpu}", "'cpu' is not allowed; expected an extended resource of nodes such as nvidia.com/gpu"),
        ("{extraResources: {memory: 1}}", "expected an extended resource of nodes"),
        ("{resources: {cpu: many}}", "profiles.a.resources.cpu: 'many' is not allowed; expected an amount"),
        ("{env: {SAM3FT_TOKEN: x}}", "SAM3FT_TOKEN is reserved"),
        ("{env: {sam3ft_x: x}}", "sam3ft_x is reserved"),
        ("{env: {POD_IP: x}}", "POD_IP is reserved"),
        ("{env: {A-B: x}}", "letters, digits and underscores"),
        ("{env: {AWS_SECRET_ACCESS_KEY: abc}}", "AWS_SECRET_ACCESS_KEY looks like a secret"),
        ("{env: {HF_TOKEN: abc}}", "HF_TOKEN looks like a secret"),
        ("{env: {WANDB_API_KEY: abc}}", "WANDB_API_KEY looks like a secret"),
        ("{env: {OTEL_EXPORTER_OTLP_HEADERS: 'k=v'}}", "OTEL_EXPORTER_OTLP_HEADERS looks like a secret"),
        ("{env: {URL: 'https://u:hunter2@h'}}", "URL looks like a secret"),
        ("{env: {NCCL_DEBUG: 1}}", "1 is not allowed; expected text"),
        ("{proxy: {https: 'http://u:hunter2@h:1'}}", "profiles.a.proxy.https"),
        ("{podLabels: {sam3ft.dev/uid: x}}", "sam3ft.dev/uid is reserved"),
        ("{podLabels: {pod-security.kubernetes.io/enforce: x}}", "is reserved"),
        ("{podAnnotations: {kueue.x-k8s.io/queue-name: x}}", "kueue.x-k8s.io/queue-name is reserved"),
        ("{cacheVolume: {hostPath: /data}}", "profiles.a.cacheVolume"),
        ("{cacheVolume: disk}", "'disk' is not allowed; expected a group with the keys sizeLimit or one of none"),
        ("{imagePullPolicy: Sometimes}", "one of Always, IfNotPresent, Never"),
        ("{tolerations: [{value: x}]}", "a toleration without a key needs operator: Exists"),
    ],
)
def test_what_is_wrong_is_named_with_its_path_and_what_is_allowed(profile: str, said: str):
    with pytest.raises(InvalidConfig) as raised:
        parsed(f"profiles:\n  a: {profile}\n")

    assert said in str(raised.value)
    assert "line 2" in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "is no file of worker profiles"),
        ("a: 1", "unknown key"),
        ("profiles: {A: {}}", "lower-case letters"),
        ("profiles: {a: {}}\n---\nprofiles: {}\n", "2 YAML documents"),
        ("{", "not YAML"),
    ],
)
def test_what_is_no_file_of_profiles_is_refused(text: str, said: str):
    with pytest.raises(InvalidConfig, match=said):
        parsed(text)


def test_an_unknown_profile_is_refused_with_those_there_are():
    with pytest.raises(InvalidConfig, match="'h100' is no worker profile of this cluster; expected one of a, default"):
        find_profile(parsed("profiles: {a: {}}"), "h100")
