"""Request and answer bodies, fit to be kept: cut to a size, and secrets masked.

Text as it was sent, not parsed again: it may be cut in the middle, be a form, or no JSON at all. Most bodies name no
secret, and finding that out costs a microsecond.
"""

from __future__ import annotations

import re
from typing import Final

from libs.common.runtime.redaction import MASK, is_secret_name, redact_text

#: A name, in quotes or bare, and the mark between it and its value.
_NAMED: Final = re.compile(r"""["']?([A-Za-z0-9_-]{3,64})["']?\s*[:=]\s*""")
#: A value: text in quotes up to its end (or to where the body was cut), or what has no blank in it but behind the name
#: of a scheme.
_SIMPLE: Final = re.compile(
    r""""(?:[^"\\]|\\.)*"?|'[^']*'?|(?:(?:bearer|basic|digest|token|key|apikey)\s+)?[^\s"'{}\[\],;&]+""",
    re.DOTALL | re.IGNORECASE,
)
#: What matters for finding the end of an object or array.
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"?|[{}\[\]]', re.DOTALL)


def kept_body(body: bytes, most: int, *, of: int | None = None) -> str:
    """The first `most` bytes as text with every secret masked; `of` is the size of a body that was cut before.

    A cut is shown by "...".
    """
    text = body[:most].decode("utf-8", "replace")
    if "\x00" in text:
        text = text.replace("\x00", "")
    if _names_a_secret(text):
        text = redact_text(_mask_named(text))
    return text if (of or len(body)) <= most else text + "..."


def _names_a_secret(text: str) -> bool:
    """Whether anything in it may be masked by is_secret_name or redact_text. Written out: every create pays for it."""
    low = text.lower()
    return (
        "key" in low or "auth" in low or "token" in low or "secret" in low or "pass" in low or "user" in low
        or "bearer" in low or "basic" in low or "cookie" in low or "credential" in low or "signature" in low
        or ("@" in low and "://" in low)
    )  # fmt: skip


def _mask_named(text: str) -> str:
    """Mask the whole value behind each name of a secret, objects and arrays too."""
    parts, done, at = [], 0, 0
    while (named := _NAMED.search(text, at)) is not None:
        at = named.end()
        if is_secret_name(named[1]):
            end = _value_end(text, at)
            parts += [text[done:at], f'"{MASK}"' if text[at : at + 1] in ('"', "{", "[") else MASK]
            done = at = end
    return "".join([*parts, text[done:]])


def _value_end(text: str, at: int) -> int:
    if not text.startswith(("{", "["), at):
        simple = _SIMPLE.match(text, at)
        return simple.end() if simple is not None else at
    depth = 0
    for token in _TOKEN.finditer(text, at):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token[0], 0)
        if depth == 0:
            return token.end()
    return len(text)
