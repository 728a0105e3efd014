"""`hf://` against a small Hub on this machine."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants
from transformers import Sam3Model

from sam3ft_api.errors import InvalidConfig, ModelUnusable, StorageUnavailable
from sam3ft_api.training import ModelConfig
from sam3ft_trainer.model import hub
from sam3ft_trainer.model.hub import fetch, parse_hub_address
from sam3ft_trainer.model.load import load_model
from sam3ft_trainer.model.text import byte_tokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class TinyHub(ThreadingHTTPServer):
    """Serves one repository, `org/name`, from a folder; keeps the paths it was asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), TinyHubHandler)
        self.root = root
        self.asked: list[str] = []
        self.refusal: tuple[int, str] | None = None


class TinyHubHandler(BaseHTTPRequestHandler):
    server: TinyHub

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(path)
        if self.server.refusal:
            status, code = self.server.refusal
            return self.reply(status, b"", {"X-Error-Code": code, "X-Error-Message": "no"}, with_body=with_body)
        if path.startswith("/api/models/org/name"):
            if "/revision/" in path and path.rsplit("/", 1)[1] not in ("main", COMMIT):
                return self.reply(404, b"", {"X-Error-Code": "RevisionNotFound"}, with_body=with_body)
            files = sorted(self.server.root.iterdir())
            if "/tree/" in path:
                tree = [{"type": "file", "path": p.name, "size": p.stat().st_size, "oid": "0" * 40} for p in files]
                return self.reply(200, json.dumps(tree).encode(), {}, with_body=with_body)
            info = {"id": "org/name", "sha": COMMIT, "siblings": [{"rfilename": p.name} for p in files]}
            return self.reply(200, json.dumps(info).encode(), {}, with_body=with_body)
        if path.startswith("/org/name/resolve/"):
            data = (self.server.root / path.rsplit("/", 1)[1]).read_bytes()
            etag = hashlib.sha256(data).hexdigest()
            return self.reply(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, with_body=with_body)
        return self.reply(404, b"", {"X-Error-Code": "RepoNotFound"}, with_body=with_body)

    def reply(self, status: int, body: bytes, headers: dict[str, str], *, with_body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)


@pytest.fixture
def tiny_hub(sam3: Sam3Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyHub]:
    root = tmp_path / "repository"
    sam3.save_pretrained(root)
    byte_tokenizer().save_pretrained(root)
    (root / "pytorch_model.bin").write_bytes(b"pickle")
    (root / "modeling.py").write_text("raise SystemExit")
    server = TinyHub(root)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    # The library reads HF_ENDPOINT and HF_HOME when it is imported, which has happened by now.
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(
        hub,
        "snapshot_download",
        lambda repo, **kw: huggingface_hub.snapshot_download(
            repo,
            endpoint=endpoint,
            cache_dir=tmp_path / "cache",
            token="hf_secret",  # noqa: S106 - no secret; a test looks for it in a message
            **kw,
        ),
    )
    yield server
    server.shutdown()
    server.server_close()


def test_a_hub_model_loads_and_its_origin_names_the_commit(tiny_hub: TinyHub, sam3: Sam3Model):
    loaded = load_model("hf://org/name@main", ModelConfig(), resolution=112, device="cpu", seed=0)

    assert f"hf://org/name@{COMMIT}" == loaded.origin
    assert len(sam3.state_dict()) == loaded.report.num_loaded


def test_the_endpoint_and_the_cache_come_from_the_environment(tiny_hub: TinyHub, tmp_path: Path):
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{tiny_hub.server_address[1]}",
        "HF_HOME": str(tmp_path / "home"),
    }
    program = "from sam3ft_trainer.model.hub import fetch; print(*fetch('hf://org/name'))"

    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)

    folder, origin = done.stdout.split()
    assert f"hf://org/name@{COMMIT}" == origin
    assert Path(folder).is_relative_to(tmp_path / "home")


def test_neither_pickles_nor_code_are_fetched(tiny_hub: TinyHub):
    folder, _ = fetch("hf://org/name")

    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
    assert not [path for path in tiny_hub.asked if path.endswith((".bin", ".py"))]


def test_a_model_can_be_fetched_into_a_plain_folder(tiny_hub: TinyHub, tmp_path: Path):
    folder, _ = fetch("hf://org/name", folder=tmp_path / "copy")

    assert tmp_path / "copy" == folder
    assert (folder / "model.safetensors").read_bytes() == (tiny_hub.root / "model.safetensors").read_bytes()
    assert not (folder / "model.safetensors").is_symlink()


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ((403, "GatedRepo"), r"refused \(403\): its licence has to be accepted first.*set HF_TOKEN"),
        ((401, "GatedRepo"), r"refused \(401\): its licence has to be accepted first.*set HF_TOKEN"),
        ((401, "RepoNotFound"), r"refused \(401\): it does not exist, or is private"),
        ((403, ""), r"refused \(403\): the token is not allowed to read it"),
    ],
)
def test_refused_access_says_what_to_do_and_shows_no_token(tiny_hub: TinyHub, refusal: tuple[int, str], message: str):
    tiny_hub.refusal = refusal

    with pytest.raises(ModelUnusable, match=message) as caught:
        fetch("hf://org/name")

    assert "hf_secret" not in str(caught.value)


def test_an_unknown_repository_and_an_unknown_revision_are_refused(tiny_hub: TinyHub):
    with pytest.raises(ModelUnusable, match="it does not exist, or is private"):
        fetch("hf://org/other")
    with pytest.raises(ModelUnusable, match="has no revision 'v9'"):
        fetch("hf://org/name@v9")


def test_a_hub_that_does_not_answer_is_an_outage_and_not_the_user_s_fault(tiny_hub: TinyHub):
    tiny_hub.shutdown()
    tiny_hub.server_close()

    with pytest.raises(StorageUnavailable, match="does not answer, and org/name is not in the cache"):
        fetch("hf://org/name")


@pytest.mark.parametrize("uri", ["hf://name", "hf://a/b/c", "hf://org/na me", "hf://org/name@", "hf://../x"])
def test_a_malformed_address_is_refused(uri: str):
    with pytest.raises(InvalidConfig, match="is no Hub address"):
        parse_hub_address(uri)


def test_an_address_is_taken_apart():
    assert ("facebook/sam3", None) == parse_hub_address("hf://facebook/sam3")
    assert ("facebook/sam3", "refs/pr/1") == parse_hub_address("hf://facebook/sam3@refs/pr/1")
