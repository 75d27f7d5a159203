"""Text of the other side in our errors: short, printable, without secrets."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.adapters.foreign_text import SHOWN_CHARACTERS, Cleaner
from libs.common.runtime.redaction import redact_text

_SECRETS = st.text(alphabet='QXZ\u00fc"\\', min_size=4, max_size=60)


def test_credentials_are_masked_with_and_without_their_scheme() -> None:
    cleaner = Cleaner.of(["Bearer QQQQ-1234", "true"])
    assert cleaner.clean(b"Bearer QQQQ-1234, QQQQ-1234, true") == "***, ***, ***"


@pytest.mark.parametrize(
    "shown",
    [
        "QX/Z+Z=&<\u00fc>Z".encode(),
        "QX/Z+Z=&<\u00fc>Z".encode("latin-1"),
        b"QX%2FZ%2BZ%3D%26%3C%FC%3EZ",
        b"QX%2fZ%2bZ%3d%26%3c%c3%bc%3eZ",
        rb"QX\/Z+Z=&<\u00fc>Z",
        "QX/Z+Z=&amp;&lt;\u00fc&gt;Z".encode(),
    ],
)
def test_a_secret_is_masked_as_addresses_pages_and_php_show_it(shown: bytes) -> None:
    assert Cleaner.of(["Bearer QX/Z+Z=&<\u00fc>Z"]).clean(b"bad key: " + shown + b".") == "bad key: ***."


@pytest.mark.parametrize(
    "shown",
    [
        r"QX/Z+Z=\u0026\u003c'Z\u003eZ",
        r"QX/Z\u002BZ=\u0026\u003C\u0027Z\u003EZ",
        "QX/Z+Z=&amp;&lt;&#39;Z&gt;Z",
        "QX/Z&#43;Z=&amp;&lt;&#x27;Z&gt;Z",
    ],
    ids=["go", "dotnet", "page", "page of go"],
)
def test_a_secret_is_masked_as_those_show_it_who_escape_more_than_they_must(shown: str) -> None:
    assert Cleaner.of(["Bearer QX/Z+Z=&<'Z>Z"]).clean(f"bad key: {shown}.".encode()) == "bad key: ***."


def test_what_was_cut_within_an_escaped_secret_is_not_seen() -> None:
    cleaner = Cleaner.of(["++++++++"])
    for before in range(480, 520):
        body = b"a" * before + rb"\u002B" * 400
        assert set(cleaner.clean(body[: cleaner.wanted_bytes])) <= {"a", "*"}


@pytest.mark.parametrize(
    "shown",
    [
        "https://us.example/v1/callbacks/AbC-_9 failed",
        r"https:\/\/us.example\/v1\/callbacks\/AbC-_9 failed",
        "to=https%3A%2F%2Fus.example%2Fv1%2Fcallbacks%2FAbC-_9&x",
    ],
)
def test_the_token_of_a_callback_is_masked_whoever_repeats_it(shown: str) -> None:
    """Also in a call that was never told it."""
    assert Cleaner.of([]).clean(shown.encode()) == shown.replace("AbC-_9", "***")
    assert redact_text(shown) == shown.replace("AbC-_9", "***")


def test_values_too_short_to_be_secrets_stay_readable() -> None:
    assert Cleaner.of(["1", "on"]).clean(b"1 on 1") == "1 on 1"


@given(_SECRETS, st.lists(st.text(alphabet="abc \n\x00", max_size=700), max_size=12), st.booleans())
def test_no_secret_is_ever_seen(secret: str, between: list[str], as_json: bool) -> None:
    cleaner = Cleaner.of([secret])
    shown = json.dumps(secret)[1:-1] if as_json else secret
    cleaned = cleaner.clean(shown.join(["", *between, ""]).encode()[: cleaner.wanted_bytes])
    assert len(cleaned) <= SHOWN_CHARACTERS
    assert not set(cleaned) & set("QXZ\u00fc")
    assert cleaned.isprintable()


@given(st.binary(max_size=3_000))
def test_any_bytes_become_printable_text(body: bytes) -> None:
    cleaned = Cleaner.of([]).clean(body)
    assert len(cleaned) <= SHOWN_CHARACTERS
    assert not any(ord(character) < 32 for character in cleaned)
    cleaned.encode()
