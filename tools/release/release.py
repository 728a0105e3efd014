"""What a release must hold before anything is published, and its notes.

    python tools/release/release.py check v0.2.0      prints the version, or says what does not fit
    python tools/release/release.py notes v0.2.0      the section of CHANGELOG.md

Standard library only: it runs before anything is installed.
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Unfit(ValueError):
    """The tag cannot be released as it is; the message says why."""


def check(tag: str, root: Path = ROOT) -> str:
    """Return the version of a tag that project, chart and change log agree on.

    Raises:
        Unfit: the tag is no version, one of the files names another, or the change log says nothing about it.
    """
    if re.fullmatch(r"v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?", tag) is None:
        raise Unfit(f"{tag!r} is no release; tags are v and a semantic version, such as v0.2.0")
    version = tag[1:]
    chart = (root / "charts" / "sam3ft" / "Chart.yaml").read_text()
    named = {
        "pyproject.toml, project.version": tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"],
        **{f"charts/sam3ft/Chart.yaml, {key}": _value(chart, key) for key in ("version", "appVersion")},
    }
    others = [f"{place} is {found}" for place, found in named.items() if found != version]
    if others:
        raise Unfit(f"the tag is {tag}, and {'; '.join(others)}: set them alike, and tag that commit")
    notes(tag, root)
    return version


def notes(tag: str, root: Path = ROOT) -> str:
    """Return what the change log says about a release.

    Raises:
        Unfit: it says nothing.
    """
    text = (root / "CHANGELOG.md").read_text()
    found = re.search(rf"^## \[{re.escape(tag[1:])}\][^\n]*\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None or not found[1].strip():
        raise Unfit(f"CHANGELOG.md has no section [{tag[1:]}], or an empty one: move there what is under Unreleased")
    return found[1].strip()


def _value(document: str, key: str) -> str:
    """Return a top-level scalar of a YAML document."""
    found = re.search(rf"^{key}: *\"?([^\"\s]+)", document, re.MULTILINE)
    return found[1] if found is not None else "missing"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("check", "notes"))
    parser.add_argument("tag")
    given = parser.parse_args(arguments)
    try:
        print({"check": check, "notes": notes}[given.action](given.tag))
    except Unfit as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
