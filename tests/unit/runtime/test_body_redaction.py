"""What is kept of a body: its beginning, without its secrets, whatever they look like and wherever it was cut."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.runtime import body_redaction, redaction
from libs.common.runtime.body_redaction import holds_mask, kept_body
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


INNER = json.dumps({"Authorization": f"Bearer {CANARY}", "apiKey": CANARY, "X-User-Info": CANARY, "password": CANARY})
PARTS = "".join(
    f'--b1\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
    for name, value in (("modelName", "m"), ("pass%77ord", f"{CANARY}\r\n\r\n--{CANARY}"), ("requestPayload", INNER))
)


@pytest.mark.parametrize(
    "body",
    [
        "modelName=m&requestPayload=" + quote(INNER, safe=""),
        urlencode({"modelName": "m", "requestPayload": INNER}),
        urlencode({"requestPayload": json.dumps({"again": INNER})}),
        "requestPayload=" + quote(quote(INNER)),
        f"p%61ssword={CANARY}&x=1",
        f"payload[password]={CANARY}&x=1",
        f"payload.password={CANARY}&x=1",
        f"text=send+Authorization%3A+Bearer+{CANARY}+along",
        f"text=Bearer+{CANARY}",
        quote(INNER),
        json.dumps({"requestPayload": INNER}),
        json.dumps({"requestPayload": json.dumps({"again": json.dumps([INNER])})}),
        json.dumps({"requestPayload": f"https://host/?api_key={CANARY}"}),
        json.dumps(json.dumps(json.dumps(json.dumps(json.dumps(json.dumps(json.dumps(INNER))))))),
        PARTS + "--b1--",
        "\r\n" + PARTS[:-20],
        f'{{"pass\\u0077ord":"{CANARY}"}}',
        f'{{"a":"{{\\"pass\\\\u0077ord\\":\\"{CANARY}\\"}}"}}',
        f'{{"a":"\\ud83d\\ude00 Authoriz\\u0061tion: Bearer {CANARY}"}}',
        f'{{"key":"token","type":"text","value":"{CANARY}"}}',
        f'{{"headers":[["X-API-Key","{CANARY}"],["Accept","*"]]}}',
        f"{{'password': '{CANARY} and {CANARY}'}}",
        f'it is 6" wide, "password":"{CANARY}"',
    ],
    ids=lambda body: body[:40],
)
def test_secrets_are_masked_wherever_a_reader_finds_them(body: str) -> None:
    for most in (4_096, len(body) - 1, len(body) - 7):
        kept = kept_body(body.encode(), most)
        assert CANARY not in kept
        assert "***" in kept


@pytest.mark.parametrize("end", ["", "}]", ',"n":1}]'])
def test_a_value_before_its_name_is_masked_where_the_name_was_kept(end: str) -> None:
    assert CANARY not in kept_body(f'[{{"value":{{"x":["{CANARY}"]}},"n":1,"name":"X-API-Key"{end}'.encode(), 4_096)


@pytest.mark.parametrize("spread", [quote, json.dumps, lambda text: urlencode({"a": text, "b": "c d"}), str])
def test_what_holds_no_secret_is_kept_as_it_was_written(spread: Callable[[str], str]) -> None:
    inner = '{"role":"user","author":"A","max_tokens":5, "compass":"6\\u0022", "key":"C#", "q":"100% & more + x=y"}'
    assert kept_body(spread(inner).encode(), 4_096) == spread(inner)


@pytest.mark.parametrize("name", sorted(redaction._SECRET_NAMES | {f"x_{end}" for end in redaction._SECRET_ENDINGS}))
def test_every_name_of_a_secret_is_noticed(name: str) -> None:
    for written in (name, name.upper(), name.replace("_", "-")):
        assert is_secret_name(written)
        assert CANARY not in kept_body(json.dumps({written: CANARY}).encode(), 4_096)


@pytest.mark.parametrize(
    "body",
    [
        '{"key":"token","value":' * 200, '{"value":' * 450 + '"token"', '"token:' * 600, '{"token": "' + "\\" * 4_000,
        "token=%" + "25" * 2_000, '{"secret":' + "[" * 4_000, "token" + " " * 4_000, "token " + "A" * 4_000,
        '{"password":"x","image":"' + "A" * 4_000, "--\nform-data" + "\n--" * 1_000,
    ],
    ids=lambda body: body[:20],
)  # fmt: skip
@pytest.mark.timeout(60)
def test_no_body_makes_it_slow(body: str) -> None:
    for _ in range(100):  # a few milliseconds each; quadratic ones took seconds
        kept_body(body.encode(), 4_096)


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


@pytest.mark.parametrize(
    "body",
    [
        b'{"api_key": "***"}', b'{"n": 1, "headers": {"Authorization": "***"}}', b"password=***&x=1",
        b'{"name": "token", "value": "***"}', b'{"inner": "{\\"secret\\": \\"***\\"}"}', b"postgres://u:***@host/x",
        b'{"api_key": "***", "cut',
    ],
    ids=repr,
)  # fmt: skip
def test_a_mask_where_a_secret_belongs_is_known(body: bytes) -> None:
    assert holds_mask(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"api_key": "a real one"}', b'{"text": "*** new ***"}', b'{"text": "***", "token": "k-123456"}', b"***", b"",
        b"\xff***", b'{"max_tokens": 5, "text": "***"}',
    ],
    ids=repr,
)  # fmt: skip
def test_three_stars_elsewhere_are_text(body: bytes) -> None:
    assert not holds_mask(body)


@given(st.sampled_from(["password", "apiKey", "refresh_token"]), st.text(max_size=20))
def test_what_was_masked_holds_a_mask(name: str, around: str) -> None:
    body = json.dumps({"around": around, name: CANARY}).encode()
    assert holds_mask(kept_body(body, 4_096).encode())


def test_what_follows_a_secret_is_still_readable() -> None:
    body = '{"password":"p1","n":5,"token":["a"],"model":"m"}'
    assert json.loads(kept_body(body.encode(), 4_096)) == {"password": "***", "n": 5, "token": "***", "model": "m"}


class _Counted:
    """A pattern that counts how far it looks."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern
        self.seen = 0

    def match(self, text: str, at: int) -> re.Match[str] | None:
        found = self._pattern.match(text, at)
        self.seen += found.end() - at if found is not None else 0
        return found


