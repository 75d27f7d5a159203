"""Request headers by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.types import Scope

from services.api.problems import Problem

#: Two of one of these, and nobody knows which is meant.
_ONCE: Final = (
    b"authorization",
    b"content-encoding",
    b"content-length",
    b"content-type",
    b"idempotency-key",
    b"if-match",
    b"if-none-match",
    b"x-sluiceway-peer",
    b"x-user-info",
)


def named_headers(scope: Scope) -> Mapping[bytes, bytes]:
    """The headers; raises Problem (400) when one that must stand alone stands twice."""
    headers = scope["headers"]
    named: dict[bytes, bytes] = dict(headers)
    if len(named) != len(headers):
        names = [name for name, _ in headers]
        for name in _ONCE:
            if names.count(name) > 1:
                raise Problem("invalid", f"The header {name.decode()} stands twice.")
    return named
