"""Series for plots: how much ended and how, how long it waited and ran, and what waited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Final

from libs.common.domain.buckets import merged, percentile
from libs.common.domain.errors import Invalid, NotFound
from libs.common.ports_insight import Insight, Percentiles, Point, SeriesRow, SeriesWanted

#: Minutes are kept a little longer than they are promised (24 h), hours for the rest.
MINUTES_KEPT_HOURS: Final = 26
HOURS_KEPT_DAYS: Final = 8
_MINUTES_FOR: Final = timedelta(hours=24)
_MINUTE, _HOUR = 60, 3_600
_MOST_POINTS: Final = 1_500
_FIRST_YEAR, _LAST_YEAR = 1970, 9000


class Series:
    """Reads what the janitor folded. The last minute appears when it is over and settled, within about 20 s."""

    def __init__(self, insight: Insight) -> None:
        self._insight = insight

    async def read(self, wanted: SeriesWanted) -> list[Point]:
        """A point for each step that was looked at, oldest first. Raises Invalid, NotFound."""
        wanted = _aligned(wanted)
        lane = None
        if wanted.model is not None:
            if wanted.tenant_id is None:
                raise Invalid("series", "name the tenant whose model it is", field="/tenant")
            # What was counted for a model that was deleted is still there.
            lane = await self._insight.lane_once(wanted.tenant_id, wanted.model) if "\x00" not in wanted.model else None
            if lane is None:
                raise NotFound("model_unknown", f"there never was a model named {wanted.model!r}")
        rows = await self._insight.series(wanted, lane, hourly=wanted.step_seconds >= _HOUR)
        steps = groupby(rows, lambda row: _floor(row.at, wanted.step_seconds))
        return [_point(at, list(part)) for at, part in steps]


def _aligned(wanted: SeriesWanted) -> SeriesWanted:
    step = wanted.step_seconds
    if step < _MINUTE or step % _MINUTE or (step > _HOUR and step % _HOUR):
        raise Invalid("series", "step is a number of whole minutes, or of whole hours", field="/step")
    if not all(_FIRST_YEAR < at.year < _LAST_YEAR for at in (wanted.since, wanted.until)):
        raise Invalid("series", "there is nothing that far away", field="/from")
    since, until = _floor(wanted.since, step), wanted.until
    if until <= since:
        raise Invalid("series", "from lies before to", field="/from")
    if (until - since).total_seconds() / step > _MOST_POINTS:
        raise Invalid("series", f"at most {_MOST_POINTS} points are read at once: widen the step", field="/step")
    if step < _HOUR and since < datetime.now(UTC) - _MINUTES_FOR - timedelta(seconds=step):
        raise Invalid("series", "minutes are kept for a day: ask for steps of an hour", field="/step")
    return replace(wanted, since=since)


def _floor(at: datetime, step: int) -> datetime:
    return datetime.fromtimestamp(at.timestamp() // step * step, UTC)


def _point(at: datetime, rows: Sequence[SeriesRow]) -> Point:
    return Point(
        at=at,
        success=sum(row.success for row in rows),
        failed=sum(row.failed for row in rows),
        timeout=sum(row.timeout for row in rows),
        canceled=sum(row.canceled for row in rows),
        lost=sum(row.lost for row in rows),
        wait=_percentiles(merged(row.waits for row in rows)),
        run=_percentiles(merged(row.runs for row in rows)),
        backlog=max((row.backlog for row in rows if row.backlog is not None), default=None),
        oldest_seconds=max((row.oldest_seconds for row in rows if row.oldest_seconds is not None), default=None),
    )


def _percentiles(histogram: dict[int, int]) -> Percentiles:
    return Percentiles(*(percentile(histogram, share) for share in (0.5, 0.9, 0.99)))
