"""Points: what a task costs its creator, and when the account of a day ends."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from libs.common.domain.errors import Exhausted, Invalid
from libs.common.domain.model import MAX_INT, Model

#: Nobody is asked to wait longer before trying again: a limit may be raised meanwhile.
_LONGEST_RETRY_AFTER: Final = 3_600


def points_of(model: Model, output_count: int) -> int:
    """The points of a task; raises Invalid when they are more than can be counted."""
    points = model.price * output_count
    if points > MAX_INT:
        raise Invalid("invalid", f"{output_count} outputs cost more than {MAX_INT} points", field="/output_count")
    return points


def day_ends(now: datetime, zone: ZoneInfo) -> datetime:
    """The first instant of the day after `now` in a time zone."""
    tomorrow = now.astimezone(zone).date() + timedelta(days=1)
    # Through UTC and back: where clocks jump over midnight, that midnight is the instant of the jump.
    return datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=zone).astimezone(now.tzinfo)


def exhausted(user: str, points: int, limit: int, used: int, *, now: datetime, zone: ZoneInfo) -> Exhausted:
    """The refusal of a task that its creator cannot pay today."""
    seconds = int((day_ends(now, zone) - now).total_seconds()) + 1
    return Exhausted(
        "quota_exhausted",
        f"the task costs {points} points, {max(limit - used, 0)} of {limit} are left to the user {user!r} today",
        retry_after=min(seconds, _LONGEST_RETRY_AFTER),
    )
