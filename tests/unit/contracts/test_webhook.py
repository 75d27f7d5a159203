"""Signatures of webhooks, held against the library that receivers use."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook

from libs.client.webhooks import BadSignature, verify
from libs.common.contracts.webhook import check_secret, decode_secrets, encode_secrets, new_secret, sign
from libs.common.domain.errors import Invalid
from libs.common.domain.webhook import Secrets

BODY = '{"type":"task.success","data":{"creator":"Jürgen ✓"}}'.encode()
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


def now() -> datetime:
    """Receivers compare with their own clock."""
    return datetime.now(UTC).replace(microsecond=0)


def headers(*secrets: str, at: datetime | None = None, message_id: str = "task:5") -> dict[str, str]:
    timestamp = int((at or now()).timestamp())
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secrets, message_id, timestamp, BODY),
    }


def test_receivers_understand_our_signatures_and_we_theirs() -> None:
    secret = new_secret()
    Webhook(secret).verify(BODY.decode(), headers(secret))
    at = now()
    theirs = Webhook(secret).sign("task:5", at, BODY.decode())
    verify(secret, {**headers(secret, at=at), "webhook-signature": f"v1a,xyz {theirs}"}, BODY)


def test_both_secrets_of_a_rotation_fit() -> None:
    old, fresh = new_secret(), new_secret()
    for secret in (old, fresh):
        verify(secret, headers(fresh, old), BODY)
        Webhook(secret).verify(BODY.decode(), headers(fresh, old))


def test_headers_may_come_in_any_case() -> None:
    secret = new_secret()
    verify(secret, {name.title(): value for name, value in headers(secret).items()}, BODY)


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "task:6"},
        {"webhook-signature": "v1,AAAA"},
        {"webhook-signature": ""},
        {"webhook-timestamp": "now"},
        {"webhook-timestamp": "9" * 400},
        {"webhook-id": "\udcff"},
        {"webhook-signature": "v1,\udcff"},
    ],
)
def test_what_was_changed_does_not_fit(change: dict[str, str]) -> None:
    secret = new_secret()
    with pytest.raises(BadSignature):
        verify(secret, {**headers(secret), **change}, BODY)


def test_another_time_does_not_fit_the_signature() -> None:
    secret, at = new_secret(), now()
    with pytest.raises(BadSignature):
        verify(secret, {**headers(secret, at=at), "webhook-timestamp": str(int(at.timestamp()) + 1)}, BODY)


def test_other_bodies_secrets_and_times_do_not_fit() -> None:
    secret = new_secret()
    with pytest.raises(BadSignature):
        verify(secret, headers(secret), BODY + b" ")
    with pytest.raises(BadSignature):
        verify(new_secret(), headers(secret), BODY)
    for minutes in (-6, 6):
        with pytest.raises(BadSignature):
            verify(secret, headers(secret, at=now() + timedelta(minutes=minutes)), BODY)
    with pytest.raises(BadSignature):
        verify(secret, {}, BODY)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "secret",
        "whsec_" + base64.b64encode(b"x" * 23).decode(),
        "whsec_" + base64.b64encode(b"x" * 65).decode(),
        "whsec_!!!" + base64.b64encode(b"x" * 30).decode(),
        base64.b64encode(b"x" * 32).decode(),
        "whsec_ü",
    ],
)
def test_a_weak_or_garbled_secret_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_secret(secret)
    assert refused.value.code == "webhook_secret"
    assert len(secret) < 20 or secret not in refused.value.message


def test_secrets_survive_their_seal() -> None:
    secrets = Secrets(new_secret())
    assert decode_secrets(encode_secrets(secrets)) == secrets
    rotated = secrets.rotated(new_secret(), NOW)
    assert decode_secrets(encode_secrets(rotated)) == rotated
    assert rotated.at(NOW) == (rotated.current, secrets.current)
    assert rotated.at(NOW + timedelta(hours=24)) == (rotated.current,)
