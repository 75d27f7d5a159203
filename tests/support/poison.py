"""Two hundred kinds of bytes that are no message of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from libs.common.contracts.dispatch_message import MalformedMessage, decode
from libs.common.ports_dispatch import Headers

_GOOD: Final[dict[str, Any]] = {
    "v": 1, "task": 1, "lane": 1, "tenant": 1, "model": 1, "attempt": 1, "lease": 1, "phase": 0, "size": 2,
}  # fmt: skip
#: No numbers, or none that fit into 64 bits.
_WRONG: Final[list[Any]] = [
    "1",
    None,
    True,
    1.5,
    [],
    {},
    2**63,
    -(2**63) - 1,
    [1],
    {"a": 1},
    "",
    "x" * 50,
    1e300,
    False,
]


def _kinds() -> Iterator[bytes | None]:
    yield from (None, b"", b" ", b"\x00", b"\xff\xfe", b"null", b"true", b"1", b'"text"', b"[]", b"{}", b"NaN")
    whole = json.dumps(_GOOD).encode()
    yield from (whole[:cut] for cut in range(1, len(whole) - 1, 5))  # cut in the middle
    yield from (whole + tail for tail in (b"}", b",", b"x", whole, b"\x00"))
    yield from (b"\xef\xbb\xbf" + whole, whole.decode().encode("utf-16"), whole.decode().encode("utf-32"))
    yield from (b"[" * depth for depth in (10, 1_000, 4_000))
    yield from (b"{" * 3_000, b'{"v":' * 500, b"x" * 5_000, b"\xf0\x9f\x92" * 20, b"<html></html>", b"v=1&task=1")
    yield from (json.dumps({**_GOOD, "v": version}).encode() for version in (0, 2, -1, 2**40, "1", None, [1]))
    yield b'{"v":' + b"[" * 1_000 + b"]" * 1_000 + b"}"  # as deep as orjson reads
    for name in list(_GOOD)[1:]:
        yield json.dumps({key: value for key, value in _GOOD.items() if key != name}).encode()
        yield from (json.dumps({**_GOOD, name: wrong}).encode() for wrong in _WRONG)
    yield from (json.dumps({**_GOOD, "lane": lane}).encode() for lane in (-1, 2**31, 2**40))
    yield from (bytes([first]) * 9 for first in range(128, 160))


def _bad(value: bytes | None) -> bool:
    try:
        decode(value)
    except MalformedMessage:
        return True
    return False


#: Headers that a record may have.
HEADERS: Final[list[Headers]] = [
    [("h", None)],
    [("", None)],
    [("", b"")],
    [("h", b"\xff"), ("h", b"\x00"), ("h", b"text")],
    [("\x00", b"x"), ("日本", "語".encode())],
    [(f"h{number}", None) for number in range(500)],
]

POISON: Final = list(dict.fromkeys(_kinds()))
assert len(POISON) >= 200
assert all(map(_bad, POISON))
