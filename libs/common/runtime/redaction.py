"""What may not be seen in a log: secrets by name, by shape, and by value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from libs.common.domain.texts import without_tokens

MASK: Final = "***"

_SECRET_NAMES: Final = frozenset(
    {
        "apikey", "authorization", "cookie", "credential", "credentials", "passwd", "password", "private_key",
        "secret", "secret_keys", "secrets", "set_cookie", "signature", "token", "user_info",
    }
)  # fmt: skip
_SECRET_ENDINGS: Final = ("api_key", "authorization", "password", "secret", "secret_key", "token", "user_info")
_SHORTEST_SECRET: Final = 6  #: masking shorter values would make logs unreadable and hide nothing
_DEEPEST: Final = 6

_URL_PASSWORD: Final = re.compile(r"(://[^\s/:@]*:)[^\s/]+@")
#: `Authorization: Bearer x`, `'api_key': 'x'`, `password=x` inside any text, tracebacks included.
_NAMED_VALUE: Final = re.compile(
    r"""((?:authorization|api[_-]?key|password|passwd|secret|token)["']?\s*[:=]\s*["']?)"""
    r"""((?:bearer|basic|digest|token|key|apikey)\s+)?[^\s"',;&}]+""",
    re.IGNORECASE,
)
#: Values that may hold anything are masked up to the end of the line.
_NAMED_LINE: Final = re.compile(r"""((?:x-user-info|cookie)["']?\s*[:=]\s*)[^\r\n]+""", re.IGNORECASE)
_BEARER: Final = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)

_values: set[str] = set()
_known_values: re.Pattern[str] | None = None


def register_secret(value: str) -> None:
    """Mask this very text wherever it turns up. For the secrets of the process, not for each tenant's.

    Values shorter than 6 characters are ignored.
    """
    global _known_values
    if len(value) >= _SHORTEST_SECRET and value not in _values:
        _values.add(value)
        longest_first = sorted(_values, key=len, reverse=True)
        _known_values = re.compile("|".join(map(re.escape, longest_first)))


def redact(value: Any, depth: int = 0) -> Any:
    """The same value, fit for a log: secrets masked, objects as text, nesting cut off at six levels. Never raises."""
    if isinstance(value, str):
        return redact_text(value)
    if value is None or isinstance(value, bool | int | float | UUID | datetime | date):
        return value
    if isinstance(value, bytes | bytearray):
        return redact_text(value.decode("utf-8", "replace"))
    if depth >= _DEEPEST:
        return "..."
    if isinstance(value, Mapping):
        return {
            str(name): MASK if inner and is_secret_name(str(name)) else redact(inner, depth + 1)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(inner, depth + 1) for inner in value]
    try:
        return redact_text(str(value))
    except Exception:  # an object that cannot even say what it is
        return f"<{type(value).__name__}>"


def redact_text(text: str) -> str:
    """The same text with URL passwords, named secrets and registered values masked, and tokens of callbacks."""
    if _known_values is not None:
        text = _known_values.sub(MASK, text)
    text = without_tokens(text)
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"\g<1>{MASK}@", text)
    if ":" in text or "=" in text:
        text = _NAMED_LINE.sub(rf"\g<1>{MASK}", text)
        text = _NAMED_VALUE.sub(rf"\g<1>{MASK}", text)
    if " " in text:
        text = _BEARER.sub(rf"\g<1> {MASK}", text)
    return text


@lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a secret."""
    plain = name.lower().replace("-", "_")
    return plain in _SECRET_NAMES or plain.endswith(_SECRET_ENDINGS)