@pytest.mark.parametrize("part", ["value=", "key=value:", "value='", "value=bearer ", "value=bearer:", "'value='"])
def test_values_inside_of_values_are_not_looked_through_again(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """By the square of its size: a message of a megabyte would have taken ten minutes."""
    counted = _Counted(body_redaction._SIMPLE)
    monkeypatch.setattr(body_redaction, "_SIMPLE", counted)
    body = f'{part * 2_000} {{"token": "***"}}'.encode()
    assert holds_mask(body)
    assert counted.seen < 3 * len(body)


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "token", value=value=CANARY}', "{'name': \"token\", value=a:value=bearer CANARY}",
        '{"name": "token", value=a:value="CANARY"}', "{\"name\": \"token\", value='a:value=CANARY'}",
        "{\"name\": \"token\", value=a:value='b CANARY'}",
    ],
    ids=repr,
)  # fmt: skip
def test_a_secret_in_a_value_inside_of_a_value_is_masked(body: str) -> None:
    assert CANARY not in kept_body(body.replace("CANARY", CANARY).encode(), 4_096)


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "Cookie", "value": "auth_token=a; sid=CANARY"}', '{"value": "token=a; CANARY", "key": "password"}',
        '["Authorization", "Bearer abcdef, token=a CANARY"]',
    ],
    ids=repr,
)  # fmt: skip
def test_a_secret_that_has_a_named_secret_in_it_is_masked_whole(body: str) -> None:
    assert CANARY not in kept_body(body.replace("CANARY", CANARY).encode(), 4_096)
