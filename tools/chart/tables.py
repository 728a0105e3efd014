"""The tables of the chart's README, from the schema of the values and their defaults."""

import json
from typing import Any

from schema import Schema, leaves, settings_schema

from sam3ft_api.yaml import read_yaml
from sam3ft_launch.kubernetes.settings import ClusterSettings

_BEGIN, _END = "<!-- generated: {name} -->\n", "<!-- end of what is generated -->\n"
NOT_LISTED = ("global", "enabled")


def with_tables(page: str, values: str, schema: Schema) -> str:
    """Return the page with both tables written anew.

    Args:
        page: the README as it is.
        values: text of values.yaml.
        schema: of the values.

    Raises:
        ValueError: the page lacks a place for a table.
    """
    defaults = read_yaml(values, name="values.yaml").data
    own = [
        (place, _default_of(defaults, place), rule)
        for place, rule in leaves({**schema, "properties": schema["properties"] | {"runs": {}}})
        if place not in (*NOT_LISTED, "runs")
    ]
    settings = ClusterSettings(operator_image="x").model_dump(mode="json", by_alias=False)
    camel = {name.replace("_", "").lower(): value for name, value in settings.items()}
    runs = [(f"runs.{name}", camel[name.lower()], rule) for name, rule in settings_schema()["properties"].items()]
    return _put(_put(page, "values", _table(own)), "runs", _table(runs))


def _table(rows: list[tuple[str, Any, Schema]]) -> str:
    lines = ["| value | default | what |", "|---|---|---|"]
    for place, default, rule in rows:
        said = str(rule.get("description", "")).replace("|", "\\|")
        lines.append(f"| `{place}` | `{json.dumps(default)}` | {said} |")
    return "\n".join(lines) + "\n"


def _default_of(values: Any, place: str) -> Any:
    for name in place.split("."):
        values = values[name]
    return values


def _put(page: str, name: str, table: str) -> str:
    begin = _BEGIN.format(name=name)
    head, found, rest = page.partition(begin)
    if not found or _END not in rest:
        raise ValueError(f"README.md has no place for the table of {name}: {begin.strip()} ... {_END.strip()}")
    return head + begin + "\n" + table + "\n" + _END + rest.partition(_END)[2]
