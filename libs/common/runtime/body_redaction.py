"""Request and answer bodies, fit to be kept: cut to a size, and secrets masked.

Text as it was sent, not parsed again: it may be cut in the middle, be a form, or no JSON at all. A secret is looked for
wherever a reader of the body would find it: behind names spelled with escapes, in JSON inside a string, in fields of a
form or query, in parts of a multipart form, beside its name in a pair. Most bodies name no secret, and finding that out
costs a few microseconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote_plus, unquote_plus

from libs.common.runtime.redaction import MASK, is_secret_name, redact_text

#: Texts inside texts inside texts: so many are opened, what lies deeper is masked whole.
_DEEPEST: Final = 4
#: A text in quotes up to its end (or to where the body was cut), with the mark that makes a name of it; a bare name and
#: its mark; a bracket. Possessive: a body made for it must not make this slow.
_TOKEN: Final = re.compile(
    r""""(?P<quoted>[^"\\]*+(?:\\.[^"\\]*+)*+)"?(?P<mark>\s*+[:=]\s*+)?"""
    r"""|(?<![A-Za-z0-9_-])(?P<bare>[A-Za-z0-9_-]{3,}+)["']?\s*+[:=]\s*+|[{}\[\]]""",
    re.DOTALL,
)
#: A value: text in quotes up to its end (or to where the body was cut), or what has no blank in it but behind the name
#: of a scheme.
_SIMPLE: Final = re.compile(
    r""""[^"\\]*+(?:\\.[^"\\]*+)*+"?|'[^']*'?|(?:(?:bearer|basic|digest|token|key|apikey)\s+)?[^\s"'{}\[\],;&]+""",
    re.DOTALL | re.IGNORECASE,
)
#: How values begin that end at a place of their own, whatever they stand in.
_OF_ITS_OWN: Final = re.compile(r"""["']|(?:bearer|basic|digest|token|key|apikey)\s""", re.IGNORECASE)
#: What matters for finding the end of an object or array.
_NESTING: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[{}\[\]]', re.DOTALL)
#: What a field of a form or query has that has to be decoded.
_CODED: Final = re.compile(r"[%+\[]")
_WORD: Final = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPE: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED_ASCII: Final = re.compile(r"\\+u00([2-7][0-9a-f])")
_PLAIN: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_PART: Final = re.compile(r"""\bname\*?\s*=\s*("[^"\r\n]*"?|[^\s;]+)""", re.IGNORECASE)
_BLANK_LINE: Final = re.compile(r"\r?\n\r?\n")
_LONGEST_NAME: Final = 128
#: A value that is masked like any other where a mask itself would be taken for one.
_STAND_IN: Final = "masked4f1c09"
#: How the value of a pair is called whose other half holds its name.
_VALUES: Final = frozenset({"value", "values", "val"})


def kept_body(body: bytes, most: int, *, of: int | None = None) -> str:
    """The first `most` bytes as text with every secret masked; `of` is the size of a body that was cut before.

    A cut is shown by "...".
    """
    text = body[:most].decode("utf-8", "replace")
    if "\x00" in text:
        text = text.replace("\x00", "")
    text = _masked(text, 0)
    return text if (of or len(body)) <= most else text + "..."


def holds_mask(body: bytes) -> bool:
    """Whether a mask stands in it where a secret belongs: it was copied from a body that was shown masked.

    Anywhere else three stars are text like any other.
    """
    text = body.decode("utf-8", "replace").replace("\x00", "")
    if MASK not in text:
        return False
    marked = text.replace(MASK, _STAND_IN)
    return _masked(marked, 0).count(_STAND_IN) < marked.count(_STAND_IN)


def _masked(text: str, depth: int) -> str:
    """The same text; what is masked inside a field of a form, or inside a string, is written anew."""
    if depth > _DEEPEST:
        return MASK
    begin = text.lstrip()[:2]
    if begin == "--" and "form-data" in text:
        return _masked_parts(text, depth)
    if _names_a_secret(text):
        text = redact_text(_Scan(text, depth).masked())
    if begin[:1] not in ("{", "[", '"') and _CODED.search(text) is not None:
        text = "&".join([_masked_pair(pair, depth) for pair in text.split("&")])
    return text


def _names_a_secret(text: str) -> bool:
    """Whether anything in it may be masked by is_secret_name or redact_text. Written out: every create pays for it."""
    low = text.lower()
    if "\\u00" in low:
        low = _ESCAPED_ASCII.sub(lambda found: chr(int(found[1], 16)), low)
    return (
        "authoriz" in low or "passw" in low or "secret" in low or "cookie" in low or "credential" in low
        or "signature" in low or "bearer" in low or "basic" in low
        or ("token" in low and low.count("token") > low.count("tokens"))  # max_tokens is in every other payload
        or ("key" in low and ("apikey" in low or "api_key" in low or "api-key" in low or "private" in low))
        or ("user" in low and ("user_info" in low or "user-info" in low))
        or ("@" in low and "://" in low)
    )  # fmt: skip


def _masked_pair(pair: str, depth: int) -> str:
    """A field of a form or query, its name and its value decoded as its reader decodes them."""
    name, mark, value = pair.partition("=")
    if mark and _is_secret(unquote_plus(name)):
        return f"{name}={MASK}"
    before = f"{name}=" if mark else ""
    coded = value if mark else name
    clear = unquote_plus(coded)
    masked = _masked(clear, depth + 1) if clear != coded else clear
    return pair if masked == clear else before + quote_plus(masked, safe="*")


def _masked_parts(text: str, depth: int) -> str:
    """A multipart form: the content of a part whose name is a secret's, and what is inside of the others."""
    text = "\n" + text.lstrip()
    boundary = "\n" + text.split("\n", 2)[1].rstrip()
    first, *parts = text.split(boundary)
    return boundary.join([first, *[_masked_part(part, depth) for part in parts]])[1:]


def _masked_part(part: str, depth: int) -> str:
    blank = _BLANK_LINE.search(part)
    if blank is None:
        return part
    name, content = _PART.search(part, 0, blank.start()), part[blank.end() :]
    hidden = name is not None and _is_secret(unquote_plus(name[1]).replace("\\", ""))
    return part[: blank.end()] + (f"{MASK}\r\n" if hidden else _masked(content, depth + 1))


class _Frame:
    """An object or array that is open: the texts that lie in it directly, and where the values of pairs are."""

    def __init__(self, bracket: str, value_of: _Frame | None, at: int) -> None:
        self.bracket = bracket
        self.value_of = value_of  #: of which pair it is the value
        self.at = at
        self.texts: list[tuple[int, int, str]] = []
        self.values: list[tuple[int, int]] = []

    def secrets(self) -> Iterable[tuple[int, int]]:
        """Values whose names lie beside them: `{"name": "token", "value": ...}`, `["token", ...]`."""
        if self.bracket == "{":
            return self.values if self.values and any(_names(text) for _, _, text in self.texts) else ()
        paired = self.bracket == "[" and len(self.texts) == 2 and _names(self.texts[0][2])
        return [self.texts[1][:2]] if paired else ()


class _Scan:
    """One walk over a text, from its beginning to its end, or to where it was cut."""

    def __init__(self, text: str, depth: int) -> None:
        self._text = text
        self._depth = depth
        self._edits: list[tuple[int, int, str]] = []
        self._frames = [_Frame("", None, 0)]
        self._value_at = -1  #: where the value of a pair begins

    def masked(self) -> str:
        """The text, with the whole value behind each name of a secret masked, objects and arrays too."""
        at = 0
        while (found := _TOKEN.search(self._text, at)) is not None:
            at = self._see(found)
        while self._frames:
            self._close(len(self._text))
        parts, done = [], 0
        for start, end, instead in sorted(self._edits, key=_order):
            if start >= done:
                parts += [self._text[done:start], instead]
            done = max(done, end)  # one that begins inside of another and goes on behind it is masked with it
        return "".join([*parts, self._text[done:]])

    def _see(self, found: re.Match[str]) -> int:
        """Take one token; returns where the next may begin."""
        end = found.end()
        quoted = found["quoted"]
        name = found["bare"] or (quoted if found["mark"] else None)
        if name is not None:
            return self._name(_unescaped(name), end)
        if quoted is not None:
            self._quoted(found.start(), end, quoted)
        elif found[0] in "{[":
            self._open(found[0], found.start())
        elif len(self._frames) > 1:
            self._close(end)
        return end

    def _name(self, name: str, at: int) -> int:
        if _is_secret(name):
            end = _value_end(self._text, at)
            self._mask(at, end)
            return end
        if name.lower() in _VALUES:
            self._value_at = at
            self._simple_value(at)
        return at

    def _simple_value(self, at: int) -> None:
        values = self._frames[-1].values
        inside = bool(values) and values[-1][0] <= at < values[-1][1]
        if self._text.startswith(("{", "["), at) or (inside and _OF_ITS_OWN.match(self._text, at) is None):
            return  # inside of another value it ends where that ends: to look again for each would take the square
        simple = _SIMPLE.match(self._text, at)
        if simple is not None:
            values.append(simple.span())

    def _quoted(self, start: int, end: int, content: str) -> None:
        clear = _unescaped(content)
        self._frames[-1].texts.append((start, end, clear))
        masked = _masked(clear, self._depth + 1) if _names_a_secret(clear) else clear
        if masked != clear:
            self._edits.append((start, end, json.dumps(masked, ensure_ascii=False)))

    def _open(self, bracket: str, at: int) -> None:
        self._frames.append(_Frame(bracket, self._frames[-1] if at == self._value_at else None, at))

    def _close(self, end: int) -> None:
        frame = self._frames.pop()
        for span in frame.secrets():
            self._mask(*span)
        if frame.value_of is not None:
            frame.value_of.values.append((frame.at, end))

    def _mask(self, start: int, end: int) -> None:
        quoted = self._text[start : start + 1] in ('"', "{", "[")
        self._edits.append((start, end, f'"{MASK}"' if quoted else MASK))


def _order(edit: tuple[int, int, str]) -> tuple[int, int, bool]:
    """By where they begin, the longest first; a mask before what else becomes of the same text."""
    start, end, instead = edit
    return start, -end, instead.strip('"') != MASK


def _is_secret(name: str) -> bool:
    """Whether any word of a name is a secret's: `headers[Authorization]`, `auth.token`."""
    return any(is_secret_name(word) for word in _WORD.findall(name[-_LONGEST_NAME:]))


def _names(text: str) -> bool:
    """Whether a text is nothing but the name of a secret."""
    return len(text) <= _LONGEST_NAME and is_secret_name(text)


def _value_end(text: str, at: int) -> int:
    if not text.startswith(("{", "["), at):
        simple = _SIMPLE.match(text, at)
        return simple.end() if simple is not None else at
    depth = 0
    for token in _NESTING.finditer(text, at):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token[0], 0)
        if depth == 0:
            return token.end()
    return len(text)


def _unescaped(content: str) -> str:
    """What a JSON text means, whatever is wrong with it."""
    if "\\" not in content:
        return content
    clear = _ESCAPE.sub(lambda found: _character(found[1]), content)
    if "\\ud" in content or "\\uD" in content:
        clear = clear.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return clear


def _character(escape: str) -> str:
    return chr(int(escape[1:], 16)) if len(escape) > 1 else _PLAIN.get(escape, escape)
