"""What a release must hold: one version everywhere, and notes."""

from pathlib import Path

import pytest
import release

LOG = """# Changelog

## [Unreleased]

## [0.2.0] - 2026-01-01

### Added

- A thing.

## [0.1.0]

- The first.
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "charts" / "sam3ft").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "sam3ft"\nversion = "0.2.0"\n')
    (tmp_path / "charts" / "sam3ft" / "Chart.yaml").write_text('version: 0.2.0\nappVersion: "0.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(LOG)
    return tmp_path


def test_a_tag_that_everything_agrees_with_has_a_version_and_notes(tree: Path) -> None:
    assert "0.2.0" == release.check("v0.2.0", tree)
    assert "### Added\n\n- A thing." == release.notes("v0.2.0", tree)
    assert "- The first." == release.notes("v0.1.0", tree)


def test_each_place_with_another_version_is_named(tree: Path) -> None:
    (tree / "charts" / "sam3ft" / "Chart.yaml").write_text("version: 0.1.9\nappVersion: 0.2.0\n")

    with pytest.raises(
        release.Unfit, match=r"^the tag is v0\.2\.0, and charts/sam3ft/Chart\.yaml, version is 0\.1\.9: set"
    ):
        release.check("v0.2.0", tree)


@pytest.mark.parametrize("tag", ["0.2.0", "v0.2", "v0.2.0; rm -rf /", "v0.2.0\nx", "latest"])
def test_a_tag_that_is_no_version_is_refused(tree: Path, tag: str) -> None:
    with pytest.raises(release.Unfit, match="is no release; tags are v and a semantic version"):
        release.check(tag, tree)


@pytest.mark.parametrize("log", ["# Changelog\n", LOG.replace("- A thing.", "").replace("### Added", "")])
def test_a_release_without_notes_is_refused(tree: Path, log: str) -> None:
    (tree / "CHANGELOG.md").write_text(log)

    with pytest.raises(release.Unfit, match=r"no section \[0\.2\.0\], or an empty one"):
        release.check("v0.2.0", tree)


def test_the_command_line_prints_or_says_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert 1 == release.main(["check", "latest"])

    said = capsys.readouterr()
    assert ("", "release: 'latest' is no release; tags are v and a semantic version, such as v0.2.0\n") == said


def test_the_project_and_its_chart_have_one_version() -> None:
    """Else a tag would be refused on the day of the release."""
    version = release.tomllib.loads((release.ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = (release.ROOT / "charts" / "sam3ft" / "Chart.yaml").read_text()

    assert [version, version] == [release._value(chart, key) for key in ("version", "appVersion")]
