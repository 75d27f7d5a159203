"""Webhooks on the wire: signed as Standard Webhooks 1.0.0 say. Receivers verify with libs/client/webhooks.py."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Iterable
from datetime import datetime
from typing import Final

import orjson

from libs.common.domain.errors import Invalid
from libs.common.domain.webhook import Secrets

PREFIX: Final = "whsec_"
_FRESH_BYTES: Final = 32
_SMALLEST, _LARGEST = 24, 64


def new_secret() -> str:
    """A random secret."""
    return PREFIX + base64.b64encode(os.urandom(_FRESH_BYTES)).decode()


def check_secret(secret: str) -> str:
    """A secret of the caller's own choice; raises Invalid, which does not repeat it."""
    try:
        size = len(_key(secret))
    except (ValueError, binascii.Error):
        size = 0
    if not secret.startswith(PREFIX) or not _SMALLEST <= size <= _LARGEST:
        message = f"a secret is {PREFIX} and base64 of {_SMALLEST} to {_LARGEST} random bytes"
        raise Invalid("webhook_secret", message, field="/secret")
    return secret


def sign(secrets: Iterable[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one signature for each secret."""
    return " ".join(f"v1,{_signature(secret, message_id, timestamp, body)}" for secret in secrets)


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
