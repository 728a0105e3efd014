"""The servers of the tests: found when built, named when not, and really servers."""

import subprocess
from pathlib import Path

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError
from obstore.store import S3Store
from s3_server import REGION, S3Server
from tools_here import need_tool

import components


def store_of(server: S3Server, bucket: str) -> S3Store:
    return S3Store(
        bucket,
        endpoint=server.endpoint,
        region=REGION,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        client_options={"allow_http": True},
    )


def test_a_component_that_is_not_built_is_an_error_that_names_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SAM3FT_COMPONENTS", str(tmp_path))

    with pytest.raises(components.ComponentMissing, match="versitygw is not built; run make components"):
        components.binary("versitygw")


def test_the_place_of_a_component_follows_its_lock_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "versitygw").mkdir()
    (tmp_path / "versitygw" / "go.mod").write_text("module one\n")
    monkeypatch.setattr(components, "HERE", tmp_path)
    before = components.home("versitygw")

    (tmp_path / "versitygw" / "go.mod").write_text("module two\n")

    assert components.home("versitygw") != before


@pytest.mark.parametrize("extra", ["ldflags", "share"])
def test_a_component_is_another_when_it_is_built_with_something_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, extra: str
) -> None:
    (tmp_path / "kueue").mkdir()
    (tmp_path / "kueue" / "go.mod").write_text("module one\n")
    monkeypatch.setattr(components, "HERE", tmp_path)
    homes = {components.home("kueue")}
    for content in ("a", "b"):
        (tmp_path / "kueue" / extra).write_text(content)
        homes.add(components.home("kueue"))

    assert 3 == len(homes)


@pytest.mark.parametrize(
    ("component", "program", "version"),
    [("kubernetes", "kube-apiserver", "Kubernetes v1.35.4"), ("etcd", "server", "etcd Version: 3.6.5")],
)
def test_a_program_knows_its_version(component: str, program: str, version: str) -> None:
    try:
        path = components.binary(component, program)
    except components.ComponentMissing as missing:
        need_tool(str(missing))
    told = subprocess.run([path, "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout

    assert version == told.splitlines()[0]


def test_the_kubernetes_component_has_no_more_programs_than_a_control_plane_and_its_nodes_need() -> None:
    text = (components.HERE / "kubernetes" / "go.mod").read_text()
    tools = text[text.index("tool (") :].split()[2:-1]

    names = [tool.rsplit("/", 1)[1] for tool in tools]
    plane = {"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"}
    assert plane | {"kubelet", "kube-proxy"} == set(names)


def test_files_that_a_module_brings_can_be_removed_again(tmp_path: Path) -> None:
    kept = tmp_path / "module"
    (kept / "crd").mkdir(parents=True)
    (kept / "crd" / "one.yaml").write_text("a: 1\n")
    for path in (kept / "crd" / "one.yaml", kept / "crd", kept):
        path.chmod(0o444 if path.is_file() else 0o555)

    components._copy_tree(kept, tmp_path / "copy")

    copy = tmp_path / "copy" / "crd" / "one.yaml"
    assert "a: 1\n" == copy.read_text()
    assert copy.stat().st_mode & 0o200
    assert copy.parent.stat().st_mode & 0o200
    for path in (kept, kept / "crd"):
        path.chmod(0o755)


def test_the_s3_server_keeps_its_objects_and_its_port_over_a_restart(tmp_path: Path) -> None:
    (tmp_path / "buckets").mkdir()
    with S3Server(tmp_path / "buckets") as server:
        store = store_of(server, server.create_bucket("kept"))
        obstore.put(store, "a/b", b"value")
        endpoint = server.endpoint

        server.stop()
        server.start()

        assert endpoint == server.endpoint
        assert b"value" == obstore.get(store, "a/b").bytes().to_bytes()


def test_the_s3_server_refuses_to_create_an_object_twice(s3_server: S3Server, s3_bucket: str) -> None:
    store = store_of(s3_server, s3_bucket)
    obstore.put(store, "key", b"first", mode="create")

    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "key", b"second", mode="create")

    assert b"first" == obstore.get(store, "key").bytes().to_bytes()
