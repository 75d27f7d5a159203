"""What a request of the old routes says, read as the old framework read it: leniently in form, strictly in meaning."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any, Final

import orjson

from services.api import strict_json
from services.api.problems import Problem
from services.api.strict_json import BadJson, Payload

PAGE_USUAL: Final = 10
PAGE_LIMIT: Final = 1_000
_LARGEST: Final = 2**63 - 1
_NAMES_REMEMBERED: Final = 4_096
_LONGEST_NAME: Final = 64  #: of what is remembered, and of what is said again
_DROPPED: Final = {ord("_"): None, ord("-"): None, ord(" "): None}
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}(\.0*)?")
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_FLAGS: Final = {"0": False, "1": True, "false": False, "true": True}


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list."""

    offset: int
    limit: int


class Repeated(list[str]):
    """A name that stands several times in a query or a form."""


def fold(name: str) -> str:
    """A name without what does not matter in it."""
    return _remembered(name) if len(name) <= _LONGEST_NAME else _folded(name)


def _folded(name: str) -> str:
    return name.translate(_DROPPED).lower()


_remembered: Final = lru_cache(_NAMES_REMEMBERED)(_folded)


class Given:
    """The members of a request by folded name. What cannot be what it should be raises Problem (400) and names it."""

    def __init__(self, members: Mapping[str, Any]) -> None:
        self._members = members

    def text(self, name: str, limit: int) -> str | None:
        """A text, or a number that stands for one; None when absent."""
        value = self._value(name)
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise _wrong(name, "must be a text")
        if len(value) > limit:
            raise _wrong(name, f"may have at most {limit} characters")
        if "\x00" in value:
            raise _wrong(name, "has a NUL character")
        return value

    def number(self, name: str) -> int | None:
        """An integer, as a number or as text; None when absent or empty."""
        value = self._value(name)
        if isinstance(value, str):
            text = value.strip()
            if not text:
                return None
            value = int(text.partition(".")[0]) if _INTEGER.fullmatch(text) else value
        elif isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise _wrong(name, "must be an integer")
        if not -_LARGEST <= value <= _LARGEST:
            raise _wrong(name, "is out of range")
        return value

    def flag(self, name: str) -> bool | None:
        """0 or 1, false or true; None when absent or empty."""
        value = self._value(name)
        if value is None or value == "":
            return None
        known = _FLAGS.get(str(value).strip().lower())
        if known is None:
            raise _wrong(name, "must be 0 or 1")
        return known

    def document(self, name: str) -> dict[str, Any] | None:
        """A JSON object, as itself or as text; None when absent or empty."""
        value = self._value(name)
        if isinstance(value, str):
            value = _parsed(name, value) if value.strip() else None
        if value is not None and not isinstance(value, dict):
            raise _wrong(name, "must be an object")
        return value

    def texts(self, name: str, most: int) -> list[str] | None:
        """A list of texts, as an array, repeated, or comma separated; None when absent."""
        value = self._members.get(fold(name))
        if isinstance(value, str):
            value = _parsed(name, value) if value.lstrip().startswith("[") else value.split(",")
        if value is None:
            return None
        if not isinstance(value, list):
            raise _wrong(name, "must be a list")
        if len(value) > most:
            raise _wrong(name, f"may have at most {most} elements")
        if any(not isinstance(item, str | int) for item in value):
            raise _wrong(name, "must hold texts alone")
        return [str(item).strip() for item in value]

    def day(self, name: str) -> date | None:
        """A day written YYYY-MM-DD; None when absent or empty."""
        text = self.text(name, 32)
        if not text:
            return None
        try:
            if _DAY.fullmatch(text):
                return date.fromisoformat(text)
        except ValueError:
            pass  # well written, but in no calendar
        raise _wrong(name, "must be a day, written YYYY-MM-DD")

    def page(self) -> Page:
        """`page{pageNum,pageSize}`, or the two by themselves."""
        inner = self.document("page")
        where = self if inner is None else Given(folded(inner))
        number, size = where.number("pageNum") or 0, where.number("pageSize") or 0
        size = min(size, PAGE_LIMIT) if size > 0 else PAGE_USUAL
        return Page(min((max(number, 1) - 1) * size, _LARGEST), size)

    def payload(self, name: str) -> bytes:
        """Any JSON, byte for byte as it was sent; text of a form that is no JSON becomes a JSON string."""
        value = self._value(name)
        if isinstance(value, Payload):
            return b"" if value.value is None else value.raw
        if value is None:
            return b""
        if not isinstance(value, str):
            raise _wrong(name, "must be JSON, not a group of fields")
        if not value.strip():
            return b""
        raw: bytes = value.strip().encode()
        try:
            strict_json.read(raw)
        except BadJson:
            return orjson.dumps(value)
        return raw

    def _value(self, name: str) -> Any:
        value = self._members.get(fold(name))
        return value[-1] if isinstance(value, Repeated) else value


def required(value: Any, name: str) -> Any:
    """The value; raises Problem (400) when there is none."""
    if value is None or value == "":
        raise _wrong(name, "is missing")
    return value


def folded(members: Mapping[str, Any]) -> dict[str, Any]:
    """Members by folded name; raises Problem (400) when two that mean the same differ."""
    found: dict[str, Any] = {}
    for name, value in members.items():
        plain = fold(name)
        if found.get(plain, value) != value:
            raise _wrong(shown(plain), "stands there twice, with different values")
        found[plain] = value
    return found


def shown(name: str) -> str:
    """A name that a stranger chose, fit for a message."""
    return name if name.isidentifier() and len(name) <= _LONGEST_NAME else repr(name[:_LONGEST_NAME])


def _parsed(name: str, text: str) -> Any:
    try:
        return strict_json.read(text.encode())
    except BadJson as error:
        raise _wrong(name, f"is not JSON: {error}") from None


def _wrong(name: str, what: str) -> Problem:
    return Problem("invalid", f"{name} {what}")
