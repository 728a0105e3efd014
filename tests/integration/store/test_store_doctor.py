"""`sam3ft doctor ADDRESS` as people call it, against real servers; and the example of docs/storage.md, executed."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from store_sites import Site

DOCS = Path(__file__).resolve().parents[3] / "docs" / "storage.md"
SAM3FT = str(Path(sys.executable).with_name("sam3ft"))


def _doctor(site: Site, *words: str, variables: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **site.environ, **site.process, **(variables or {})}
    return subprocess.run(
        [SAM3FT, "doctor", *words], env=environ, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize("name", ["folder", "s3", "s3-tls", "s3-virtual", "gs", "az"])
def test_a_usable_store_ends_with_0_and_nothing_is_left(
    start_site: Callable[[str], Site], name: str, monkeypatch: pytest.MonkeyPatch
):
    site = start_site(name)
    for variable, value in site.process.items():
        monkeypatch.setenv(variable, value)
    address = site.fresh().address

    ended = _doctor(site, address, "-o", "json")

    found = json.loads(ended.stdout)
    assert (0, True, "") == (ended.returncode, found["usable"], found["message"])
    assert [] == [row for row in found["findings"] if row["needed"] and row["state"] != "yes"]
    assert str(site.profile.get("endpoint", ""))[-12:] in found["endpoint"]
    assert [] == site.open_at(address, create=True).list_objects("")


def test_people_read_a_table_with_the_verdict_last(start_site: Callable[[str], Site]):
    site = start_site("s3-tls")

    ended = _doctor(site, f"{site.bucket}/x")

    lines = ended.stdout.splitlines()
    assert 0 == ended.returncode, ended.stderr
    assert lines[0].startswith(f"{site.bucket}/x at https://127.0.0.1:")
    assert any(
        re.match(r"reach +yes +TLSv1.3, verified; the certificate is valid for [\d,]+ days", line) for line in lines
    )
    assert any(re.match(r"write, 24 MiB +[\d,]+ MB/s", line) for line in lines)
    assert "checkpoints can be kept there" == lines[-1]


@pytest.mark.parametrize(
    ("address", "cause", "words"),
    [
        ("s3://missing/x", None, "there is no such bucket"),
        ("s3://runs/x", "key", "does not know this access key"),
        ("s3://runs/x", "secret", "the signature is wrong"),
        ("s3://runs/x", "token", "the session token is not valid"),
    ],
)
def test_an_unusable_store_ends_with_13_and_the_reason(
    start_site: Callable[[str], Site], address: str, cause: str | None, words: str
):
    site = start_site("s3")

    ended = _doctor(site, address, variables=site.wrong[cause] if cause else None)

    assert 13 == ended.returncode
    assert words in ended.stdout.splitlines()[-1]
    assert "12 properties rest on what has failed" in ended.stdout


def test_a_server_that_is_down_ends_with_13_soon(start_site: Callable[[str], Site]):
    site = start_site("s3").but(endpoint="http://127.0.0.1:9")

    ended = _doctor(site, "s3://runs/x")

    assert 13 == ended.returncode
    assert "check that the service runs" in ended.stdout.splitlines()[-1]


def test_an_endpoint_inside_that_nobody_allowed_ends_with_10_and_the_line_to_add(start_site: Callable[[str], Site]):
    site = start_site("s3-tls").but(allowNetworks=[])

    ended = _doctor(site, "s3://runs/x")

    assert 10 == ended.returncode
    assert "allowNetworks: [loopback]" in ended.stderr


def test_the_example_of_the_documentation_works(start_site: Callable[[str], Site], tmp_path: Path):
    site = start_site("s3-tls")
    text = DOCS.read_text()
    (profiles,) = re.findall(r"```yaml\n(profiles:\n.*?)```", text, re.DOTALL)
    (script,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    here = profiles.replace("https://s3.lab.example:7480", str(site.profile["endpoint"]))
    (tmp_path / "storage.yaml").write_text(here.replace("/etc/ssl/lab-authority.pem", str(site.profile["caFile"])))
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SAM3FT_"))},
        "PATH": f"{Path(SAM3FT).parent}:{os.environ['PATH']}",
        "ACCESS_KEY": site.variables["AWS_ACCESS_KEY_ID"],
        "SECRET_KEY": site.variables["AWS_SECRET_ACCESS_KEY"],
    }

    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert 0 == ended.returncode, ended.stderr
    assert ("lab", True) == (json.loads(ended.stdout)["profile"], json.loads(ended.stdout)["usable"])
