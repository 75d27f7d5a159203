"""Secrets do not pass, by name, by shape, or by value."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.runtime.redaction import MASK, is_secret_name, redact, redact_text, register_secret

CANARY = "canary-7f3a9e"


@pytest.mark.parametrize(
    "name",
    ["authorization", "Proxy-Authorization", "api_key", "apiKey", "X-API-Key", "X-User-Info", "Cookie", "set-cookie",
     "password", "db_password", "client_secret", "token", "access_token", "OSS_AUTHORIZATION", "SECRET_KEYS"],
)  # fmt: skip
def test_fields_of_secret_names_are_masked(name: str) -> None:
    assert redact({name: CANARY}) == {name: MASK}
    assert redact({"a": [{name: CANARY}]}) == {"a": [{name: MASK}]}
    assert redact({name: ""}) == {name: ""}


@pytest.mark.parametrize("name", ["task_id", "tenant", "model", "event", "tokens_per_second", "key", "path"])
def test_other_names_are_not(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://sluiceway:{CANARY}@db/sluiceway",
        f"redis://:{CANARY}@cache:6379/0",
        f"postgresql://u:p@{CANARY}@db/x",
        f"Authorization: Bearer {CANARY}",
        f"authorization=ApiKey {CANARY}",
        f"{{'Authorization': 'Bearer {CANARY}', 'b': 1}}",
        f'{{"api_key":"{CANARY}"}}',
        f"X-API-Key={CANARY}",
        f"Illegal header value: Bearer {CANARY}",
        f"https://model/run?token={CANARY}&x=1",
        f"cookie: a=1; session={CANARY}",
        f'X-User-Info: {{"name": "{CANARY}"}}',
    ],
)
def test_secrets_inside_text_are_masked(text: str) -> None:
    assert CANARY not in redact_text(text)
    assert CANARY not in repr(redact([ValueError(text), text.encode()]))


def test_plain_text_and_values_stay_as_they_are() -> None:
    value = {"event": "task.claimed", "url": "https://host:8080/run", "n": 3, "ok": True, "none": None, "f": 1.5}
    assert redact(value) == value
    assert redact(UUID(int=7)) == UUID(int=7)


def test_a_registered_value_is_masked_wherever_it_is() -> None:
    register_secret("s3cr3t-value")
    register_secret("s3cr3t-value-longer")
    register_secret("abc")
    assert redact_text("x s3cr3t-value y s3cr3t-value-longer abc") == f"x {MASK} y {MASK} abc"


def test_it_never_raises_and_never_recurses_for_ever() -> None:
    class Mute:
        def __str__(self) -> str:
            raise RuntimeError

    loop: list[object] = []
    loop.append(loop)
    assert redact(Mute()) == "<Mute>"
    assert "..." in repr(redact(loop))


@given(st.text(), st.text(alphabet="abcdefXYZ0123456789_.~+/-", min_size=6))
def test_a_bearer_s_value_never_survives(before: str, secret: str) -> None:
    masked = redact_text(f"{before} Bearer {secret}")
    assert f"Bearer {secret}" not in masked
