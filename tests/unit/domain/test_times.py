"""The instants that a caller may bind a task to, and the end of a day of quota."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as some

from libs.common.domain.errors import Invalid
from libs.common.domain.quota import day_ends, exhausted
from libs.common.domain.times import LATEST, check_times

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
#: Zones with half hours, with jumps over midnight, and far from UTC.
ZONES = ("UTC", "Asia/Shanghai", "Asia/Kathmandu", "America/Sao_Paulo", "Asia/Beirut", "Pacific/Apia", "Europe/Berlin")


def at(hours: float | None) -> datetime | None:
    return None if hours is None else NOW + timedelta(hours=hours)


@pytest.mark.parametrize(
    "hours",
    [(None, None, None), (1, 1, 1), (1, 2, 3), (-5, None, 1), (-5, 1, None), (3, None, 3), (None, 2, None)],
)
def test_times_in_order_are_taken(hours: tuple[float | None, ...]) -> None:
    check_times(NOW, *map(at, hours))


@pytest.mark.parametrize(
    ("hours", "field"),
    [
        ((2, 1, None), "/start_by"),
        ((2, None, 1), "/deadline"),
        ((1, 3, 2), "/deadline"),
        ((None, 3, 2), "/deadline"),
        ((None, 0, None), "/start_by"),
        ((None, None, -1), "/deadline"),
        ((24 * 367, None, None), "/not_before"),
        ((None, 24 * 367, None), "/start_by"),
        ((None, None, 24 * 367), "/deadline"),
    ],
)
def test_other_times_are_refused_and_named(hours: tuple[float | None, ...], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_times(NOW, *map(at, hours))
    assert refused.value.field == field


def test_a_year_ahead_is_the_last() -> None:
    check_times(NOW, NOW + LATEST, None, None)
    with pytest.raises(Invalid):
        check_times(NOW, NOW + LATEST + timedelta(seconds=1), None, None)


@given(some.integers(946_684_800, 2_208_988_800), some.sampled_from(ZONES))
def test_a_day_ends_with_the_first_instant_of_the_next(instant: int, name: str) -> None:
    now, zone = datetime.fromtimestamp(instant, UTC), ZoneInfo(name)
    end = day_ends(now, zone)
    assert now < end
    assert (end - timedelta(microseconds=1)).astimezone(zone).date() == now.astimezone(zone).date()
    assert end.astimezone(zone).date() > now.astimezone(zone).date()


def test_who_has_used_up_the_day_is_asked_to_come_again_tomorrow_or_in_an_hour() -> None:
    refusal = exhausted("ann", 5, 10, 7, now=NOW.replace(hour=23, minute=59), zone=ZoneInfo("UTC"))
    assert (refusal.code, refusal.retry_after) == ("quota_exhausted", 61)
    assert "3 of 10" in refusal.message
    assert exhausted("ann", 5, 10, 7, now=NOW, zone=ZoneInfo("UTC")).retry_after == 3_600
    assert "0 of 10" in exhausted("ann", 5, 10, 20, now=NOW, zone=ZoneInfo("UTC")).message
