"""How a model's api_key becomes headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.domain.header_bindings import BINDINGS_LIMIT, VALUE_LIMIT, InvalidBindings, parse_bindings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('X-API-Key:"qwen3-tts-key",operation:true,count:123', "X-API-Key=qwen3-tts-key operation=true count=123"),
        ("X-Key=abc", "X-Key=abc"),
        (" X-Key : abc , Y=1 ", "X-Key=abc Y=1"),
        ("Authorization=Basic a:b", "Authorization=Basic a:b"),
        ("X-Key:a=b", "X-Key=a=b"),
        ('X:"a,b",Y:c', "X=a,b Y=c"),
        ('X:"a:b=c"', "X=a:b=c"),
        ('X:"a"b"c"', 'X=a"b"c'),
        ('X:a"b,c"d', 'X=a"b,c"d'),
        ("X:abc\n", "X=abc"),
        ("X:\u00fc", "X=\u00fc"),
        ("bare", ""),
        ("sk-abcdef", ""),
        ("", ""),
        (" , ,, ", ""),
        (":value,=value", ""),
        ('X:,Y=,Z:"",W:  ', ""),
    ],
)
def test_reading(text: str, expected: str) -> None:
    assert " ".join(f"{name}={value}" for name, value in parse_bindings(text)) == expected


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('X:"abc', "bindings_quote"),
        ("X:a\r\nEvil: b", "bindings_value"),
        ("X:a\nb", "bindings_value"),
        ("X:a\x00b", "bindings_value"),
        ("X:a\x7fb", "bindings_value"),
        ("X:\u4e2d\u6587", "bindings_value"),
        ("X:\ud800", "bindings_value"),
        ("X Y:canary", "bindings_name"),
        ("X\r\nY:canary", "bindings_name"),
        ("(X):canary", "bindings_name"),
        ("\u00fc:canary", "bindings_name"),
        ("Bearer canary=", ""),
        ("Bearer canary=x", "bindings_name"),
        ("Host:canary", "bindings_reserved"),
        ("content-LENGTH:3", "bindings_reserved"),
        ("Transfer-Encoding:chunked", "bindings_reserved"),
        ("Connection:close", "bindings_reserved"),
        ("authorization:a,AUTHORIZATION:b", "bindings_twice"),
        ("X:" + "v" * (VALUE_LIMIT + 1), "bindings_long"),
        (",".join(f"X-{number}:1" for number in range(BINDINGS_LIMIT + 1)), "bindings_many"),
    ],
)
def test_what_no_request_may_carry(text: str, code: str) -> None:
    if not code:
        assert parse_bindings(text) == ()
        return
    with pytest.raises(InvalidBindings) as refusal:
        parse_bindings(text)
    assert refusal.value.code == code
    assert refusal.value.field == "/api_key"
    assert "canary" not in refusal.value.message


_NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,20}", fullmatch=True).map(lambda name: f"X-{name}")
_VALUES = st.text(
    st.characters(min_codepoint=32, max_codepoint=255, exclude_characters='"', exclude_categories=["Cc"]), min_size=1
)


@given(st.dictionaries(_NAMES, _VALUES, max_size=10), st.sampled_from([":", "="]))
def test_quoted_values_come_back_as_they_were(bindings: dict[str, str], separator: str) -> None:
    unique = {name.lower(): value for name, value in bindings.items()}
    text = ",".join(f'{name}{separator}"{value}"' for name, value in unique.items())
    assert dict(parse_bindings(text)) == unique


def _read(text: str) -> tuple[tuple[str, str], ...] | InvalidBindings:
    try:
        return parse_bindings(text)
    except InvalidBindings as refusal:
        return refusal


@given(st.text())
def test_any_text_gives_fit_headers_or_a_refusal(text: str) -> None:
    pairs = _read(text)
    for name, value in pairs if isinstance(pairs, tuple) else ():
        assert not set(name + value) & {"\r", "\n", "\0"}
        assert name.isascii()
        value.encode("latin-1")


@given(st.text(min_size=8, alphabet=st.characters(min_codepoint=33)))
def test_refusals_repeat_nothing_of_what_was_given(tail: str) -> None:
    secret = f"canary{tail}"
    for text in (f"X Y:{secret}", f"X:{secret}\x01", f'X:"{secret}', f"Host:{secret}", f"X:{secret},x:{secret}"):
        refusal = _read(text)
        assert isinstance(refusal, tuple) or "canary" not in refusal.message
