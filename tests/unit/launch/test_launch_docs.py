"""The pages about the command line keep up with the command line."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from sam3ft_api.exit_codes import EXIT_RULES
from sam3ft_launch.cli.app import app

DOCS = Path(__file__).parents[3] / "docs"


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield every verb with its options."""
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        for verb, leaf in getattr(command, "commands", {"": command}).items():
            options = [word for parameter in leaf.params for word in parameter.opts if word.startswith("--")]
            yield f"{name} {verb}".strip(), options


@pytest.mark.parametrize(
    ("verb", "options"), list(commands()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_verb_and_option_is_described(verb: str, options: list[str]):
    text = (DOCS / "cli.md").read_text()

    assert f"`sam3ft {verb}" in text
    for option in options:
        assert option in text or option.replace("--wait", "--no-wait") in text


def test_every_exit_code_has_its_section():
    titles = re.findall(r"^## (\d+) (\w+)$", (DOCS / "errors.md").read_text(), flags=re.MULTILINE)

    expected = [(str(int(code)), rule.reason) for code, rule in EXIT_RULES.items() if code != 0]

    assert expected == titles


@pytest.mark.parametrize("page", ["cli.md", "cluster.md", "local.md", "errors.md", "README.md"])
def test_links_between_pages_lead_somewhere(page: str):
    targets = re.findall(r"\]\(([a-z-]+(?:\.md)?)\)", (DOCS / page).read_text())

    missing = [target for target in targets if not (DOCS / target).exists()]

    assert [] == missing
