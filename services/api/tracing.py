"""The trace that a request belongs to: the caller's, else a new one (W3C Trace Context)."""

from __future__ import annotations

import re
from random import getrandbits
from typing import Final

_TRACEPARENT: Final = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def traceparent_of(header: bytes | None) -> str:
    """The header's value if it is well formed, else a new, unsampled trace."""
    if header is not None and _TRACEPARENT.fullmatch(header):
        return header.decode()
    # Unlikely to be equal is enough: nothing secret hangs on it.
    return f"00-{getrandbits(128) or 1:032x}-{getrandbits(64) or 1:016x}-00"


def trace_id_of(traceparent: str) -> str:
    """The 32 digits that name the trace."""
    return traceparent[3:35]
