"""The trace that a request belongs to: the caller's, else a new one (W3C Trace Context)."""

from __future__ import annotations

import os
import re
from typing import Final

_TRACEPARENT: Final = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def traceparent_of(header: bytes | None) -> str:
    """The header's value if it is well formed, else a new, unsampled trace."""
    if header is not None and _TRACEPARENT.fullmatch(header):
        return header.decode()
    fresh = os.urandom(24).hex()
    return f"00-{fresh[:32]}-{fresh[32:]}-00"


def trace_id_of(traceparent: str) -> str:
    """The 32 digits that name the trace."""
    return traceparent[3:35]
