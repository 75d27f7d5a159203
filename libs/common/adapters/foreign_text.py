"""Text of the other side, made fit for our errors."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import quote, quote_plus

from libs.common.domain.texts import without_tokens

SHOWN_CHARACTERS: Final = 500

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
_ESCAPED: Final = re.compile("%[0-9A-F]{2}")
#: Signs as JSON of Go, .NET and Rails (`\u0026`) and pages (`&#43;`, `&#x2B;`) show them, each a choice of its own.
_SIGN: Final = re.compile(
    r"\\u00([2-7][0-9a-fA-F])|&#[xX]([2-7][0-9a-fA-F]);|&#(3[2-9]|[4-9][0-9]|1[01][0-9]|12[0-6]);"
)
_SIGN_LENGTH: Final = 6
_SHORTEST_SECRET: Final = 4  #: masking `1` or `on` would only make the text unreadable


@dataclass(frozen=True, slots=True)
class Cleaner:
    """Makes the other side's text fit for an error: secrets masked, control characters gone. JSON, addresses and pages
    show a secret each in their own way.

    Tokens of callback addresses are known by their shape: whoever repeats one may have got it long ago.
    """

    variants: tuple[str, ...]

    @classmethod
    def of(cls, secrets: Iterable[str]) -> Cleaner:
        """A model may repeat a credential without its scheme: `Bearer abc` as `abc`."""
        return cls(_variants(tuple(secrets)))

    @property
    def wanted_bytes(self) -> int:
        """How much of a body is needed so that a secret which begins in the shown part is seen whole."""
        return 4 * (SHOWN_CHARACTERS + self._longest)

    def clean(self, body: bytes) -> str:
        """The first SHOWN_CHARACTERS of a body of which at most `wanted_bytes` are given."""
        text = _with_signs(body[: self.wanted_bytes].decode("utf-8", "replace"))
        for secret in self.variants:
            text = text.replace(secret, "***")
        text = without_tokens(text)
        if self.variants and len(body) >= self.wanted_bytes:
            text = text[: -self._longest - _SIGN_LENGTH]  # what was cut there may be the first part of a secret
        return _CONTROL.sub(" ", text).strip()[:SHOWN_CHARACTERS]

    @property
    def _longest(self) -> int:
        return len(self.variants[0]) if self.variants else 0


@lru_cache(maxsize=1_000)
def _variants(secrets: tuple[str, ...]) -> tuple[str, ...]:
    parts = {part for secret in secrets for part in (secret, secret.rpartition(" ")[2])}
    shown = {form for part in parts for written in _forms(part) for form in (written, _with_signs(written))}
    return tuple(sorted((part for part in shown if len(part) >= _SHORTEST_SECRET), key=len, reverse=True))


def _forms(secret: str) -> Iterable[str]:
    wire = secret.encode("latin-1", "replace")  # what headers are sent as, and sent back as, whatever it is taken for
    yield secret
    yield wire.decode("utf-8", "replace")
    for written in (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
        yield from (written, written.replace("/", r"\/"))  # PHP escapes slashes, too
    for quoted in (quote(wire, safe=""), quote_plus(wire), quote(secret), quote(secret, safe="")):
        yield from (quoted, _ESCAPED.sub(lambda found: found[0].lower(), quoted))
    yield from (html.escape(secret), html.escape(secret, quote=False))


def _with_signs(text: str) -> str:
    return _SIGN.sub(lambda found: chr(int(found[3]) if found[3] else int(found[1] or found[2], 16)), text)
