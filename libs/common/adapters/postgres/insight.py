"""What operators are told, from PostgreSQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final
from uuid import UUID

from libs.common.adapters.postgres.database import Database
from libs.common.domain.count import Count
from libs.common.domain.task import DispatchState, Phase, TaskStatus
from libs.common.ports_insight import (
    Backlog,
    ExecutorSight,
    LaneFacts,
    LaneWait,
    OutboxSight,
    OverviewCounts,
    Pause,
    Place,
    ProcessSight,
    SeriesRow,
    SeriesWanted,
    TaskFacts,
)

#: Numbers that everybody sees, and those of one lane on a page of many, are counted so far.
COUNT_LIMIT: Final = 10_000
LANE_LIMIT: Final = 1_000
_PAGE_LIMIT: Final = 100
_PLACE_LIMIT: Final = 1_000
_PACE_LIMIT: Final = 500
_MODELS_LIMIT: Final = 20
_IN_FLIGHT_LIMIT: Final = 20_000
_ALL, _TENANT, _LANE = 0, 1, 2


class PostgresInsight:
    """Implements ports_insight.Insight."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def task(self, tenant_id: int | None, public_id: UUID) -> TaskFacts | None:
        rows = await self._database.fetch("why_task", tenant_id, public_id)
        return _task(rows[0]) if rows else None

    async def place(self, task: TaskFacts) -> Place:
        (row,) = await self._database.fetch(
            "place_of", task.lane, task.klass, task.priority, task.position, _PLACE_LIMIT + 1
        )
        # Both classes go one to one: before a row go as many of the other class as of its own, and perhaps one more.
        ahead = row["same"] + min(row["other"], row["same"])
        return Place(min(ahead, _PLACE_LIMIT), ahead <= _PLACE_LIMIT)

    async def place_on_the_road(self, task: TaskFacts) -> Place:
        (row,) = await self._database.fetch("place_on_the_road", task.lane, task.lease, task.priority, task.position)
        return Place(row["ahead"])

    async def lane_of(self, tenant_id: int, model: str) -> int | None:
        rows = await self._database.fetch("lane_by_model", tenant_id, model)
        return rows[0]["lane"] if rows else None

    async def lane_once(self, tenant_id: int, model: str) -> int | None:
        rows = await self._database.fetch("lane_by_model_once", tenant_id, model)
        return rows[0]["lane"] if rows else None

    async def lanes(
        self, tenant_id: int | None, after: int, limit: int, *, busy: bool
    ) -> tuple[list[LaneFacts], int | None]:
        name = "busy_lanes_after" if busy else "lanes_after"
        found = [row["lane"] for row in await self._database.fetch(name, tenant_id, after, limit + 1)]
        facts = await self._facts(found[:limit], _PAGE_LIMIT)
        return facts, found[limit - 1] if len(found) > limit else None

    async def lane(self, lane: int) -> LaneFacts | None:
        facts = await self._facts([lane], LANE_LIMIT)
        return facts[0] if facts else None

    async def lanes_by_number(self, lanes: Sequence[int]) -> list[LaneFacts]:
        return await self._facts(list(lanes), _PAGE_LIMIT)

    async def _facts(self, lanes: list[int], limit: int) -> list[LaneFacts]:
        rows = await self._database.fetch("lane_facts", lanes, limit + 1) if lanes else []
        return [_lane(row, limit) for row in rows]

    async def waits(self, lane: int) -> list[LaneWait]:
        rows = await self._database.fetch("lane_waits", lane, _PAGE_LIMIT + 1)
        of_state = Counter({row["state"]: 0 for row in rows})
        for row in rows:
            of_state[row["state"]] += row["rows"]
        return [
            LaneWait(row["code"], Count(row["rows"], of_state[row["state"]] <= _PAGE_LIMIT), row["due_at"])
            for row in rows
        ]

    async def recent_pace(self, lane: int) -> float | None:
        (row,) = await self._database.fetch("recent_ends", lane, _PACE_LIMIT)
        return row["ended"] / max(row["seconds"], 1.0) if row["ended"] else None

    async def backlogs(self) -> list[Backlog]:
        return await backlogs(self._database)

    async def pauses(self, tenant_id: int | None) -> list[Pause]:
        return [
            Pause(
                row["scope"],
                row["tenant_id"],
                row["lane"],
                row["model"],
                row["webhook_id"],
                row["began"],
                row["paused_by"],
                row["reason"],
            )
            for row in await self._database.fetch("open_pauses", tenant_id)
        ]

    async def executors(self) -> list[ExecutorSight]:
        models: dict[int, list[tuple[str, int]]] = {}
        for row in await self._database.fetch("executors_models", _IN_FLIGHT_LIMIT):
            models.setdefault(row["executor"], []).append((row["model"], row["rows"]))
        return [
            ExecutorSight(**row, models=models.get(row["id"], [])[:_MODELS_LIMIT])
            for row in await self._database.fetch("executors_live")
        ]

    async def processes(self) -> list[ProcessSight]:
        return [_process(row) for row in await self._database.fetch("processes_seen")]

    async def outbox(self) -> list[OutboxSight]:
        return [
            OutboxSight(
                row["channel"],
                counted(row["waiting"], COUNT_LIMIT),
                row["age"],
                counted(row["retrying"], COUNT_LIMIT),
                counted(row["dead"], COUNT_LIMIT),
                counted(row["held"], COUNT_LIMIT),
                row["last_error"] or "",
            )
            for row in await self._database.fetch("outbox_channels", COUNT_LIMIT + 1)
        ]

    async def counts(self) -> OverviewCounts:
        (row,) = await self._database.fetch("overview_counts", COUNT_LIMIT + 1)
        names = ("ready", "in_flight", "later", "retrying", "dead", "events")
        numbers = {name: counted(row[name], COUNT_LIMIT) for name in names}
        return OverviewCounts(now=row["now"], oldest_event_seconds=row["oldest_event"], **numbers)

    async def series(self, wanted: SeriesWanted, lane: int | None, *, hourly: bool) -> list[SeriesRow]:
        scope, subject = _ALL, 0
        if lane is not None:
            scope, subject = _LANE, lane
        elif wanted.tenant_id is not None:
            scope, subject = _TENANT, wanted.tenant_id
        rows = await self._database.fetch("series_rows", scope, subject, hourly, wanted.since, wanted.until)
        return [_series(row) for row in rows]


