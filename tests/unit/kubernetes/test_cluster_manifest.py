"""Objects as text: every reader of YAML, old or new, reads back what was written."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from sam3ft_launch.kubernetes.manifest import to_yaml

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**15), 10**15), st.floats(allow_nan=False, allow_infinity=False), TEXTS
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=20,
)
ODD = (
    "", " ", "yes", "No", "on", "n", "~", "True", "1", "0x10", "1e3", "8e-05", "1_000", "12:30:45", "2026-01-01",
    "a: b", "a:", "a #b", "#", "- a", "-", "--x", "---", "...", "[a]", "{a: b}", "*a", "&a", "!a", "|", ">", "%a", "@a",
    "`a`", "'a'", '"a"', "\\", "a\nb", "a\n", "\na", "a\n\nb\n", "a\n\n", " a\nb\n", "a \nb\n", "a\tb", "\t",
    "a\r\nb\n", "\x00", "\x7f", "\x85", "\xa0", "\u2028", "\ufeff", "\U0001f600", "a\u2028\nb\n", "<<", "=", "null",
    "a\n---\nkind: Pod\n", "\u00e9\n\u00fc\n", "a\n  \nb\n", "a\n#b\n",
)  # fmt: skip


def readings(text: str) -> list[list[Any]]:
    """What a reader of YAML 1.1 and one of YAML 1.2 take the text for."""
    return [list(yaml.safe_load_all(text)), list(YAML(typ="safe", pure=True).load_all(text))]


@pytest.mark.parametrize("text", ODD, ids=repr)
def test_odd_text_stays_what_it_is_wherever_it_stands(text: str):
    documents = [{"a": text, text: "b", "c": [text, [text], {"d": text}]}, text, [text]]

    assert [documents, documents] == readings(to_yaml(documents))


@given(st.lists(VALUES, min_size=1, max_size=3))
def test_whatever_json_holds_is_read_back(documents: list[Any]):
    assert [documents, documents] == readings(to_yaml(documents))


@pytest.mark.parametrize("number", [0.5, 8e-05, 1e16, -1e-07, 1e300, 3, -0.0, 10**18])
def test_numbers_stay_numbers(number: float):
    for reading in readings(to_yaml([{"a": number}])):
        assert number == reading[0]["a"]
        assert isinstance(reading[0]["a"], type(number))


def test_a_text_of_several_lines_keeps_them():
    assert "a:\n  b: |\n    one\n\n      two\nc: d\n" == to_yaml([{"a": {"b": "one\n\n  two\n"}, "c": "d"}])


def test_short_words_need_no_quotes_and_documents_are_apart():
    assert "- image: r.example/a:1\n  m: 1\n  ok: true\n---\n[]\n" == to_yaml(
        [[{"image": "r.example/a:1", "m": 1, "ok": True}], []]
    )


def test_numbers_that_json_does_not_have_are_refused():
    with pytest.raises(ValueError, match="JSON"):
        to_yaml([float("nan")])
