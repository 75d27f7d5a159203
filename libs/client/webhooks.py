"""Verifying webhooks (Standard Webhooks 1.0.0), for receivers that have the SDK already."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Final

TOLERANCE_SECONDS: Final = 300
_PREFIX: Final = "whsec_"


class BadSignature(ValueError):
    """A message that is not from whom it says, or not of now."""


def verify(secret: str, headers: Mapping[str, str], body: bytes, *, now: float | None = None) -> None:
    """Raises BadSignature unless `secret` signed this body, at most five minutes ago or ahead.

    `headers` may be in any case, as frameworks and proxies give them; `body` is what came, byte for byte. Afterwards
    remember `webhook-id`: a repeat carries the same.
    """
    named = {name.lower(): value for name, value in headers.items()}
    try:
        message_id, sent = named["webhook-id"], int(named["webhook-timestamp"])
        signatures = named["webhook-signature"].split()
        signed = f"{message_id}.{sent}.".encode() + body
    except (KeyError, ValueError):
        raise BadSignature("a header is missing or cannot be read") from None
    if abs(int(time.time() if now is None else now) - sent) > TOLERANCE_SECONDS:
        raise BadSignature("it was sent too long ago, or in the future")
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    expected = b"v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256))
    if not any(hmac.compare_digest(expected, signature.encode(errors="replace")) for signature in signatures):
        raise BadSignature("no signature fits")
