"""Cursors of lists: opaque to callers, one kind of list each."""

from __future__ import annotations

import base64
import binascii
from typing import Literal, TypeAlias

from services.api.problems import Problem

Kind: TypeAlias = Literal["task", "model", "operation", "limit", "action", "lane"]


def cursor_of(kind: Kind, before: int | None) -> str | None:
    """The cursor of the page that goes on before an id; None when there is no such page."""
    return None if before is None else cursor_after(kind, str(before))


def cursor_after(kind: Kind, name: str | None) -> str | None:
    """The cursor of the page that goes on after a name; None when there is no such page."""
    return None if name is None else base64.urlsafe_b64encode(f"{kind}:{name}".encode()).decode().rstrip("=")


def before_of(kind: Kind, cursor: str | None) -> int | None:
    """The id that a cursor goes on before; raises Problem (400) for one that we did not give."""
    number = after_of(kind, cursor)
    if number is None:
        return None
    if not (number.isascii() and number.isdecimal()) or int(number) >= 2**63:
        raise _foreign()
    return int(number)


def after_of(kind: Kind, cursor: str | None) -> str | None:
    """The name that a cursor goes on after; raises Problem (400) for one that we did not give."""
    if cursor is None:
        return None
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    named, _, name = text.partition(":")
    if named != kind or "\x00" in name:
        raise _foreign()
    return name


def _foreign() -> Problem:
    return Problem("bad_cursor", "Give next_cursor of the page before, unchanged.", errors=_WHERE)


_WHERE = ({"parameter": "cursor", "detail": "is not a cursor of this list"},)
