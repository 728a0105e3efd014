"""What the Kubernetes API server does with a custom resource, for tests: prune nulls, default, validate, evaluate CEL.

Follows k8s.io/apiextensions-apiserver: nulls of known fields without a default are dropped, defaults are filled in,
unknown fields are errors (strict field validation), patterns are RE2 searches, 20.0 counts as an integer for the
schema but is an error for a rule that reads it.
"""

import copy
import functools
from typing import Any

import celpy
import re2  # type: ignore[import-untyped]
from celpy import celtypes
from celpy.adapter import json_to_cel
from celpy.evaluation import CELEvalError
from jsonschema import ValidationError, validators

from sam3ft_api.crd import custom_resource_definition

ROOT = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
RULES = "x-kubernetes-validations"

_ENVIRONMENT = celpy.Environment()


def verdict(new: dict[str, Any], old: dict[str, Any] | None = None) -> list[str]:
    """Return why the resource would be refused; empty when it would be stored."""
    new, old = prepared(new), prepared(old) if old is not None else None
    problems = list(_unknown(new, ROOT, ""))
    problems += [error.message for error in _validator().iter_errors(new)]
    return problems or list(_broken_rules(new, old, ROOT, ""))


def prepared(resource: dict[str, Any]) -> dict[str, Any]:
    """Return the resource as validation sees it: nulls pruned, defaults filled in."""
    resource = copy.deepcopy(resource)
    _prune_nulls(resource, ROOT)
    _default(resource, ROOT)
    return resource


def leaves(schema: dict[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the schema of every field by its path; lists and maps are leaves."""
    if "properties" not in schema:
        return {path: schema}
    found: dict[tuple[str, ...], dict[str, Any]] = {path: schema} if path else {}
    for name, child in schema["properties"].items():
        found |= leaves(child, (*path, name))
    return found


def _child_schema(schema: dict[str, Any], key: str) -> dict[str, Any] | None:
    return schema.get("properties", {}).get(key) or schema.get("additionalProperties")


def _prune_nulls(value: Any, schema: dict[str, Any] | None) -> None:
    if schema is None:
        return
    if isinstance(value, dict):
        for key in list(value):
            child = _child_schema(schema, key)
            if value[key] is None and child is not None and "default" not in child:
                del value[key]
            else:
                _prune_nulls(value[key], child)
    elif isinstance(value, list):
        for item in value:
            _prune_nulls(item, schema.get("items"))


def _default(value: Any, schema: dict[str, Any] | None) -> None:
    if schema is None:
        return
    if isinstance(value, dict):
        for key, child in schema.get("properties", {}).items():
            if "default" in child and value.get(key) is None:
                value[key] = copy.deepcopy(child["default"])
        for key, item in value.items():
            _default(item, _child_schema(schema, key))
    elif isinstance(value, list):
        for item in value:
            _default(item, schema.get("items"))


def _unknown(value: Any, schema: dict[str, Any], path: str) -> Any:
    if schema.get("x-kubernetes-preserve-unknown-fields") or path == ".metadata":
        return
    if isinstance(value, dict):
        for key, item in value.items():
            child = _child_schema(schema, key)
            if child is None:
                yield f"unknown field {path}.{key}"
            else:
                yield from _unknown(item, child, f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown(item, schema.get("items", {}), f"{path}[{index}]")


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Any:
    if isinstance(instance, str) and not re2.search(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern}")


def _list_type(_validator: Any, kind: str, instance: Any, _schema: Any) -> Any:
    if kind == "set" and isinstance(instance, list) and len({repr(item) for item in instance}) < len(instance):
        yield ValidationError(f"{instance!r} has an item twice")


@functools.cache
def _validator() -> Any:
    base = validators.Draft4Validator
    checker = base.TYPE_CHECKER.redefine("integer", _is_integer)
    kind: Any = validators.extend(  # type: ignore[no-untyped-call]
        base, {"pattern": _pattern, "x-kubernetes-list-type": _list_type}, type_checker=checker
    )
    return kind(ROOT)


def _is_integer(_checker: Any, value: Any) -> bool:
    return not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))


@functools.cache
def _program(rule: str) -> Any:
    return _ENVIRONMENT.program(_ENVIRONMENT.compile(rule))


def _broken_rules(new: Any, old: Any, schema: dict[str, Any], path: str) -> Any:
    rules = [rule for rule in schema.get(RULES, []) if "oldSelf" not in rule["rule"] or old is not None]
    if rules:
        scope = {"self": _typed(new, schema)} | ({"oldSelf": _typed(old, schema)} if old is not None else {})
        for rule in rules:
            yield from _broken(rule, scope, path)
    if isinstance(new, dict):
        for key, item in new.items():
            child = _child_schema(schema, key)
            if child is not None:
                before = old.get(key) if isinstance(old, dict) else None
                yield from _broken_rules(item, before, child, f"{path}.{key}")
    elif isinstance(new, list):
        for index, item in enumerate(new):
            yield from _broken_rules(item, None, schema.get("items", {}), f"{path}[{index}]")


def _broken(rule: dict[str, str], scope: dict[str, Any], path: str) -> Any:
    try:
        holds = bool(_program(rule["rule"]).evaluate(scope))
    except (CELEvalError, TypeError) as error:
        yield f"{path}: {rule['rule']}: {error}"
    else:
        if not holds:
            yield f"{path}: {rule['message']}"


class _NoInteger:
    """A float where the schema says integer: any rule that reads it fails, as in the API server."""


def _typed(value: Any, schema: dict[str, Any]) -> Any:
    """Convert to CEL values by the schema's types."""
    kind = schema.get("type")
    if kind == "object" and isinstance(value, dict):
        typed = celtypes.MapType()
        for key, item in value.items():
            child = _child_schema(schema, key)
            typed[celtypes.StringType(key)] = _typed(item, child) if child else json_to_cel(item)
        return typed
    if kind == "array" and isinstance(value, list):
        return celtypes.ListType([_typed(item, schema["items"]) for item in value])
    if kind == "integer":
        return celtypes.IntType(value) if isinstance(value, int) else _NoInteger()
    if kind == "number":
        return celtypes.DoubleType(value)
    return json_to_cel(value)
