"""JSON as strangers send it: read strictly, once, with payloads cut out byte for byte."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from json.decoder import scanstring  # type: ignore[attr-defined]  # the C scanner that json itself uses
from typing import Any, Final, NamedTuple, TypeAlias

DEEPEST: Final = 200
_BYTE_ORDER_MARK: Final = "\ufeff"

#: Reads the value that begins at a place of a text; returns it and the place behind it.
Reader: TypeAlias = Callable[[str, int], tuple[Any, int]]


class BadJson(ValueError):
    """The bytes are not strict JSON; the message says what is wrong and never quotes them."""


class TooMany(Exception):
    """An array has more elements than are read."""


@dataclass(frozen=True, slots=True)
class Payload:
    """A value exactly as it was written: the spelling of its numbers and the order of its keys are its sender's."""

    raw: bytes
    value: Any


class Quoted(NamedTuple):
    """A value, and how it begins."""

    start: bytes
    value: Any


def read(body: bytes, reader: Reader | None = None) -> Any:
    """The value of a whole body. Raises BadJson for anything that strict JSON has not, and for what hides a meaning:

    duplicate names, NaN and Infinity, lone surrogates, more than DEEPEST levels, bytes that are not UTF-8.
    """
    try:
        text = body.decode()
        value, end = (reader or _value)(text, _after_space(text, 0))
        if _after_space(text, end) != len(text):
            raise BadJson(f"there is more behind the value, at character {end}")
        if "\\ud" in text or "\\uD" in text:
            _check_surrogates(text)  # the one thing that json lets through: those without their other half
    except BadJson:
        raise
    except StopIteration as error:
        if text.startswith(_BYTE_ORDER_MARK):
            raise BadJson("it begins with a byte order mark, which JSON has not") from None
        raise BadJson(f"there is no value at character {error.value}") from None
    except RecursionError:
        raise BadJson(_TOO_DEEP) from None
    except UnicodeDecodeError as error:
        raise BadJson(f"byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise BadJson(f"{error.msg} at character {error.pos}") from None
    except ValueError:
        raise BadJson("a number has too many digits") from None
    return value


def members(readers: Mapping[str, Reader], other: Reader | None = None) -> Reader:
    """Reads an object whose named members have readers of their own; any other value by `other`, or as it is."""
    usual = other or _value

    def read_members(text: str, at: int) -> tuple[Any, int]:
        if not text.startswith("{", at):
            return usual(text, at)
        found: dict[str, Any] = {}
        at = _after_space(text, at + 1)
        if text.startswith("}", at):
            return found, at + 1
        while True:
            name, at = _name(text, at)
            if name in found:
                raise BadJson(_TWICE)
            found[name], at = readers.get(name, usual)(text, at)
            at, more = _next(text, at, "}")
            if not more:
                return found, at

    return read_members


def elements(reader: Reader, most: int, other: Reader) -> Reader:
    """Reads an array by reading each element with `reader`; any other value by `other`. Raises TooMany behind `most`
    elements: what follows them is not read."""

    def read_elements(text: str, at: int) -> tuple[Any, int]:
        if not text.startswith("[", at):
            return other(text, at)
        found: list[Any] = []
        at = _after_space(text, at + 1)
        if text.startswith("]", at):
            return found, at + 1
        while True:
            if len(found) == most:
                raise TooMany
            element, at = reader(text, at)
            found.append(element)
            at, more = _next(text, at, "]")
            if not more:
                return found, at

    return read_elements


def payload(text: str, at: int) -> tuple[Payload, int]:
    """Reads any value and keeps how it was written."""
    return _kept(_value, text, at)


def payload_within(limit: int) -> Reader:
    """The same for a value of at most so many characters; see `within`."""
    return partial(_kept, within(limit))


def within(limit: int) -> Reader:
    """Reads any value, but objects and arrays of at most so many characters. A longer one is UNREAD, and nothing in it
    is looked at but where it ends: to make millions of values of it in one go would hold up every other thread."""

    def read_within(text: str, at: int) -> tuple[Any, int]:
        if len(text) - at <= limit or not text.startswith(("[", "{"), at):
            return _value(text, at)  # what is neither is one value
        most = _FIRST_LOOK
        while True:
            most = min(most, limit)
            with suppress(StopIteration, json.JSONDecodeError):
                value, end = _value(text[at : at + most], 0)
                return value, at + end
            if most == limit:
                break
            most *= _NEXT_LOOK
        end = _end(text, at)
        return (UNREAD, end) if end - at > limit else _value(text, at)

    return read_within


def quoted(reader: Reader, most: int) -> Reader:
    """Reads a value by `reader` and keeps how it was written up to `most` characters."""

    def read_quoted(text: str, at: int) -> tuple[Quoted, int]:
        value, end = reader(text, at)
        return Quoted(text[at : min(end, at + most)].encode(), value), end

    return read_quoted


def _kept(reader: Reader, text: str, at: int) -> tuple[Payload, int]:
    value, end = reader(text, at)
    return Payload(text[at:end].encode(), value), end


def _end(text: str, at: int) -> int:
    """Where the object or array that begins here ends, if it is one."""
    depth = 0
    while at < len(text):
        for found in _NESTING.finditer(text, at):
            mark, at = found[1], found.end()
            if mark == '"':
                at = scanstring(text, at, True)[1]
                break
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(mark, 0)
            if depth == 0:
                return at
    return at


def _value(text: str, at: int) -> tuple[Any, int]:
    value, end = _scan(text, at)
    # Only what has that many brackets can be that deep; counting them costs next to nothing.
    if end - at > 2 * DEEPEST and text.count("[", at, end) + text.count("{", at, end) > DEEPEST:
        _check_depth(value)
    return value, end


def _name(text: str, at: int) -> tuple[str, int]:
    """A member's name; the place is where its value begins."""
    usual = _USUAL_NAME.match(text, at)
    if usual is not None:
        return usual[1], usual.end()
    if not text.startswith('"', at):
        raise BadJson(f"a name in quotes is missing at character {at}")
    name, at = scanstring(text, at + 1, True)
    at = _after_space(text, at)
    if not text.startswith(":", at):
        raise BadJson(f"a colon is missing at character {at}")
    return name, _after_space(text, at + 1)


def _next(text: str, at: int, closing: str) -> tuple[int, bool]:
    """Whether another member or element follows; the place is where it begins, or behind the closing bracket."""
    mark = _MARK.match(text, at)
    if mark is None or mark[1] not in ("," + closing):
        raise BadJson(f"a comma or {closing} is missing at character {at}")
    return (mark.end(), True) if mark[1] == "," else (mark.end(1), False)


def _check_surrogates(text: str) -> None:
    """Not by reading all of it again, which holds up every other thread; piece by piece, which does not."""
    at = text.find("\\")
    while at < len(text):
        whole = _PAIRED.match(text, at)
        if whole is None:
            raise BadJson(f"half of a surrogate pair at character {at}")
        at = whole.end()


def _after_space(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing at all, too


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadJson(_TWICE)
    return found


def _no_constant(_name: str) -> Any:
    raise BadJson("NaN and Infinity are no JSON numbers")


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level := [inner for outer in level for inner in _inside(outer) if isinstance(inner, dict | list)]:
        depth += 1
        if depth >= DEEPEST:
            raise BadJson(_TOO_DEEP)


def _inside(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value


_TWICE: Final = "a name stands twice in one object"
_TOO_DEEP: Final = f"nested deeper than {DEEPEST} levels"
#: A value that was not read.
UNREAD: Final = object()
#: A value is looked for in this many characters, then in this many times more, and so on: the copies stay in proportion
#: to its size.
_FIRST_LOOK: Final = 256
_NEXT_LOOK: Final = 16
#: What matters for finding the end of an object or array, and what stands before it: a bracket, a text of usual length,
#: or how a longer one begins. No search goes so far at once that it would hold up other threads.
_NESTING: Final = re.compile(
    r'[^"{}\[\]]{0,65536}+("[^"\\]{0,4096}+(?:\\.[^"\\]{0,4096}+){0,64}"|["{}\[\]])?', re.DOTALL
)
#: Text and its escapes, up to a surrogate without its other half. The group is not repeated possessively: Python up to
#: 3.11.4 would go on from the middle of what does not match (cpython#106052).
_PAIRED: Final = re.compile(
    r"(?:[^\\]++|\\(?:[^u]|u(?![dD][89a-fA-F])|u[dD][89abAB]..\\u[dD][c-fC-F])){1,10000}", re.DOTALL
)
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_MARK: Final = re.compile(r"[ \t\n\r]*([,}\]])[ \t\n\r]*")
#: A name without escapes, its colon, and the space around: what nearly all names are, in one step.
_USUAL_NAME: Final = re.compile(r'"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*')
_scan: Final[Reader] = json.JSONDecoder(  # type: ignore[attr-defined]  # its C scanner, which says where a value ends
    object_pairs_hook=_unique, parse_constant=_no_constant
).scan_once
