"""How the console writes times, durations, sizes and ids."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from libs.common.domain.count import Count
from libs.common.runtime.redaction import redact_text

_BYTES: Final = ("B", "KiB", "MiB", "GiB", "TiB")
NOTHING: Final = "\N{EN DASH}"


def clock(at: datetime | None) -> str:
    """The time of day, to the second; a date before it when the reader needs one is the template's business."""
    return NOTHING if at is None else f"{at.astimezone(UTC):%H:%M:%S}"


def instant(at: datetime | None) -> str:
    """Date and time in UTC, to the second."""
    return NOTHING if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def day_time(at: datetime | None) -> str:
    """Day and time in UTC, to the second: for lists, where the year is known."""
    return NOTHING if at is None else f"{at.astimezone(UTC):%d %b %H:%M:%S}"


def exact(at: datetime) -> str:
    """The time of day in UTC, to the millisecond."""
    return f"{at.astimezone(UTC):%H:%M:%S.%f}"[:-3]


def iso(at: datetime) -> str:
    """RFC 3339 in UTC, for machines."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def duration(lasted: timedelta | float | None) -> str:
    """A length of time with the two units that matter."""
    if lasted is None:
        return NOTHING
    seconds = lasted.total_seconds() if isinstance(lasted, timedelta) else float(lasted)
    if seconds < 0:
        return "-" + duration(-seconds)
    if seconds < 1:
        return f"{seconds * 1_000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    return _whole(round(seconds))


def size(count: int | None) -> str:
    """A number of bytes in the unit that leaves at most four digits."""
    if count is None:
        return NOTHING
    value, unit = float(count), 0
    while value >= 1_024 and unit < len(_BYTES) - 1:
        value, unit = value / 1_024, unit + 1
    return f"{value:.0f} {_BYTES[unit]}" if unit == 0 or value >= 100 else f"{value:.1f} {_BYTES[unit]}"


def number(count: Any) -> str:
    """A number with its thousands apart."""
    if count is None:
        return NOTHING
    return f"{count:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def counted(count: Count) -> str:
    """A number that may have been counted up to a limit."""
    return number(count.value) + ("" if count.exact else "+")


def rate(per_second: float | None) -> str:
    """How often, in the unit that people can imagine."""
    if per_second is None:
        return NOTHING
    if per_second >= 1 or per_second == 0:
        return f"{per_second:.1f}/s"
    return f"{per_second * 60:.1f}/min"


def percent(share: float | None) -> str:
    """A share of one."""
    return NOTHING if share is None else f"{share * 100:.1f} %" if share else "0 %"


def plain(value: float | None) -> str:
    """A number of a plot for its table; empty where there is none."""
    return "" if value is None else f"{value:.3f}".rstrip("0").rstrip(".")


def short(identifier: Any) -> str:
    """The end of a task's id: the part that differs between neighbours."""
    return str(identifier)[-12:]


def many(word: str, count: int = 2) -> str:
    """A noun for so many."""
    if count == 1:
        return word
    return word.removesuffix("y") + "ies" if word.endswith("y") else word + "s"


def words(code: str) -> str:
    """A machine's word for people."""
    return code.replace("_", " ")


def _whole(seconds: int) -> str:
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s" if seconds else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


#: What templates know them as.
FILTERS: Final = {
    written.__name__: written
    for written in (
        clock, counted, day_time, duration, exact, instant, iso, many, number, percent, plain, rate, short, size, words,
    )
} | {"masked": redact_text}  # fmt: skip