async def backlogs(database: Database) -> list[Backlog]:
    """Lanes with something ready."""
    rows = await database.fetch("lane_backlogs", COUNT_LIMIT)
    return [Backlog(row["lane"], row["model_id"], row["oldest"], row["elsewhere"]) for row in rows]


def counted(number: int, limit: int) -> Count:
    """A number that was counted up to one more than the limit."""
    return Count(min(number, limit), number <= limit)


def _task(row: Any) -> TaskFacts:
    state = row["state"]
    return TaskFacts(
        **dict(row)
        | {
            "status": TaskStatus(row["status"]),
            "state": None if state is None else DispatchState(state),
            "phase": Phase(row["phase"]),
        }
    )


def _process(row: Any) -> ProcessSight:
    values = dict(row)
    refused = dict(zip(values.pop("refused_lanes"), values.pop("refused_causes"), strict=True))
    return ProcessSight(**values, refused=refused)


def _lane(row: Any, limit: int) -> LaneFacts:
    return LaneFacts(**dict(row) | {name: counted(row[name], limit) for name in ("ready", "later")})


def _series(row: Any) -> SeriesRow:
    return SeriesRow(
        at=row["at"],
        success=row["success"] or 0,
        failed=row["failed"] or 0,
        timeout=row["timeout"] or 0,
        canceled=row["canceled"] or 0,
        lost=row["lost"] or 0,
        waits=_histogram(row["wait_at"], row["wait_n"]),
        runs=_histogram(row["run_at"], row["run_n"]),
        backlog=row["backlog"],
        oldest_seconds=row["oldest_seconds"],
    )


def _histogram(buckets: Iterable[int] | None, numbers: Iterable[int] | None) -> list[tuple[int, int]]:
    return list(zip(buckets or (), numbers or (), strict=True))
