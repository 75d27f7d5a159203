"""The query of a request of /v1."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl

from services.api.problems import invalid

_SHOWN: Final = 64


def check_once(query: bytes) -> None:
    """Raises Problem (400) when a parameter stands twice: one of its values alone would count."""
    seen: set[str] = set()
    for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name in seen:
            raise invalid([{"parameter": name[:_SHOWN], "detail": "stands there more than once"}])
        seen.add(name)
