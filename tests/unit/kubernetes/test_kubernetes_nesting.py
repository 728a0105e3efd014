"""JSON that is nested too deeply is made shallow, and nothing else of it is changed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam3ft_launch.kubernetes.nesting import shallow

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


def cut(value: Any, levels: int) -> Any:
    """Return a value with null for what is nested deeper."""
    if not isinstance(value, dict | list):
        return value
    if levels == 0:
        return None
    if isinstance(value, list):
        return [cut(inner, levels - 1) for inner in value]
    return {name: cut(inner, levels - 1) for name, inner in value.items()}


@given(VALUES, st.integers(1, 5))
def test_what_is_nested_deeper_is_null(value: Any, levels: int) -> None:
    for content in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert cut(value, levels) == json.loads(shallow(content.encode(), max_levels=levels))


@pytest.mark.parametrize("levels", [1_500, 9_999])
def test_as_many_levels_as_the_api_server_takes_can_be_read(levels: int) -> None:
    content = b'{"name":"a","deep":' + b'{"x":' * levels + b"1" + b"}" * levels + b',"after":[1,2]}'
    found = json.loads(shallow(content))

    assert ("a", [1, 2]) == (found["name"], found["after"])


@pytest.mark.parametrize("content", [b"", b"]]]", b'{"a', b"[[[", b'"\\'])
def test_what_is_no_json_stays_none(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        json.loads(shallow(content, max_levels=2))
