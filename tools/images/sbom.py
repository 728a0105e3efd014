"""What is in an image, as a bill of materials in CycloneDX 1.6: Python distributions and Debian packages."""

import hashlib
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

Document = dict[str, Any]


def sbom_of(root: Path, *, name: str, version: str) -> Document:
    """Return the bill of materials of a file system; equal contents give equal documents.

    Args:
        root: with the METADATA of distributions and the status of dpkg.
        name: of the image.
        version: of the project.
    """
    found = sorted([*python_components(root), *debian_components(root)], key=lambda it: str(it["purl"]))
    marks = "\n".join(str(component["purl"]) for component in found)
    digest = hashlib.sha256(marks.encode()).hexdigest()
    serial = "-".join((digest[:8], digest[8:12], f"4{digest[13:16]}", f"8{digest[17:20]}", digest[20:32]))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {"component": {"type": "container", "bom-ref": name, "name": name, "version": version}},
        "components": found,
    }


def python_components(root: Path) -> list[Document]:
    """Return the installed Python distributions; one that is installed twice is listed once."""
    found: dict[str, Document] = {}
    for path in sorted(root.rglob("*.dist-info/METADATA")):
        metadata = HeaderParser().parsestr(path.read_text(encoding="utf-8", errors="replace"))
        name, version = str(metadata["Name"]), str(metadata["Version"])
        purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
        component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        licence = metadata["License-Expression"]
        found[purl] = component | ({"licenses": [{"expression": str(licence)}]} if licence else {})
    return list(found.values())


def debian_components(root: Path) -> list[Document]:
    """Return the installed Debian packages; none where there is no dpkg."""
    status = root / "var" / "lib" / "dpkg" / "status"
    if not status.is_file():
        return []
    components = []
    for stanza in status.read_text(encoding="utf-8", errors="replace").split("\n\n"):
        fields = HeaderParser().parsestr(stanza)
        if not fields["Package"] or "installed" not in str(fields["Status"]).split():
            continue
        name, version = str(fields["Package"]), str(fields["Version"])
        purl = f"pkg:deb/debian/{name}@{version.replace('+', '%2B')}?arch={fields['Architecture']}"
        components.append({"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl})
    return components
