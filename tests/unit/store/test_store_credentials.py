import datetime as dt
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from access_bench import KEYS, LOCAL, backend_of, data, keys_of, pair, run, secret, write_profiles

from sam3ft_api.errors import InvalidConfig
from sam3ft_trainer.store.uri import open_store


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def profiles(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    return lambda text: write_profiles(tmp_path, text)


@pytest.fixture
def lab(profiles: Callable[[str], dict[str, str]]) -> dict[str, str]:
    return profiles(f"profiles:\n  default:\n    {LOCAL}\n")


def test_data_is_read_with_its_own_folder_and_the_run_with_its_own(lab: dict[str, str], tmp_path: Path):
    run_folder = secret(tmp_path / "run", **pair("run"))
    data_folder = secret(tmp_path / "data", **pair("data"))
    environ = {
        **lab,
        **KEYS,
        "SAM3FT_CREDENTIALS_DIR": str(run_folder),
        "SAM3FT_DATA_CREDENTIALS_DIR": str(data_folder),
    }

    assert ("run-id", "run-secret", None) == keys_of(run(environ))
    assert ("data-id", "data-secret", None) == keys_of(data(environ))


def test_data_is_read_with_prefixed_variables_and_nothing_of_the_runs_is_mixed_in(lab: dict[str, str]):
    environ = {
        **lab,
        **KEYS,
        "AWS_SESSION_TOKEN": "plain-token",
        "SAM3FT_DATA_AWS_ACCESS_KEY_ID": "data-id",
        "SAM3FT_DATA_AWS_SECRET_ACCESS_KEY": "data-secret",
    }

    assert ("data-id", "data-secret", None) == keys_of(data(environ))
    assert ("plain-id", "plain-secret", "plain-token") == keys_of(run(environ))


def test_without_credentials_of_its_own_data_is_read_with_those_of_the_run(lab: dict[str, str], tmp_path: Path):
    folder = secret(tmp_path / "run", **pair("run"))

    assert ("plain-id", "plain-secret", None) == keys_of(data({**lab, **KEYS}))
    assert ("run-id", "run-secret", None) == keys_of(data({**lab, "SAM3FT_CREDENTIALS_DIR": str(folder)}))


def test_a_rotated_secret_is_read_again(lab: dict[str, str], tmp_path: Path):
    folder = secret(tmp_path / "run", **pair("old"))
    store = open_store("s3://bucket/x", access=run({**lab, "SAM3FT_CREDENTIALS_DIR": str(folder)}))
    given = backend_of(store).credential_provider()
    token = {"AWS_SESSION_TOKEN": "new-token"}
    secret(folder, **pair("new"), **token)

    renewed = backend_of(store).credential_provider()

    assert ("old-id", "new-id") == (given["access_key_id"], renewed["access_key_id"])
    assert "new-token" == renewed["token"]
    lives = given["expires_at"] - dt.datetime.now(dt.UTC)
    assert dt.timedelta(seconds=300) < lives < dt.timedelta(seconds=311)


def test_the_endpoint_of_the_place_that_counts_is_asked(profiles: Callable[[str], dict[str, str]], tmp_path: Path):
    environ = {
        **profiles("profiles:\n  default: {allowNetworks: [loopback, private]}\n"),
        **KEYS,
        "AWS_ENDPOINT_URL": "https://10.0.0.1",
        "SAM3FT_DATA_CREDENTIALS_DIR": str(
            secret(
                tmp_path / "data",
                **pair("data"),
                AWS_ENDPOINT_URL="https://127.0.0.1:1",
                AWS_ENDPOINT_URL_S3="https://127.0.0.1:2",
                AWS_REGION="far-1",
            )
        ),
    }

    of_data = backend_of(open_store("s3://bucket/x", access=data(environ))).config
    of_run = backend_of(open_store("s3://bucket/x", access=run(environ))).config

    assert ("https://127.0.0.1:2", "far-1") == (of_data["endpoint_url_s3"], of_data["region"])
    assert ("https://10.0.0.1", "us-east-1") == (of_run["endpoint_url_s3"], of_run["region"])


def test_an_endpoint_in_the_environment_never_wins_over_the_profiles(
    lab: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://169.254.169.254")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")

    config = backend_of(open_store("s3://bucket/x", access=run({**lab, **KEYS}))).config

    assert "https://127.0.0.1:9000" == config["endpoint_url_s3"]
    assert "false" == config["skip_signature"]
    assert "etag" == config["conditional_put"]


@pytest.mark.parametrize(
    ("address", "variables"),
    [
        ("s3://bucket", {**KEYS, "AWS_ENDPOINT_URL": "https://169.254.169.254"}),
        ("s3://bucket", {**KEYS, "AWS_ENDPOINT_URL_S3": "https://2852039166"}),
        ("s3://bucket", {**KEYS, "AWS_ENDPOINT": "https://0xa9fea9fe"}),
        ("gs://bucket", {"GOOGLE_BASE_URL": "https://169.254.169.254"}),
        (
            "az://container",
            {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_ENDPOINT": "https://169.254.169.254"},
        ),
        ("az://container", {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_ENDPOINT": "https://169.254.169.254"}),
    ],
)
@pytest.mark.parametrize("place", ["environment", "folder", "prefix"])
def test_an_endpoint_inside_is_refused_wherever_it_comes_from(
    address: str, variables: dict[str, str], place: str, tmp_path: Path
):
    environ = {"HOME": str(tmp_path)}
    if place == "folder":
        environ["SAM3FT_DATA_CREDENTIALS_DIR"] = str(secret(tmp_path / "secret", **variables))
    else:
        environ |= {("SAM3FT_DATA_" if place == "prefix" else "") + name: value for name, value in variables.items()}

    with pytest.raises(InvalidConfig, match=r"leads to 169\.254\.169\.254, a link-local address"):
        open_store(address, access=data(environ))


def test_the_endpoint_in_a_google_key_does_not_count(tmp_path: Path):
    key = json.dumps(
        {
            "gcs_base_url": "http://169.254.169.254",
            "disable_oauth": True,
            "client_email": "",
            "private_key": "",
            "private_key_id": "",
        }
    )

    backend = backend_of(
        open_store("gs://bucket/x", access=run({"HOME": str(tmp_path), "GOOGLE_SERVICE_ACCOUNT_KEY": key}))
    )

    assert "https://storage.googleapis.com" == backend.config["base_url"]


@pytest.mark.parametrize("address", ["s3://evil.example\\", "s3://a b", "gs://bucket;x", "az://a%2f"])
def test_a_bucket_that_would_change_the_host_is_refused(address: str, tmp_path: Path):
    environ = {"HOME": str(tmp_path), **KEYS, "AZURE_STORAGE_ACCOUNT_NAME": "account"}

    with pytest.raises(InvalidConfig, match="bucket"):
        open_store(address, access=run(environ))


def test_a_region_that_would_change_the_host_is_refused(tmp_path: Path):
    environ = {"HOME": str(tmp_path), **KEYS, "AWS_REGION": "x.evil.example/"}

    with pytest.raises(InvalidConfig, match="region"):
        open_store("s3://bucket", access=run(environ))


@pytest.mark.parametrize("missing", list(KEYS))
def test_half_a_pair_of_keys_is_refused_with_the_place(lab: dict[str, str], tmp_path: Path, missing: str):
    folder = secret(tmp_path / "run", **{name: value for name, value in KEYS.items() if name != missing})

    with pytest.raises(InvalidConfig, match=rf"the credentials folder .*run has .* without {missing}"):
        open_store("s3://bucket", access=run({**lab, "SAM3FT_CREDENTIALS_DIR": str(folder)}))


def test_a_folder_that_is_missing_is_named(lab: dict[str, str], tmp_path: Path):
    with pytest.raises(InvalidConfig, match=r"the credentials folder .*gone cannot be read"):
        open_store("s3://bucket", access=run({**lab, "SAM3FT_CREDENTIALS_DIR": str(tmp_path / "gone")}))


def test_keys_of_another_purpose_are_never_taken_instead(
    lab: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody's")
    folder = secret(tmp_path / "run", AWS_REGION="lab-1")

    with pytest.raises(InvalidConfig, match="for another purpose and is not used instead"):
        open_store("s3://bucket", access=run({**lab, "SAM3FT_CREDENTIALS_DIR": str(folder)}))


def test_an_anonymous_profile_sends_no_credentials(profiles: Callable[[str], dict[str, str]]):
    environ = {**profiles("profiles:\n  default: {anonymous: true}\n"), **KEYS}

    backend = backend_of(open_store("s3://bucket", access=run(environ)))

    assert "true" == backend.config["skip_signature"]
    assert backend.credential_provider is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("AZURE_STORAGE_ACCOUNT_KEY", "access_key"),
        ("AZURE_STORAGE_KEY", "access_key"),
        ("AZURE_STORAGE_SAS_TOKEN", "sas_token"),
        ("AZURE_CLIENT_SECRET", "client_secret"),
        ("AZURE_FEDERATED_TOKEN_FILE", "workload_identity"),
        ("AZURE_OTHER", "auto"),
    ],
)
def test_azure_is_asked_with_the_kind_of_credentials_that_is_there(name: str, kind: str, tmp_path: Path):
    environ = {
        "HOME": str(tmp_path),
        "AZURE_STORAGE_ACCOUNT_NAME": "account",
        "AZURE_CLIENT_ID": "client",
        "AZURE_TENANT_ID": "tenant",
        name: "c2lnPXg=",
    }

    config = backend_of(open_store("az://container/x", access=run(environ))).config

    assert kind == config["credential_type"]
    assert "https://account.blob.core.windows.net" == config["endpoint"]


@pytest.mark.parametrize(
    ("address", "environ", "words"),
    [
        ("az://container", {}, "AZURE_STORAGE_ACCOUNT_NAME"),
        (
            "az://container",
            {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_ACCOUNT_KEY": "hunter2!"},
            "Azure credentials that cannot be read",
        ),
        ("gs://bucket", {"GOOGLE_SERVICE_ACCOUNT_KEY": "hunter2"}, "Google credentials that cannot be read"),
        (
            "gs://bucket",
            {"GOOGLE_SERVICE_ACCOUNT_KEY": ('{"client_email": "a", "private_key": "hunter2", "private_key_id": "b"}')},
            "Google credentials that cannot be read",
        ),
    ],
)
def test_malformed_credentials_are_refused_and_not_repeated(
    address: str, environ: dict[str, str], words: str, tmp_path: Path
):
    with pytest.raises(InvalidConfig, match=words) as refusal:
        open_store(address, access=run({"HOME": str(tmp_path), **environ}))

    assert "hunter2" not in str(refusal.value)
    assert refusal.value.__suppress_context__ or refusal.value.__context__ is None


def test_an_access_can_be_printed(lab: dict[str, str], tmp_path: Path):
    folder = secret(tmp_path / "run", **dict.fromkeys(KEYS, "hunter2"))
    environ = {**lab, "SAM3FT_CREDENTIALS_DIR": str(folder), "SAM3FT_DATA_AWS_SECRET_ACCESS_KEY": "hunter2"}

    for access in (run(environ), data(environ)):
        store = open_store("s3://bucket/x", access=run(environ))
        assert "hunter2" not in f"{access!r} {access} {store!r} {store._backends!r} {backend_of(store)!r}"


# --- profiles of AWS --------------------------------------------------------------------------------------------------


@pytest.fixture
def aws_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


def test_a_profile_of_aws_gives_credentials_and_region(aws_files: Path, profiles: Callable[[str], dict[str, str]]):
    (aws_files / "config").write_text("[profile lab]\nregion = lab-2\n")
    (aws_files / "credentials").write_text("[lab]\naws_access_key_id = boto-id\naws_secret_access_key = boto-secret\n")
    access = run({**profiles("profiles:\n  default: {awsProfile: lab}\n"), **KEYS})

    backend = backend_of(open_store("s3://bucket/x", access=access))

    assert ("boto-id", "boto-secret", None) == keys_of(access)
    assert "lab-2" == backend.config["region"]


def test_credentials_of_a_process_are_asked_for_again(aws_files: Path, profiles: Callable[[str], dict[str, str]]):
    script, counter = aws_files / "process.py", aws_files / "counter"
    script.write_text(
        "import json, pathlib, datetime\n"
        f"path = pathlib.Path({str(counter)!r})\n"
        "number = int(path.read_text()) + 1 if path.exists() else 1\n"
        "path.write_text(str(number))\n"
        "until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=5)\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': f'id-{number}', 'SecretAccessKey': 's', 'SessionToken': 't',\n"
        "                  'Expiration': until.isoformat()}))\n"
    )
    (aws_files / "config").write_text(f"[profile lab]\ncredential_process = {sys.executable} {script}\n")
    access = run(profiles("profiles:\n  default: {awsProfile: lab}\n"))
    provider = backend_of(open_store("s3://bucket/x", access=access)).credential_provider

    first, second = provider(), provider()

    assert first["access_key_id"] != second["access_key_id"]
    assert "t" == second["token"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("", "ProfileNotFound"),
        ("[profile lab]\nregion = lab-2\n", "yields no credentials"),
        ("[profile lab]\ncredential_process = /bin/false\n", "CredentialRetrievalError"),
    ],
)
def test_a_profile_of_aws_without_credentials_says_what_to_do(
    aws_files: Path, profiles: Callable[[str], dict[str, str]], config: str, words: str
):
    (aws_files / "config").write_text(config)
    access = run(profiles("profiles:\n  default: {awsProfile: lab}\n"))

    with pytest.raises(InvalidConfig, match=rf"storage profile 'default' .*AWS profile 'lab' .*{words}.*log in again"):
        keys_of(access)


def test_without_boto3_a_profile_of_aws_names_the_extra(
    profiles: Callable[[str], dict[str, str]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "boto3", None)

    with pytest.raises(InvalidConfig, match=r"pip install 'sam3ft\[aws\]'"):
        open_store("s3://bucket", access=run(profiles("profiles:\n  default: {awsProfile: lab}\n")))
