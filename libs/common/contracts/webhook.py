"""Webhooks on the wire: Standard Webhooks 1.0.0, and what their body says. Receivers verify with `verify`."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

import orjson

from libs.common.domain.errors import Invalid
from libs.common.domain.webhook import Secrets

PREFIX: Final = "whsec_"
_FRESH_BYTES: Final = 32
_SMALLEST, _LARGEST = 24, 64
TOLERANCE_SECONDS: Final = 300


class BadSignature(ValueError):
    """A message that is not from whom it says, or not of now."""


def new_secret() -> str:
    """A random secret."""
    return PREFIX + base64.b64encode(os.urandom(_FRESH_BYTES)).decode()


def check_secret(secret: str, field: str) -> str:
    """A secret of the caller's own choice; raises Invalid, which does not repeat it."""
    try:
        size = len(_key(secret))
    except (ValueError, binascii.Error):
        size = 0
    if not secret.startswith(PREFIX) or not _SMALLEST <= size <= _LARGEST:
        message = f"a secret is {PREFIX} and base64 of {_SMALLEST} to {_LARGEST} random bytes"
        raise Invalid("webhook_secret", message, field=field)
    return secret


def sign(secrets: Iterable[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one signature for each secret."""
    return " ".join(f"v1,{_signature(secret, message_id, timestamp, body)}" for secret in secrets)


def verify(secret: str, headers: Mapping[str, str], body: bytes, *, now: float | None = None) -> None:
    """Raises BadSignature unless `secret` signed this body, at most five minutes ago or ahead.

    `headers` are looked up in lower case, as most frameworks give them; `body` is what came, byte for byte.
    """
    try:
        message_id, sent = headers["webhook-id"], int(headers["webhook-timestamp"])
        signatures = headers["webhook-signature"].split()
    except (KeyError, ValueError):
        raise BadSignature("a header is missing or cannot be read") from None
    if abs((time.time() if now is None else now) - sent) > TOLERANCE_SECONDS:
        raise BadSignature("it was sent too long ago, or in the future")
    expected = f"v1,{_signature(secret, message_id, sent, body)}".encode()
    if not any(hmac.compare_digest(expected, signature.encode()) for signature in signatures):
        raise BadSignature("no signature fits")


def encode_secrets(secrets: Secrets) -> bytes:
    """Secrets as they are sealed."""
    return orjson.dumps({"current": secrets.current, "old": secrets.old, "old_until": secrets.old_until})


def decode_secrets(clear: bytes) -> Secrets:
    """The reverse."""
    members = orjson.loads(clear)
    until = members["old_until"]
    return Secrets(members["current"], members["old"], datetime.fromisoformat(until) if until else None)


def _signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    signed = f"{message_id}.{timestamp}.".encode() + body
    return base64.b64encode(hmac.digest(_key(secret), signed, hashlib.sha256)).decode()


def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
