"""Tokens by which a provider may call back about one attempt: unguessable, expiring, and saying nothing to others."""

from __future__ import annotations

import base64
import binascii
import time
from typing import Final
from uuid import UUID

from libs.common.ports import Ring

_OWNER: Final = "callback"
_KEY_BYTES: Final = 16
_LONGEST: Final = 512
#: How long after its deadline a job may still be called back about; later callbacks would change nothing anyway.
_GRACE_SECONDS: Final = 3_600


class CallbackTokens:
    """A token is an intent key and an expiry, sealed. Who has it is the provider that was given it."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring

    def token(self, key: UUID, seconds: float) -> str:
        """A token for a job that has so many seconds left."""
        expiry = int(time.time() + seconds) + _GRACE_SECONDS
        sealed = self._ring.seal(key.bytes + expiry.to_bytes(8, "big"), _OWNER)
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def read(self, token: str) -> UUID | None:
        """The intent key; None for a token that is not ours, was changed, or is over."""
        if not token.isascii() or len(token) > _LONGEST:
            return None
        try:
            sealed = base64.b64decode(token.encode() + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
            clear = self._ring.open(sealed, _OWNER)
        except (ValueError, binascii.Error):
            return None
        if len(clear) != _KEY_BYTES + 8 or int.from_bytes(clear[_KEY_BYTES:], "big") < time.time():
            return None
        return UUID(bytes=clear[:_KEY_BYTES])
