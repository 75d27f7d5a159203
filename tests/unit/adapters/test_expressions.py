"""Expressions of tenants over data of strangers: what they find, and what they may not do."""

from __future__ import annotations

import re
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.adapters.models.expressions import (
    BadExpression,
    Document,
    Expression,
    Missing,
    Template,
    TooLong,
    fits,
    sharing,
)


@pytest.mark.parametrize(
    ("text", "value", "found"),
    [
        ("a.b[0].c", {"a": {"b": [{"c": 1}]}}, 1),
        ("files[].url", {"files": [{"url": "u"}, {"url": "v"}, {}]}, ["u", "v"]),
        ("a || b", {"b": 2}, 2),
        ("items[?state=='x'] | [0].id", {"items": [{"state": "y", "id": 1}, {"state": "x", "id": 2}]}, 2),
        ("length(a)", {}, None),
        ("a < b", {"a": 1, "b": "x"}, None),
        ("join(', ', errors[].msg)", {"errors": [{"msg": "a"}, {"msg": "b"}]}, "a, b"),
        ("@", [1], [1]),
        ("__class__", {}, None),
        ("a", "a string", None),
    ],
)
def test_what_expressions_find(text: str, value: Any, found: Any) -> None:
    assert Expression(text).find(value) == found


@pytest.mark.parametrize(
    "text",
    [
        "", "a[", "a..b", "x" * 1_001, "(" * 900, "no_such(a)", "to_string(@)", "join(a, b)", f"join('{'x' * 17}', a)",
        " | ".join(["[@, @]"] * 7), ".".join(["a"] * 300), "{a: a, b: b} | {c: a, d: b} | [a, b, c, d] | [@,@,@,@,@]",
    ],
)  # fmt: skip
def test_what_cannot_be_an_expression(text: str) -> None:
    with pytest.raises(BadExpression):
        Expression(text)


def test_expressions_that_would_run_for_ever_find_nothing() -> None:
    many = "`[" + ",".join("1" for _ in range(40)) + "]`"
    text = f"map(&map(&map(&map(&length(to_array(@)), {many}), {many}), {many}), {many})"
    began = time.process_time()
    assert Expression(text).find({}) is None
    assert time.process_time() - began < 5
    assert Expression("a[*].b | length(@)").find({"a": [{"b": 1}] * 20_000}) == 20_000


@pytest.mark.parametrize(
    "text", ["@" + "[]" * 60, "@" + " | sort(@)" * 40, "@" + " | reverse(@)" * 40, "@" + " | [0:]" * 15 + "[]" * 15]
)
def test_steps_that_copy_count_for_what_they_copy(text: str) -> None:
    assert Expression(text).find(list(range(100))) == list(range(100))
    assert Expression(text).find(list(range(190_000))) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (f"[{', '.join(['sum(@)'] * 60)}]", list(range(199_000))),
        (" || ".join(["max(@) != min(@)"] * 20), [0] * 199_000),
        (" || ".join([f"contains(@, '{'a' * 30}b')"] * 20), "a" * (40 * 2**20)),
        (f"[{', '.join(['@'] * 60)}]", list(range(199_000))),
    ],
)
def test_steps_that_read_count_for_what_they_read(text: str, value: Any) -> None:
    began = time.process_time()
    assert Expression(text).find(value) is None
    assert time.process_time() - began < 0.9


def test_what_is_glanced_at_costs_little() -> None:
    large = {"a": "data:," + "x" * (50 * 2**20), "b": [1] * 199_000}
    with sharing(100):
        assert Expression("starts_with(a, 'data:') && ends_with(a, 'x') && length(b)").find(large) == 199_000


def test_expressions_share_their_steps() -> None:
    costly = Expression("sum(@)")
    with sharing(1_000):
        found = [costly.find([1] * 1_000) for _ in range(10)]
    assert found == [1_000] * 3 + [None] * 7
    with sharing(300, TooLong):
        assert costly.find([1] * 1_000) == 1_000
        with pytest.raises(TooLong):
            costly.find([1] * 1_000)
    assert costly.find([1] * 1_000) == 1_000


