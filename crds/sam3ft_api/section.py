"""The bases of every group of fields, and the rules that pydantic and the API server share.

A group refuses unknown keys. In the resource it also takes `camelCase` names through one generator, and treats null
like an absent key, as the API server does. A `Rule` states one condition over several fields twice, in CEL and in
Python, side by side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, JsonValue, model_validator
from pydantic.alias_generators import to_camel

VALIDATIONS = "x-kubernetes-validations"
"""Key under which a structural schema carries its CEL rules."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition over several fields of a group.

    Attributes:
        cel: expression over `self` that the API server evaluates after it has filled in the defaults.
        holds: the same over the validated model.
        message: one sentence for the user; what is wrong and what to do.
    """

    cel: str
    holds: Callable[[Any], bool]
    message: str


def cel_rules(rules: tuple[Rule, ...]) -> list[JsonValue]:
    """Return the rules as a structural schema carries them."""
    return [{"rule": rule.cel, "message": rule.message} for rule in rules]


class Section(BaseModel):
    """A closed group of the config document's settings: unknown keys are errors, and nothing changes once validated."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=(), use_attribute_docstrings=True
    )


class SpecSection(BaseModel):
    """A closed group of fields; its JSON form is camelCase, and nothing can be changed after validation."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        alias_generator=to_camel,
        serialize_by_alias=True,
        protected_namespaces=(),
    )
    RULES: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        known = {field.alias for field in cls.model_fields.values()}
        return {key: item for key, item in value.items() if item is not None or key not in known}

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        for rule in self.RULES:
            if not rule.holds(self):
                raise ValueError(rule.message)
        return self

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Put the group's rules into its JSON schema, where the CRD generator finds them."""
        super().__pydantic_init_subclass__(**kwargs)
        if cls.RULES:
            cls.model_config["json_schema_extra"] = {VALIDATIONS: cel_rules(cls.RULES)}


def without_nulls(value: Any) -> Any:
    """Drop the null values of a map, as the API server does before it validates."""
    return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


def unique(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return the list when no value stands in it twice.

    Raises:
        ValueError: names the value that does.
    """
    for position, value in enumerate(values):
        if value in values[:position]:
            raise ValueError(f"{value!r} stands in the list twice; keep it once")
    return values
