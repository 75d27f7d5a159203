"""The janitor's statements, and what Redis is rebuilt from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from libs.common.adapters.postgres.attempts import watched
from libs.common.adapters.postgres.database import Database
from libs.common.adapters.postgres.dispatch_queue import LOCKED_ENDS, moved
from libs.common.adapters.postgres.insight import backlogs
from libs.common.domain.task import DispatchState, TaskStatus
from libs.common.ports_attempts import WatchedBeat
from libs.common.ports_dispatch import Moved
from libs.common.ports_sweeps import (
    DuePlace,
    DueRetry,
    Ended,
    Ending,
    ExpiredRow,
    LaneFigure,
    LostAttempt,
    OpenRow,
    OpenSlot,
    OutboxFigure,
    OverdueAttempt,
    OverTask,
    Rescued,
)

_PAGE: Final = 1_000
_EXECUTOR_DAYS: Final = 30
_FIRST: Final = DuePlace(datetime(1970, 1, 1, tzinfo=UTC), 0)


class PostgresSweeps:
    """Implements ports_sweeps.Sweeps."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def promote_due(self, limit: int) -> list[Moved]:
        return moved(await self._database.fetch("promote_due", limit))

    async def due_retries(self, limit: int) -> list[DueRetry]:
        return [DueRetry(**row) for row in await self._database.fetch("due_retries", limit)]

    async def requeue(self, retries: Sequence[DueRetry]) -> list[Moved]:
        ordered = sorted(retries, key=lambda retry: retry.id)
        return moved(
            await self._database.fetch_free("requeue_retries", *_versions(ordered), [retry.head for retry in ordered])
        )

    async def put_off(self, retries: Sequence[tuple[DueRetry, float]]) -> None:
        ordered = sorted(retries, key=lambda retry: retry[0].id)
        await self._database.fetch_free(
            "put_off_retries", *_versions([retry for retry, _ in ordered]), [seconds for _, seconds in ordered]
        )

    async def watch(self) -> list[WatchedBeat]:
        return watched(await self._database.fetch("watch_beats"))

    async def executors_with_work(self) -> set[int]:
        return {row["id"] for row in await self._database.fetch("executors_with_work")}

    async def bury_executors(self, beats: Sequence[WatchedBeat]) -> list[int]:
        rows = await self._database.fetch("bury_executors", [beat.id for beat in beats], [beat.beat for beat in beats])
        return [row["id"] for row in rows]

    async def rescue(self, executors: Sequence[int], lost_budget: int) -> list[Rescued]:
        held = await self._database.fetch("rescue_held", list(executors))
        running = await self._database.fetch("rescue_running", list(executors), lost_budget)
        return [Rescued(row, None) for row in moved(held)] + [
            Rescued(back, row["token"]) for row, back in zip(running, moved(running), strict=True)
        ]

    async def lost_for_good(self, executors: Sequence[int], lost_budget: int) -> list[LostAttempt]:
        rows = await self._database.fetch("lost_for_good", list(executors), lost_budget)
        return [LostAttempt(**row) for row in rows]

    async def overdue(self, grace_seconds: float, upload_seconds: float, limit: int) -> list[OverdueAttempt]:
        rows = await self._database.fetch("overdue_running", grace_seconds, upload_seconds, limit)
        return [OverdueAttempt(**row) for row in rows]

    async def end_running(self, ends: Sequence[tuple[LostAttempt | OverdueAttempt, TaskStatus, str, str]]) -> set[int]:
        ordered = sorted(ends, key=lambda end: end[0].id)
        nothing = [None] * len(ordered)
        rows = await self._end(
            "finish_many",
            [attempt.id for attempt, _, _, _ in ordered],
            [attempt.token for attempt, _, _, _ in ordered],
            [int(status) for _, status, _, _ in ordered],
            [code for _, _, code, _ in ordered],
            [message for _, _, _, message in ordered],
            nothing,
            nothing,
            nothing,
            nothing,
            [status is not TaskStatus.CANCELED for _, status, _, _ in ordered],
            *_calls_stay_counted(len(ordered)),
        )
        return {row["id"] for row in rows}

    async def retry_running(self, retries: Sequence[tuple[OverdueAttempt, float, bool, str, str]]) -> set[int]:
        if not retries:
            return set()
        ordered = sorted(retries, key=lambda retry: retry[0].id)
        attempts, delays, heads, codes, messages = (list(column) for column in zip(*ordered, strict=True))
        rows = await self._end(
            "retry_many",
            [attempt.id for attempt in attempts],
            [attempt.token for attempt in attempts],
            delays,
            heads,
            codes,
            messages,
            [True] * len(ordered),
            *_calls_stay_counted(len(ordered)),
        )
        return {row["id"] for row in rows}

    async def _end(self, name: str, ids: Sequence[int], *columns: Any) -> list[asyncpg.Record]:
        async def end(ids: Sequence[int], *columns: Any) -> list[asyncpg.Record]:
            async with self._database.transaction() as transaction:
                await transaction.fetch("hold_attempts", ids)
                return await transaction.fetch(name, ids, *columns)

        return await self._database.around_locked(end, ids, *columns, locked=LOCKED_ENDS)

    async def waiting_page(self, after: int, limit: int, seconds: int) -> list[OpenRow]:
        return [OpenRow(**row) for row in await self._database.fetch("waiting_page", after, limit, seconds)]

    async def rows_of_closed_lanes(self, limit: int) -> list[tuple[int, int]]:
        return [(row["id"], row["version"]) for row in await self._database.fetch("rows_of_closed_lanes", limit)]

    async def expired_rows(self, limit: int) -> list[ExpiredRow]:
        return [ExpiredRow(**row) for row in await self._database.fetch("expired_rows", limit)]

    async def requested_waiting(self, limit: int) -> list[tuple[int, int]]:
        return [(row["id"], row["version"]) for row in await self._database.fetch("requested_waiting", limit)]

    async def end_waiting(self, endings: Sequence[Ending]) -> list[Ended]:
        ordered = sorted(endings, key=lambda ending: ending.id)
        rows = await self._database.fetch_free(
            "end_waiting",
            [ending.id for ending in ordered],
            [ending.version for ending in ordered],
            [int(ending.status) for ending in ordered],
            [ending.code for ending in ordered],
            [ending.message for ending in ordered],
            [ending.dead for ending in ordered],
            locked=LOCKED_ENDS,
        )
        return [
            Ended(
                row["tenant_id"],
                row["id"],
                row["lane"],
                str(row["public_id"]),
                row["state"] != DispatchState.RETRY,
            )
            for row in rows
        ]

    async def heal_leases(self, older_than_seconds: float) -> list[Moved]:
        return moved(await self._database.fetch("heal_leases", older_than_seconds))

    async def republish_lost(self, older_than_seconds: float, limit: int) -> list[Moved]:
        return moved(await self._database.fetch("republish_lost", older_than_seconds, limit))

    async def expired_page(self, after: DuePlace | None, limit: int) -> tuple[list[OverTask], DuePlace | None]:
        rows = await self._database.fetch("expired_tasks", *(after or _FIRST), limit)
        following = DuePlace(rows[-1]["expire_at"], rows[-1]["id"]) if len(rows) == limit else None
        return _over(rows), following

    async def unfetched_page(
        self, days: int | None, canceled_days: int, after: int, limit: int
    ) -> tuple[list[OverTask], int | None]:
        rows = await self._database.fetch("unfetched_tasks", days, canceled_days, after, limit)
        full = len(rows) == limit and not rows[-1]["young"]
        return _over(rows), rows[-1]["id"] if full else None

    async def dead_over(self, days: int, limit: int) -> list[OverTask]:
        return [OverTask(**row) for row in await self._database.fetch("dead_over", days, limit)]

    async def delete_tasks(self, tasks: Sequence[OverTask]) -> list[int]:
        ordered = sorted(tasks, key=lambda task: task.id)
        rows = await self._database.fetch_free(
            "delete_tasks", [task.id for task in ordered], [task.version for task in ordered], locked=["locked_payers"]
        )
        return [row["id"] for row in rows]

    async def needed_staged(self, files: Sequence[tuple[str, UUID]]) -> set[str]:
        references, tasks = [reference for reference, _ in files], [task for _, task in files]
        rows = await self._database.query("needed_staged", references=references, tasks=tasks)
        return {row.reference for row in rows}

    async def prune(self, limit: int) -> int:
        await self._database.fetch("prune_cancel_requests")
        await self._database.fetch("prune_executors", _EXECUTOR_DAYS)
        await self._database.fetch("prune_pauses")
        await self._database.fetch("prune_callbacks", limit)
        return len(await self._database.fetch("prune_idempotency", limit))

    async def prune_quota(self, days: int, limit: int) -> int:
        return len(await self._database.fetch("prune_quota", days, limit))

    async def prune_dead_events(self, days: int, limit: int) -> int:
        return len(await self._database.fetch("prune_dead_events", days, limit))

    async def prune_dead_messages(self, days: int, limit: int) -> int:
        return len(await self._database.fetch("prune_dead_messages", days, limit))

    async def prune_deliveries(self, delivered_days: int, dead_days: int, limit: int) -> int:
        gone = await self._database.fetch("prune_deliveries", delivered_days, dead_days, limit)
        await self._database.fetch("prune_webhooks")
        return len(gone)

    async def prune_operations(self, days: int, after: int, limit: int) -> tuple[int, int | None]:
        (row,) = await self._database.fetch("prune_operations", days, limit, after)
        return row["gone"], row["following"]

    async def mark_operations(self) -> None:
        await self._database.fetch("mark_operations")

    async def fill_operations(self, limit: int, older_than_seconds: float) -> tuple[int, bool]:
        rows = await self._database.fetch("fill_operations", limit, older_than_seconds)
        return (rows[0]["filled"], rows[0]["more"]) if rows else (0, False)

    async def fold_statistics(self, limit: int) -> int:
        return int((await self._database.fetch("fold_statistics", limit))[0]["rows"])

    async def open_rows(self, after: int) -> int:
        (row,) = await self._database.fetch("open_rows", after)
        return int(row["open"])

    async def open_page(self, after: int, limit: int) -> list[OpenSlot]:
        return [
            OpenSlot(row["id"], row["lane"], str(row["public_id"]), row["owns_slot"], row["slot_ttl_ms"])
            for row in await self._database.fetch("open_page", after, limit)
        ]

    async def lanes_page(self, after: int, limit: int) -> list[int]:
        return [row["lane"] for row in await self._database.fetch("lanes_page", after, limit)]

    async def absent_slots(self, lane: int, members: Sequence[UUID]) -> list[UUID]:
        return [row["member"] for row in await self._database.fetch("absent_slots", list(members), lane)]

    async def absent_permits(self, lane: int, tokens: Sequence[UUID]) -> list[UUID]:
        return [row["token"] for row in await self._database.fetch("absent_permits", lane, list(tokens))]

    async def lanes_in_flight(self) -> list[int]:
        return [row["lane"] for row in await self._database.fetch("lanes_in_flight")]

    async def lane_figures(self) -> list[LaneFigure]:
        waiting = {backlog.lane: backlog for backlog in await backlogs(self._database)}
        flying = {row["lane"]: row for row in await self._database.fetch("lanes_in_flight")}
        return [
            LaneFigure(
                lane,
                waiting[lane].model_id if lane in waiting else flying[lane]["model_id"],
                flying[lane]["rows"] if lane in flying else 0,
                waiting[lane].elsewhere if lane in waiting else None,
                waiting[lane].oldest_seconds if lane in waiting else 0.0,
            )
            for lane in sorted(waiting.keys() | flying.keys())
        ]

    async def outbox_figures(self, count_limit: int) -> list[OutboxFigure]:
        rows = await self._database.fetch("outbox_figures", count_limit)
        return [OutboxFigure(row["channel"], row["rows"], row["lag"]) for row in rows]

    async def oldest_transaction_seconds(self) -> float:
        return float((await self._database.fetch("oldest_transaction"))[0]["seconds"])


class PostgresOpenTasks:
    """Implements ports.OpenTaskSource."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open_slots(self, lane: int) -> AsyncIterator[list[tuple[str, int]]]:
        async with self._database.transaction() as transaction:
            page: list[tuple[str, int]] = []
            async for row in transaction.stream("open_slots", lane, page=_PAGE):
                page.append((str(row["public_id"]), row["slot_ttl_ms"]))
                if len(page) == _PAGE:
                    yield page
                    page = []
            if page:
                yield page

    async def live_permits(self, lane: int) -> list[tuple[str, int]]:
        rows = await self._database.fetch("live_permits", lane)
        return [(str(row["token"]), row["ttl_ms"]) for row in rows]


def _over(page: Sequence[Any]) -> list[OverTask]:
    return [OverTask(row["id"], row["version"]) for row in page if row["over"]]


def _versions(retries: Sequence[DueRetry]) -> tuple[list[int], list[int]]:
    return [retry.id for retry in retries], [retry.version for retry in retries]


def _calls_stay_counted(rows: int) -> tuple[list[bool], str]:
    """Whether a model heard of a call is known to its executor alone; the time zone is that of counts taken back."""
    return [True] * rows, "UTC"
