from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from access_bench import KEYS, LOCAL, backend_of, data, run, write_profiles

from sam3ft_api.errors import InvalidConfig
from sam3ft_trainer.store.uri import open_store


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def profiles(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    return lambda text: write_profiles(tmp_path, text)


def test_without_a_file_only_the_default_profile_exists(tmp_path: Path):
    environ = {"HOME": str(tmp_path)}

    assert "default" == run(environ).name
    with pytest.raises(InvalidConfig, match=r"storage profile 'lab' is not in .*storage\.yaml; there are default"):
        run(environ, "lab")


@pytest.mark.parametrize("variable", ["HOME", "XDG_CONFIG_HOME"])
def test_the_users_own_file_is_read_where_there_is_one(tmp_path: Path, variable: str):
    folder = tmp_path / ".config" / "sam3ft" if variable == "HOME" else tmp_path / "sam3ft"
    folder.mkdir(parents=True)
    (folder / "storage.yaml").write_text("profiles:\n  lab: {region: lab-1}\n")

    assert "lab-1" == run({"HOME": "/nowhere", variable: str(tmp_path)}, "lab").profile.region


def test_a_named_file_must_exist(tmp_path: Path):
    with pytest.raises(InvalidConfig, match="cannot be read"):
        run({"SAM3FT_STORAGE_PROFILES": str(tmp_path / "missing.yaml")})


def test_an_unknown_profile_is_refused_with_those_that_exist(profiles: Callable[[str], dict[str, str]]):
    environ = profiles("profiles: {lab: {}, far: {}}\n")

    with pytest.raises(InvalidConfig, match="there are default, far, lab"):
        data(environ, "near")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("profiles:\n  lab:\n    endPoint: https://x\n", ["line 3", "profiles.lab.endPoint", "did you mean endpoint"]),
        ("profiles:\n  lab: {}\n  lab: {}\n", ["line 3", "stands here twice"]),
        ("profiles:\n  lab: !!python/object:os.system {}\n", ["line 2", "tag"]),
        ("profiles:\n  lab:\n    endpoint: http://x\n", ["line 2", "has no TLS", "allowHttp: true"]),
        ("profiles:\n  lab:\n    endpoint: https://user:pw@x\n", ["line 3", "profiles.lab.endpoint"]),
        ("profiles:\n  lab:\n    allowNetworks: [all]\n", ["line 3", "loopback, private, link-local"]),
        ("profiles:\n  lab: {anonymous: true, awsProfile: sso}\n", ["line 2", "keep one of them"]),
        ("profiles:\n  lab: {allowHttp: yes}\n", ["line 2", "true or false"]),
        ("- lab\n", ["no file of storage profiles"]),
        ("profiles: [\n", ["not YAML"]),
    ],
)
def test_a_wrong_file_is_refused_with_line_and_path(
    profiles: Callable[[str], dict[str, str]], text: str, words: list[str]
):
    with pytest.raises(InvalidConfig) as refusal:
        run(profiles(text))

    for word in (*words, "storage.yaml"):
        assert word in str(refusal.value)


def test_a_profile_decides_endpoint_region_addressing_and_client(
    profiles: Callable[[str], dict[str, str]], tmp_path: Path
):
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    environ = profiles(f"""
        profiles:
          lab:
            endpoint: https://127.0.0.1:9000/
            region: lab-1
            addressing: virtual
            caFile: {tmp_path}/authority.pem
            allowNetworks: [loopback]
            connectTimeoutSeconds: 4
            requestTimeoutSeconds: 50
            retries: 3
    """)
    file_text = Path(environ["SAM3FT_STORAGE_PROFILES"]).read_text().replace("127.0.0.1", "localhost")
    Path(environ["SAM3FT_STORAGE_PROFILES"]).write_text(file_text.replace("virtual", "path"))

    backend = backend_of(open_store("s3://bucket/x", access=run({**environ, **KEYS}, "lab")))

    assert "https://localhost:9000" == backend.config["endpoint_url_s3"]
    assert "lab-1" == backend.config["region"]
    assert "false" == backend.config["virtual_hosted_style_request"]
    assert 3 == backend.retry_config["max_retries"]
    assert {"connect_timeout", "timeout", "allow_http", "root_certificate"} == set(backend.client_options)


@pytest.mark.parametrize(
    ("profile", "bucket", "expected"),
    [
        ("{}", "bucket", ("https://bucket.s3.us-east-1.amazonaws.com", "true")),
        ("{}", "with.dots", ("https://s3.us-east-1.amazonaws.com", "false")),
        ("{addressing: path}", "bucket", ("https://s3.us-east-1.amazonaws.com", "false")),
        ("{region: eu-west-1}", "bucket", ("https://bucket.s3.eu-west-1.amazonaws.com", "true")),
        (f"\n    {LOCAL}", "bucket", ("https://127.0.0.1:9000", "false")),
    ],
)
def test_the_bucket_stands_in_the_hosts_name_or_in_the_path(
    profiles: Callable[[str], dict[str, str]], profile: str, bucket: str, expected: tuple[str, str]
):
    access = run({**profiles(f"profiles:\n  default: {profile}\n"), **KEYS})

    config = backend_of(open_store(f"s3://{bucket}/x", access=access)).config

    assert expected == (config["endpoint_url_s3"], config["virtual_hosted_style_request"])


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_an_authority_that_cannot_be_read_is_named(
    profiles: Callable[[str], dict[str, str]], tmp_path: Path, content: str | None
):
    if content is not None:
        (tmp_path / "authority.pem").write_text(content)
    environ = profiles(f"profiles:\n  default: {{caFile: {tmp_path}/authority.pem}}\n")

    with pytest.raises(InvalidConfig, match=r"storage profile 'default' .*caFile .*authority\.pem"):
        open_store("s3://bucket/x", access=run({**environ, **KEYS}))
