"""Header bindings: a model's api_key, read as the headers that go with every call of it.

    X-API-Key:"qwen3-tts-key",operation:true,count:123

is three headers. `Name=Value` works too. The text is a secret: no error here repeats any part of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from libs.common.domain.errors import Invalid

BINDINGS_LIMIT: Final = 50
VALUE_LIMIT: Final = 8_192  #: what common servers take for one header line

_SPACE: Final = " \t\r\n"
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
#: One binding: anything but a comma, and quoted stretches as a whole, commas included.
_BINDING: Final = re.compile(r'(?:[^",]|"[^"]*")+')

#: These belong to the connection or say where a message ends: who sets them can smuggle a second request.
RESERVED_NAMES: Final = frozenset(
    {
        "connection", "content-length", "expect", "host", "http2-settings", "keep-alive", "proxy-authenticate",
        "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip


class InvalidBindings(Invalid):
    """Bindings that no request may carry. The message names a position, never a name or a value of the caller's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message, field="/api_key")


def parse_bindings(text: str) -> tuple[tuple[str, str], ...]:
    """The (name, value) pairs in their order; parts without a name or a value are skipped. Raises InvalidBindings."""
    if text.count('"') % 2:
        raise InvalidBindings("bindings_quote", "api_key has a double quote that is never closed")
    pairs = tuple(pair for pair in map(_split, _BINDING.findall(text)) if all(pair))
    check_bindings(pairs)
    return pairs


def check_bindings(pairs: Sequence[tuple[str, str]]) -> None:
    """Raise InvalidBindings unless every pair may go into a request as it is."""
    if len(pairs) > BINDINGS_LIMIT:
        raise InvalidBindings("bindings_many", f"api_key has more than {BINDINGS_LIMIT} bindings")
    seen: set[str] = set()
    for place, (name, value) in enumerate(pairs, 1):
        _check_name(place, name)
        _check_value(place, value)
        if name.lower() in seen:
            raise InvalidBindings("bindings_twice", f"binding {place} of api_key sets a header for the second time")
        seen.add(name.lower())


def _split(part: str) -> tuple[str, str]:
    """Neither `:` nor `=` can be in a name, so the first of them ends it."""
    end = min((place for place in (part.find(":"), part.find("=")) if place >= 0), default=-1)
    if end < 0:
        return "", ""
    value = part[end + 1 :].strip(_SPACE)
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = value[1:-1]
    return part[:end].strip(_SPACE), value


def _check_name(place: int, name: str) -> None:
    if name.lower() in RESERVED_NAMES:
        raise InvalidBindings("bindings_reserved", f"api_key may not set {name.lower()}: it belongs to the connection")
    if not _TOKEN.fullmatch(name):
        raise InvalidBindings(
            "bindings_name",
            f"binding {place} of api_key has characters before its : or = that no header name may have; "
            "write Name:Value, several separated by commas, a value with commas in double quotes",
        )


def _check_value(place: int, value: str) -> None:
    if len(value) > VALUE_LIMIT:
        raise InvalidBindings("bindings_long", f"the value of binding {place} is longer than {VALUE_LIMIT} characters")
    if _CONTROL.search(value):
        raise InvalidBindings("bindings_value", f"the value of binding {place} of api_key has control characters")
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        raise InvalidBindings(
            "bindings_value", f"the value of binding {place} of api_key has characters outside Latin-1"
        ) from None
