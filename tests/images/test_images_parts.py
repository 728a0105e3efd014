"""What the images are built with and from, as far as it can be judged without building one."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from dependencies import NEEDED_ANYWAY, without_gpu_packages
from sbom import sbom_of
from stand_ins import NOT_SUPPORTED, needed, undefined, version_owners

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile with their arguments, lines joined."""
    text = re.sub(r"\\\n", " ", "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#")))
    parts = (line.partition(" ") for line in text.splitlines() if line.strip())
    return [(word, rest.strip()) for word, _, rest in parts]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_a_dockerfile_keeps_to_the_rules(path: Path) -> None:
    found = instructions(path)
    words = [word for word, _ in found]
    assert "ADD" not in words, "ADD fetches and unpacks by itself; COPY does what it says"
    stages = {rest.split()[-1] for word, rest in found if word == "FROM" and " AS " in rest}
    bases = [rest.split()[0] for word, rest in found if word == "FROM"]
    assert all(base.startswith("${") or base in stages for base in bases), "bases are arguments"
    assert not any(":latest" in rest for _, rest in found)
    assert ["65532:65532"] == [rest for word, rest in found if word == "USER"], "a number, so that it can be checked"
    assert [rest for word, rest in found if word == "ENTRYPOINT"][-1].startswith('["python"'), "no shell in between"
    assert all("--require-hashes" in rest or "--no-deps" in rest or "dependencies.py" in rest or "venv" in rest
               or "--no-install-recommends gcc libc6-dev" in rest
               for word, rest in found if word == "RUN")  # fmt: skip
    final = len(words) - 1 - words[::-1].index("FROM")
    assert "RUN" not in words[final:], "the last stage only takes over what was built"
    copied = [rest for word, rest in found[final:] if word == "COPY"]
    assert ["dependencies", "code"] == [re.search(r"--from=(\w+)", rest)[1] for rest in copied]  # type: ignore[index]


def test_what_the_images_copy_is_let_through() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for path in DOCKERFILES:
        for word, rest in instructions(path):
            if word == "COPY" and "--from" not in rest:
                for source in rest.split()[:-1]:
                    assert (ROOT / source).exists(), f"{path.name}: {source}"
                    parent = next((it for it in allowed if source == it or source.startswith(f"{it}/")), None)
                    pattern = f"{Path(source).parent}/*{Path(source).suffix}"
                    assert parent or pattern in allowed, f"{path.name}: {source} does not reach the builder"


def test_the_operator_s_lock_has_nothing_of_the_trainer() -> None:
    names = set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements" / "operator.lock").read_text(), re.MULTILINE))
    assert {"kopf", "kubernetes", "pydantic"} <= names
    assert set() == names & {"torch", "numpy", "hydra-core", "transformers", "obstore"}


def test_the_variant_for_tests_leaves_out_what_a_gpu_needs_and_keeps_every_hash() -> None:
    lock = (ROOT / "requirements" / "trainer.lock").read_text()
    kept = without_gpu_packages(lock)
    names = re.findall(r"^([a-z0-9._-]+)==", kept, re.MULTILINE)
    assert {"torch", "torchvision", "transformers", *NEEDED_ANYWAY} <= set(names)
    assert [] == [name for name in names if name.startswith(("nvidia-", "cuda-")) and name not in NEEDED_ANYWAY]
    assert "triton" not in names
    for name in names:
        block = kept[kept.index(f"{name}==") :].split("\n", 1)[1]
        assert block.lstrip().startswith("--hash=sha256:"), name


def test_a_stand_in_has_what_is_taken_from_it_under_its_version(tmp_path: Path) -> None:
    """Builds a library that needs two others, takes these away, and puts stand-ins in their place."""
    compile_to(tmp_path / "libcublas.so.13", "int cublasCreate(void) { return 0; }", "libcublas.so.13", version="V1")
    compile_to(tmp_path / "libnccl.so.2", "int ncclInit(void) { return 0; }", "libnccl.so.2")
    source = "int cublasCreate(void); int ncclInit(void); int ask(void) { return cublasCreate() + ncclInit(); }"
    torch = tmp_path / "torch"
    torch.mkdir()
    library = torch / "libtorch_cuda.so"
    compile_to(library, source, "libtorch_cuda.so", "-L", str(tmp_path), "-l:libcublas.so.13", "-l:libnccl.so.2")
    assert {"libcublas.so.13", "libnccl.so.2"} <= set(needed(library))
    assert "libcublas.so.13" == version_owners(library)["V1"]
    assert ("cublasCreate", "V1") in undefined(library)

    code = f"import stand_ins, pathlib; print(sorted(stand_ins.make_stand_ins(pathlib.Path({str(torch)!r}))))"
    made = run(code)
    assert "['libcublas.so.13', 'libnccl.so.2']" == made.strip()
    asked = f"import ctypes; print(ctypes.CDLL({str(library)!r}).ask())"
    assert str(2 * NOT_SUPPORTED) == run(asked, LD_LIBRARY_PATH=str(torch)).strip()


def compile_to(target: Path, source: str, soname: str, *words: str, version: str = "") -> None:
    """Compile a shared object, its symbols under a version."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "source.c").write_text(source)
        (Path(scratch) / "versions").write_text(f"{version} {{ global: *; }};")
        versioned = [f"-Wl,--version-script={scratch}/versions"] if version else []
        base = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{soname}", *versioned, "-o", str(target)]
        subprocess.run([*base, f"{scratch}/source.c", *words], check=True)


def run(code: str, **environ: str) -> str:
    paths = f"{ROOT / 'tools' / 'images'}"
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": paths, **environ},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_a_bill_of_materials_lists_what_is_installed_once(tmp_path: Path) -> None:
    packages = tmp_path / "opt" / "lib"
    for folder in ("Foo_Bar-1.0.dist-info", "baz-2.dist-info"):
        (packages / folder).mkdir(parents=True)
    (packages / "Foo_Bar-1.0.dist-info" / "METADATA").write_text(
        "Name: Foo_Bar\nVersion: 1.0\nLicense-Expression: MIT\n\nx"
    )
    (packages / "baz-2.dist-info" / "METADATA").write_text("Name: baz\nVersion: 2\n")
    (tmp_path / "var" / "lib" / "dpkg").mkdir(parents=True)
    (tmp_path / "var" / "lib" / "dpkg" / "status").write_text(
        "Package: libc6\nStatus: install ok installed\nVersion: 2.36-9+deb12u1\nArchitecture: amd64\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\nArchitecture: all\n"
    )

    document = sbom_of(tmp_path, name="sam3ft/operator:dev", version="0.1.0")
    assert ("CycloneDX", "1.6", 1) == (document["bomFormat"], document["specVersion"], document["version"])
    assert re.fullmatch(
        r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", document["serialNumber"]
    )
    assert [
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u1?arch=amd64",
        "pkg:pypi/baz@2",
        "pkg:pypi/foo-bar@1.0",
    ] == [component["purl"] for component in document["components"]]
    assert [{"expression": "MIT"}] == document["components"][2]["licenses"]
    assert json.dumps(document) == json.dumps(sbom_of(tmp_path, name="sam3ft/operator:dev", version="0.1.0"))
