"""What is kept of a body: its beginning, without its secrets, whatever they look like and wherever it was cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.runtime.body_redaction import kept_body
from libs.common.runtime.redaction import is_secret_name

CANARY = "canary-7f3a9b"


def test_a_body_without_secrets_is_kept_to_the_letter() -> None:
    body = '{"model":"m", "payload":{"text":"grüß dich", "n":1.0, "e":1e2}}'
    assert kept_body(body.encode(), 4_096) == body


def test_a_long_body_is_cut_and_says_so() -> None:
    assert kept_body(b"x" * 20, 10) == "x" * 10 + "..."
    assert kept_body(b"x" * 10, 10, of=11) == "x" * 10 + "..."
    assert kept_body("ä".encode() * 3, 5) == "ää\ufffd..."


@pytest.mark.parametrize(
    "body",
    [
        f'{{"password":"{CANARY} and more {CANARY}"}}',
        f'{{"payload":{{"api_key": "{CANARY}", "text":"hello"}}}}',
        f'{{"X-API-Key" : "a \\" {CANARY}"}}',
        f'{{"token":["{CANARY}", {{"a":"{CANARY}"}}], "text":"hello"}}',
        f'{{"secret":{{"a":[1,"}} {CANARY}"]}}}}',
        f'{{"Authorization":"Bearer {CANARY}"}}',
        f'{{"text":"send Authorization: Bearer {CANARY} along"}}',
        f'{{"url":"https://user:{CANARY}@host/path"}}',
        f"model=m&password={CANARY}&x=1",
        f'{{"x_user_info":"{CANARY}',
        f"not json at all, token: {CANARY}",
        f'{{"secret":{{"deep":"{CANARY}',
    ],
)
def test_secrets_are_masked_whatever_is_around_them(body: str) -> None:
    kept = kept_body(body.encode(), 4_096)
    assert CANARY not in kept
    assert "***" in kept


@given(
    st.recursive(
        st.text(max_size=8) | st.integers() | st.none(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(["password", "apiKey", "X-API-Key", "refresh_token", "clientSecret", "client_secret", "cookie"]),
    st.integers(20, 400),
)
def test_no_cut_lets_a_named_secret_through(around: object, name: str, most: int) -> None:
    hidden = is_secret_name(name)
    body = json.dumps({"around": around, name: {"a": [CANARY, around], "b": CANARY}, "after": around})
    kept = kept_body(body.encode(), most)
    assert not hidden or CANARY not in kept


def test_what_follows_a_secret_is_still_readable() -> None:
    body = '{"password":"p1","n":5,"token":["a"],"model":"m"}'
    assert json.loads(kept_body(body.encode(), 4_096)) == {"password": "***", "n": 5, "token": "***", "model": "m"}
