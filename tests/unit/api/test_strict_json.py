"""Strict JSON: the same values as the standard library, none of its leniency, payloads byte for byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api import strict_json
from services.api.strict_json import DEEPEST, UNREAD, BadJson, Payload, TooMany

TASK = strict_json.members({"payload": strict_json.payload})
BATCH = strict_json.members({"tasks": strict_json.elements(TASK, 1_000, strict_json.within(1_000))})

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(text, inner, max_size=5),
    max_leaves=30,
)
space = st.text(" \t\r\n", max_size=3)


def spelt(value: Any, *, ascii_only: bool) -> str:
    return json.dumps(value, ensure_ascii=ascii_only, indent=1 if ascii_only else None)


@given(values, st.booleans(), space, space)
def test_reads_what_the_standard_library_reads(value: Any, ascii_only: bool, before: str, behind: str) -> None:
    assert strict_json.read(f"{before}{spelt(value, ascii_only=ascii_only)}{behind}".encode()) == value


@given(values, st.booleans(), space, space, st.dictionaries(text.filter(lambda name: name != "payload"), values))
def test_payload_is_kept_byte_for_byte(
    value: Any, ascii_only: bool, before: str, behind: str, others: dict[str, Any]
) -> None:
    raw = spelt(value, ascii_only=ascii_only)
    parts = [f"{json.dumps(name)}{before}:{behind}{json.dumps(other)}" for name, other in others.items()]
    parts.insert(len(parts) // 2, f'"payload"{before}:{behind}{raw}')
    item = "{" + f"{before},{behind}".join(parts) + "}"

    members = strict_json.read(item.encode(), TASK)
    assert members.pop("payload") == Payload(raw.encode(), value)
    assert members == others

    batch = strict_json.read(f'{{"tasks":{before}[{item}{behind},{item}]}}'.encode(), BATCH)
    assert [task["payload"].raw for task in batch["tasks"]] == [raw.encode()] * 2


@pytest.mark.parametrize(
    "raw", ["1.0", "1e2", "-0", "1E+2", '"\\u00e9"', '{"b":1,"a":[ 1 , 2 ]}', "100000000000000000000"]
)
def test_spelling_survives(raw: str) -> None:
    assert strict_json.read(f'{{"payload":{raw}}}'.encode(), TASK)["payload"].raw == raw.encode()


def test_other_kinds_of_values_are_read_as_they_are() -> None:
    assert strict_json.read(b"[1]", TASK) == [1]
    assert strict_json.read(b'{"tasks": 3}', BATCH) == {"tasks": 3}
    assert strict_json.read(b'{"tasks": [3, {}, []]}', BATCH) == {"tasks": [3, {}, []]}
    assert strict_json.read(b'{"tasks": []}', BATCH) == {"tasks": []}
    assert strict_json.read(b"{ }", TASK) == {}


BAD = {
    "empty": b"",
    "only space": b"  ",
    "a word": b"hello",
    "two values": b"1 2",
    "cut off": b'{"a":',
    "not closed": b'{"payload":1',
    "trailing comma": b'{"payload":1,}',
    "comma in array": b"[1,]",
    "no colon": b'{"payload" 1}',
    "no quotes": b"{payload:1}",
    "single quotes": b"{'payload':1}",
    "leading zero": b'{"payload":01}',
    "bare fraction": b'{"payload":1.}',
    "plus": b'{"payload":+1}',
    "NaN": b'{"payload":NaN}',
    "Infinity": b'{"payload":[Infinity]}',
    "-Infinity": b'{"payload":{"a":-Infinity}}',
    "twice outside": b'{"payload":1,"payload":1}',
    "twice by escape": b'{"payload":1,"p\\u0061yload":1}',
    "twice inside": b'{"payload":{"a":{"b":1,"b":1}}}',
    "lone high surrogate": b'{"payload":"\\ud800"}',
    "lone low surrogate": b'{"payload":["\\udc00"]}',
    "lone surrogate behind an escape": b'{"payload":"\\n\\ud800"}',
    "lone low surrogate behind a backslash": b'{"payload":"\\\\ud83d\\ude00"}',
    "two high surrogates behind a quote": b'{"payload":"\\"\\ud83d\\ud83d"}',
    "surrogate as name": b'{"payload":{"\\uDBFF":1}}',
    "surrogate bytes": b'{"payload":"\xed\xa0\x80"}',
    "latin-1": b'{"payload":"\xe9"}',
    "utf-16": '{"payload":1}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"payload":1}',
    "control character": b'{"payload":"\x01"}',
    "other space": b'{"payload":\x0c1}',
    "no-break space": '{"payload":\u00a01}'.encode(),
    "comment": b'{"payload":1 /* one */}',
    "too many digits": b'{"payload":' + b"9" * 5_000 + b"}",
    "a megabyte of brackets": b"[" * 1_000_000,
    "a megabyte in a payload": b'{"payload":' + b"[" * 1_000_000 + b"}",
    "a thousand levels": b'{"payload":' + b"[" * 1_000 + b"]" * 1_000 + b"}",
    "one level too deep": b'{"payload":' + b'{"a":[' * (DEEPEST // 2) + b"[]" + b"]}" * (DEEPEST // 2) + b"}",
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
def test_refuses(body: bytes) -> None:
    with pytest.raises(BadJson):
        strict_json.read(body, TASK)
    with pytest.raises(BadJson):
        strict_json.read(b'{"tasks":[' + body + b"]}" if body.strip() else b'{"tasks":[', BATCH)


def test_a_byte_order_mark_is_named() -> None:
    with pytest.raises(BadJson, match="byte order mark"):
        strict_json.read(BAD["byte order mark"], TASK)


def test_the_deepest_is_accepted() -> None:
    raw = b"[" * DEEPEST + b"]" * DEEPEST
    assert strict_json.read(b'{"payload":' + raw + b"}", TASK)["payload"].raw == raw


def test_surrogate_pairs_and_escaped_backslashes_are_fine() -> None:
    assert strict_json.read(b'{"payload":["\\ud83d\\ude00", "\\\\ud800"]}', TASK)["payload"].value == ["😀", "\\ud800"]


@given(
    st.lists(st.sampled_from([r"\ud83d", r"\uDE00", r"\u00e9", r"\\", r"\n", "ud83d", "ude00", "a", "1"]), max_size=9)
)
def test_no_half_of_a_surrogate_pair_is_read(parts: list[str]) -> None:
    body = f'["{"".join(parts)}"]'.encode()
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        with pytest.raises(BadJson):
            strict_json.read(body)
    else:
        assert strict_json.read(body) == json.loads(body)


@given(values, st.booleans(), st.integers(2, 40), space)
def test_a_value_that_is_too_long_is_not_read(value: Any, ascii_only: bool, limit: int, behind: str) -> None:
    raw = spelt(value, ascii_only=ascii_only)
    read, end = strict_json.within(limit)(f"{raw}{behind},[1],2", 0)
    assert end == len(raw)
    if len(raw) <= limit or not isinstance(value, list | dict):
        assert read == value
    else:
        assert read is UNREAD


@given(st.lists(st.text('a"\\[]{}\n', max_size=4).map(lambda part: part * 40), max_size=6))
def test_the_end_of_a_value_is_found_behind_texts_of_any_length(texts: list[str]) -> None:
    raw = json.dumps([[], texts])
    assert strict_json.within(3)(f"{raw}]]", 0) == (UNREAD, len(raw))


@pytest.mark.parametrize("long", ["a" * 2**21, r"\n" * 2**20, r"\"]" * 2**19], ids=["plain", "escapes", "quotes"])
def test_no_search_in_a_value_that_is_too_long_goes_far(long: str) -> None:
    """One through a text of 15 MB held up every other thread for 0.2 s."""
    raw = f'["{long}",1]'
    assert strict_json.within(1_000)(f"{raw},2", 0) == (UNREAD, len(raw))
    assert max(len(found[0]) for found in strict_json._NESTING.finditer(raw)) < 2**19
    with pytest.raises(BadJson):
        strict_json.read(raw[:-5].encode(), strict_json.within(1_000))


@pytest.mark.parametrize("raw", ["[1 2]", '{"a":}', "tru", '{"a":1,"a":2}', "[1,]"])
def test_a_short_value_that_is_none_is_no_long_one(raw: str) -> None:
    with pytest.raises(BadJson):
        strict_json.read(f"{raw}{' ' * 50}".encode(), strict_json.within(20))


def test_what_follows_too_many_elements_is_not_read() -> None:
    places: list[int] = []

    def place(_text: str, at: int) -> tuple[int, int]:
        places.append(at)
        return at, at + 1

    three = strict_json.elements(place, 3, strict_json.within(10))
    assert strict_json.read(b"[0,0,0]", three) == places == [1, 3, 5]
    with pytest.raises(TooMany):
        strict_json.read(b"[0,0,0,0,0,!", three)
    assert len(places) == 6


@given(st.binary(max_size=60) | st.text('{}[]",:\\u0daef19.-tn ', max_size=40).map(str.encode))
def test_agrees_with_a_strict_parser_on_any_bytes(body: bytes) -> None:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    def refuse(_constant: str) -> Any:
        raise ValueError

    try:
        text = body.decode()
        expected = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
        json.dumps(expected, ensure_ascii=False).encode()
    except (ValueError, AssertionError):
        with pytest.raises(BadJson):
            strict_json.read(body, TASK)
    else:
        found = strict_json.read(body, TASK)
        if isinstance(found, dict) and isinstance(found.get("payload"), Payload):
            found["payload"] = found["payload"].value
        assert found == expected