def test_what_is_repeated_too_often_is_not_written_down() -> None:
    large = "x" * 2**20
    assert Expression(f"[{', '.join(['@'] * 63)}]").find(large) is not None
    assert Expression(f"[{', '.join(['@'] * 64)}]").find(large) is None
    assert Expression("[@, @, @, @] | [@, @, @, @] | [@, @, @, @]").find(["y" * 1_000] * 2_000) is None
    assert fits({"a": ["bc", None, 1.5]}, 6 * 64 + 3)
    assert not fits({"a": ["bc", None, 1.5]}, 6 * 64 + 2)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
)
USES = [
    "abs(@)", "avg(a)", "ceil(a)", "contains(a, b)", "ends_with(a, b)", "join('', a)", "keys(@)", "length(a)",
    "map(&a, @)", "max_by(@, &a)", "merge(a, b)", "min(@)", "reverse(a)", "sort(a)", "sort_by(@, &b)", "sum(a)",
    "to_number(a)", "values(@)", "a < b", "a[0]", "a[*].b", "@[?a > b].a", "a.*", "a[::-1]", "!a && b",
    "[a, b][]",
]  # fmt: skip


@given(st.sampled_from(USES), JSON)
def test_no_answer_makes_an_expression_fail(text: str, value: Any) -> None:
    Expression(text).find(value)


def test_names_and_roots() -> None:
    expression = Expression("(payload.items[?name=='x'].id | [0]) || sort_by(other, &age)")
    assert expression.roots() == {"payload", "other"}
    assert "items" in expression.names()


SCOPE = {"payload": {"text": "a cat", "n": 3, "deep": {"k": [1]}, "no": None, "yes": True}, "job_id": "j/1"}


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("plain", "plain"),
        ("", ""),
        ("{{payload.n}}", 3),
        ("{{payload.deep}}", {"k": [1]}),
        ("{{payload.none}}", None),
        ("n={{payload.n}}, t={{ payload.text }}", "n=3, t=a cat"),
        ("{{payload.yes}}!", "true!"),
        ("{not one}", "{not one}"),
    ],
)
def test_what_templates_become(template: str, value: Any) -> None:
    assert Template.of(template).value(SCOPE) == value


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", ["{{" * 1_000_000, "{{a" * 500_000])
def test_placeholders_that_nothing_closes_are_text(text: str) -> None:
    """A configuration of 64,000 characters kept the API, and each executor that read it, still for 14 s; by the square
    of its size this one would for hours."""
    assert Template.of(text).parts == (text,)


@given(st.text("{}a ", max_size=24))
def test_a_placeholder_ends_where_it_first_can(text: str) -> None:
    pieces = re.split(r"\{\{(.*?)\}\}", text)
    try:
        parts = Template.of(text).parts
    except BadExpression:
        return
    shown = [part.text if isinstance(part, Expression) else part for part in parts]
    assert shown == [piece.strip() if place % 2 else piece for place, piece in enumerate(pieces) if piece]


def test_text_that_lacks_a_part_is_missing() -> None:
    for template in ("x{{payload.none}}", "{{payload.deep}}y"):
        with pytest.raises(Missing):
            Template.of(template).text(SCOPE)


def test_documents_leave_out_what_is_not_there() -> None:
    document = Document(
        {"a": "{{payload.n}}", "b": "{{payload.none}}", "c": None, "d": ["{{payload.text}}", {"e": "{{payload.no}}"}]}
    )
    assert document.value(SCOPE) == {"a": 3, "c": None, "d": ["a cat", {}]}
    nested: Any = "x"
    for _ in range(40):
        nested = [nested]
    with pytest.raises(BadExpression):
        Document(nested)


def test_a_text_of_megabytes_is_no_number() -> None:
    """Spaces of 50 MB took 0.4 s to be none, in which no thread ran, and twice their size."""
    text = " " * 5_000_000
    finding = Expression("to_number(a)")
    tracemalloc.start()
    try:
        assert finding.find({"a": text}) is None
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert finding.find({"a": " 1.5 "}) == 1.5
    assert finding.find({"a": "7" * 4_000}) == int("7" * 4_000)
    assert finding.find({"a": "7" * 4_001}) is None
    assert Expression("to_number()").find({}) is None


def test_a_sum_of_the_longest_numbers_can_be_written() -> None:
    """Python wrote no sum of two numbers of 4,300 digits, and a task failed for an `internal` error."""
    filled = Template.of("x{{sum([to_number(a), to_number(a)])}}")
    assert len(filled.text({"a": "9" * 4_000})) == 4_002
    with pytest.raises(Missing):
        filled.text({"a": "9" * 4_300})
