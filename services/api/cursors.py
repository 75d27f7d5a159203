"""Cursors of lists: opaque to callers, one kind of list each."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypeAlias

from libs.common.ports_dead import DeadPlace
from services.api.problems import Problem

Kind: TypeAlias = Literal[
    "task", "model", "operation", "limit", "action", "lane", "replay", "item", "delivery", "tenant", "webhook"
]


def cursor_of(kind: Kind, before: int | None) -> str | None:
    """The cursor of the page that goes on before an id; None when there is no such page."""
    return None if before is None else cursor_after(kind, str(before))


def cursor_after(kind: Kind, name: str | None) -> str | None:
    """The cursor of the page that goes on after a name; None when there is no such page."""
    return None if name is None else _encoded(f"{kind}:{name}")


def before_of(kind: Kind, cursor: str | None) -> int | None:
    """The id that a cursor goes on before; raises Problem (400) for one that we did not give."""
    number = number_after(kind, cursor)
    if number is not None and number < 0:
        raise _foreign()
    return number


def number_after(kind: Kind, cursor: str | None) -> int | None:
    """The number, of 64 bits and a sign, that a cursor goes on after; raises Problem (400) for one not of ours."""
    number = after_of(kind, cursor)
    if number is None:
        return None
    if _NUMBER.fullmatch(number) is None or not -(2**63) <= int(number) < 2**63:
        raise _foreign()
    return int(number)


def after_of(kind: Kind, cursor: str | None) -> str | None:
    """The name that a cursor goes on after; raises Problem (400) for one that we did not give."""
    if cursor is None:
        return None
    named, _, name = _decoded(cursor).partition(":")
    if named != kind or "\x00" in name:
        raise _foreign()
    return name


def _foreign() -> Problem:
    return Problem("bad_cursor", "Give next_cursor of the page before, unchanged.", errors=_WHERE)


def place_cursor(place: DeadPlace | None) -> str | None:
    """The same for the list of the dead."""
    if place is None:
        return None
    microseconds = (place.at - _EPOCH) // timedelta(microseconds=1)
    return _encoded(f"dead:{microseconds}:{place.rank}:{place.id}")


def place_of(cursor: str | None) -> DeadPlace | None:
    """The place that a cursor of the list of the dead goes on behind; raises Problem (400)."""
    if cursor is None:
        return None
    matched = _PLACE.fullmatch(_decoded(cursor))
    if matched is None:
        raise _foreign()
    microseconds, rank, id_ = map(int, matched.groups())
    return DeadPlace(_EPOCH + timedelta(microseconds=microseconds), rank, min(id_, 2**63 - 1))


def _encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decoded(cursor: str) -> str:
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER: Final = re.compile(r"-?\d{1,19}", re.ASCII)
_PLACE: Final = re.compile(r"dead:(\d{1,17}):(\d):(\d{1,19})", re.ASCII)
_WHERE = ({"parameter": "cursor", "detail": "is not a cursor of this list"},)
