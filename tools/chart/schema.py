"""The JSON schema of the chart's values: what values.yaml says by its defaults, and what the operator's models say."""

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from sam3ft_api.profiles import WorkerProfile
from sam3ft_api.storage import StorageProfile
from sam3ft_api.yaml import read_yaml
from sam3ft_launch.kubernetes.settings import ClusterSettings

Schema = dict[str, Any]
DNS_LABEL = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_MAP = {"type": "object", "additionalProperties": {"type": "string"}}
_NAMES = {"type": "array", "items": {"type": "string", "minLength": 1}}
_OBJECTS = {"type": "array", "items": {"type": "object"}}
_IMAGE = {
    "tag": {"type": "string", "pattern": "^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$"},
    "digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
}
RULES: dict[str, Schema] = {
    "image.repository": {"type": "string", "minLength": 1},
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    **{f"{image}.{part}": rule for image in ("image", "trainerImage") for part, rule in _IMAGE.items()},
    "imagePullSecrets": _NAMES,
    "watchNamespace": {"type": "string", "pattern": "^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$"},
    "replicas": {"type": "integer", "minimum": 1, "maximum": 8},
    "serviceAccount.annotations": _MAP,
    "operator.workers": {"type": "integer", "minimum": 1, "maximum": 10_000},
    "operator.qps": {"type": "integer", "minimum": 1, "maximum": 10_000},
    "operator.resyncSeconds": {"type": "integer", "minimum": 1, "maximum": 10_000},
    "operator.terminationGracePeriodSeconds": {"type": "integer", "minimum": 25, "maximum": 3600},
    "operator.resources": {"type": "object"},
    "operator.runAsUser": {"type": ["integer", "null"], "minimum": 1},
    "operator.nodeSelector": _MAP,
    "operator.tolerations": _OBJECTS,
    "operator.affinity": {"type": "object"},
    "operator.topologySpreadConstraints": _OBJECTS,
    "operator.podLabels": _MAP,
    "operator.podAnnotations": _MAP,
    "operator.env": _OBJECTS,
    "networkPolicy.apiServerPorts": {
        "type": "array",
        "minItems": 1,
        "items": {"type": "integer", "minimum": 1, "maximum": 65535},
    },
    "networkPolicy.apiServerCidrs": _NAMES,
    "metrics.port": {"type": "integer", "minimum": 1024, "maximum": 65535},
    "metrics.namespaceLabels": _MAP,
    "metrics.whenMissing": {"enum": ["skip", "fail", "always"]},
    "metrics.labels": _MAP,
    "metrics.dashboards.labels": _MAP,
    "metrics.dashboards.annotations": _MAP,
    "metrics.dashboards.namespace": {"type": "string", "pattern": "^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$"},
    "metrics.interval": {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"},
    "commonLabels": _MAP,
}
"""What a value may be, where its default does not say it."""
ELSEWHERE = frozenset(
    {
        "operator_image",
        "trainer_image",
        "worker_profiles",
        "storage_profiles",
        "operator_namespace",
        "operator_labels",
        "image_pull_policy",
    }
)
"""Settings of the operator that the chart knows by itself, or from another value than `runs`."""


def values_schema(text: str) -> Schema:
    """Return the schema of values.yaml, closed at its root but for what a parent chart sets: `global` and `enabled`."""
    schema = _object(read_yaml(text, name="values.yaml").data, descriptions(text), "")
    properties = schema["properties"]
    properties["workerProfiles"] |= _named(WorkerProfile)
    properties["storageProfiles"] |= _named(StorageProfile)
    properties["runs"] |= settings_schema()
    properties["global"] = {"type": "object", "description": "Values that all charts of a parent share; none is read."}
    properties["enabled"] = {"type": "boolean", "description": "For a parent chart's condition; not read here."}
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Values of the chart sam3ft", **schema}


def settings_schema() -> Schema:
    """Return the schema of `runs`: the operator's settings in camelCase, without those that are set elsewhere."""
    schema = _inlined(ClusterSettings)
    properties = {to_camel(name): rule for name, rule in schema["properties"].items() if name not in ELSEWHERE}
    for name, described in _settings_described().items():
        if name in properties:
            properties[name] = {"description": described, **properties[name]}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def descriptions(text: str) -> dict[str, str]:
    """Return the `# --` comments of values.yaml by the path of the value below them."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    said = ""
    for line in text.splitlines():
        if comment := re.match(r"\s*# -- (.*)", line):
            said = comment[1]
        elif said and (more := re.match(r"\s*# (.*)", line)):
            said += " " + more[1]
        elif key := re.match(r"( *)([A-Za-z]\w*):", line):
            path = [(depth, name) for depth, name in path if depth < len(key[1])]
            path.append((len(key[1]), key[2]))
            if said:
                found[".".join(name for _, name in path)] = said
            said = ""
    return found


def _settings_described() -> dict[str, str]:
    """Return the words of the model's docstring by camelCase name."""
    section = (ClusterSettings.__doc__ or "").split("Attributes:\n")[1]
    entries = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", section, flags=re.MULTILINE)
    return {to_camel(name): " ".join(words.split()) for name, words in entries}


def _object(values: dict[str, Any], said: dict[str, str], path: str) -> Schema:
    properties = {}
    for name, value in values.items():
        place = f"{path}{name}"
        rule = RULES.get(place) or (
            _object(value, said, f"{place}.") if isinstance(value, dict) and value else {"type": _type(value)}
        )
        properties[name] = {"description": said[place], **rule} if place in said else dict(rule)
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _type(value: Any) -> str:
    # In this order: a bool is an int.
    kinds = ((bool, "boolean"), (int, "integer"), (str, "string"), (list, "array"), (dict, "object"))
    return next(name for kind, name in kinds if isinstance(value, kind))


def _named(model: type[BaseModel]) -> Schema:
    """Return the schema of a mapping from names to a model."""
    return {
        "type": "object",
        "maxProperties": 256,
        "propertyNames": {"pattern": DNS_LABEL},
        "additionalProperties": _inlined(model),
    }


def _inlined(model: type[BaseModel]) -> Schema:
    """Return a model's schema without references, which a subschema cannot carry along."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    inlined: Schema = _plain(schema, definitions)
    return inlined


def _plain(node: Any, definitions: Schema) -> Any:
    if isinstance(node, list):
        return [_plain(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        found = definitions[node["$ref"].rpartition("/")[2]]
        return _plain({**found, **{key: value for key, value in node.items() if key != "$ref"}}, definitions)
    properties = node.get("properties")
    kept = {key: _plain(value, definitions) for key, value in node.items() if key not in _DROPPED | {"properties"}}
    if isinstance(properties, dict):  # its keys are names, not words of the schema
        kept["properties"] = {name: _plain(rule, definitions) for name, rule in properties.items()}
    if "patternProperties" in kept:
        kept.setdefault("additionalProperties", False)
    if kept.get("type") == "object" and "maxLength" in kept:
        kept["maxProperties"] = kept.pop("maxLength")
    for word, standard in (("ge", "minimum"), ("le", "maximum")):
        if word in node:
            kept[standard] = node[word]
    if node.get("x-kubernetes-int-or-string"):
        kept["type"] = ["string", "integer"]
    return kept


_DROPPED = frozenset({"title", "default", "ge", "le", "x-kubernetes-int-or-string"})


def leaves(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Yield every value that can be set with its path, in the order of the schema."""
    for name, rule in schema.get("properties", {}).items():
        place = f"{path}{name}"
        if rule.get("properties") and "additionalProperties" in rule and rule["additionalProperties"] is False:
            yield from leaves(rule, f"{place}.")
        else:
            yield place, rule
