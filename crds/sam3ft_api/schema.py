"""From pydantic's JSON schema to a structural schema, the dialect that the API server accepts.

No references, no null in unions (an optional field is an absent one), bounds in OpenAPI's words, maps as
`additionalProperties`, no unknown keys by default; CEL rules and list types are passed through.
"""

from typing import Any

from pydantic import BaseModel

_RULES = "x-kubernetes-validations"
Schema = dict[str, Any]

_KEPT = (
    "type",
    "description",
    "enum",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
    "default",
    "x-kubernetes-validations",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
)
# Bounds that pydantic leaves in its own words where a validator stands in front of the type.
_RAW_NUMBER = {"ge": "minimum", "le": "maximum", "multiple_of": "multipleOf"}
_SIZES = {
    "array": {"maxLength": "maxItems", "minLength": "minItems"},
    "object": {"maxLength": "maxProperties", "minLength": "minProperties"},
}


def structural_schema(model: type[BaseModel], *, defaults: bool = True) -> Schema:
    """Return the structural schema of a model, with every field's description.

    Args:
        model: its fields and docstrings become the schema.
        defaults: have the API server fill in defaults; wrong for a status, where absent means not known.

    Raises:
        ValueError: the model has a field that a structural schema cannot express: a union of types, or an exclusive
            bound; the message names it.
    """
    root = model.model_json_schema(by_alias=True, mode="validation")
    schema = _convert(root, root, model.__name__)
    return schema if defaults else _without_defaults(schema)


def _without_defaults(schema: Schema) -> Schema:
    result = {key: value for key, value in schema.items() if key != "default"}
    if "properties" in result:
        result["properties"] = {name: _without_defaults(child) for name, child in result["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(result.get(key), dict):
            result[key] = _without_defaults(result[key])
    return result


def _convert(node: Schema, root: Schema, where: str) -> Schema:
    node = _flat(node, root, where)
    if node.get("x-kubernetes-int-or-string"):
        node = {key: value for key, value in node.items() if key != "type"}
    kind = str(node.get("type", ""))
    names = _RAW_NUMBER | _SIZES.get(kind, {})
    node = {names.get(key, key): value for key, value in node.items()}
    if "exclusiveMinimum" in node or "exclusiveMaximum" in node or "gt" in node or "lt" in node:
        raise ValueError(f"{where} has an exclusive bound; state the smallest or largest allowed value")
    if "const" in node:
        node["enum"] = [node["const"]]
    result = {key: node[key] for key in _KEPT if key in node}
    if node.get("x-kubernetes-int-or-string"):
        result["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if kind == "number" and not float(result.get("minimum", 0)).is_integer():
        result[_RULES] = [*result.get(_RULES, ()), _least(result["minimum"])]
    if kind == "array":
        result["items"] = _convert(node["items"], root, f"{where}[]")
    if kind == "object":
        _convert_object(node, result, root, where)
    return result


def with_exact_integers(schema: Schema) -> Schema:
    """Return the schema with a rule on every integer, so that the API server refuses a fraction however small.

    It takes a number within a billionth of an integer for one (go-openapi, IsFloat64AJSONInteger), and stores it as it
    is; a rule that reads the field refuses everything that is no integer in JSON.
    """
    result = dict(schema)
    if result.get("type") == "integer" and not result.get(_RULES):
        result[_RULES] = [{"rule": f"self >= {result.get('minimum', -(2**53))}", "message": "write a whole number"}]
    if "properties" in result:
        result["properties"] = {name: with_exact_integers(child) for name, child in result["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(result.get(key), dict):
            result[key] = with_exact_integers(result[key])
    return result


def _least(bound: float) -> Schema:
    """Return a bound once more as a rule: the API server cuts 0.001 to 0 when it compares it with a whole number."""
    return {"rule": f"self >= {bound:.12f}".rstrip("0"), "message": f"the smallest allowed value is {bound:g}"}


def _convert_object(node: Schema, result: Schema, root: Schema, where: str) -> None:
    if "properties" in node:
        result["properties"] = {
            name: _convert(child, root, f"{where}.{name}") for name, child in node["properties"].items()
        }
        if result.get("default") is not None:
            # The API server fills in the group's own defaults, but checks this value against the rules before it does.
            filled = {name: child["default"] for name, child in result["properties"].items() if "default" in child}
            rules = " ".join(rule["rule"] for rule in result.get("x-kubernetes-validations", ()))
            result["default"] = {name: value for name, value in filled.items() if f"self.{name}" in rules}
        return
    if result.get("x-kubernetes-preserve-unknown-fields"):
        return
    values = node.get("additionalProperties") or next(iter(node.get("patternProperties", {}).values()), None)
    if not isinstance(values, dict):
        raise ValueError(f"{where} is a map of anything; give its values a type")  # noqa: TRY004 - the model is wrong
    result["additionalProperties"] = _convert(values, root, f"{where}.*")


def _flat(node: Schema, root: Schema, where: str) -> Schema:
    """Follow references and step over null; keys beside a reference win over those behind it."""
    node = dict(node)
    if node.get("default", 0) is None:
        del node["default"]
    while "$ref" in node or "anyOf" in node:
        if "$ref" in node:
            target = root["$defs"][str(node.pop("$ref")).removeprefix("#/$defs/")]
        else:
            options = [option for option in node.pop("anyOf") if option.get("type") != "null"]
            if len(options) != 1:
                raise ValueError(f"{where} is a union of {len(options)} types; split it into two fields")
            target = options[0]
        node = {**target, **node}
    return node
