"""The queue and the outgoing events in PostgreSQL, from the dispatcher's side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from libs.common.adapters.postgres.database import Database
from libs.common.adapters.postgres.deliveries import hooked_columns
from libs.common.adapters.postgres.right import Right
from libs.common.domain.task import TaskStatus
from libs.common.ports_dispatch import (
    EndFilter,
    EventKey,
    EventRow,
    Key,
    LaneAsk,
    LaneInfo,
    LaneRoom,
    LeasedRow,
    Moved,
    Placed,
    Turn,
)
from libs.common.ports_webhooks import HookedEvent

#: What the end of a task that nobody runs may meet: it changes the task's account, too.
LOCKED_ENDS: Final = ("locked_rows", "locked_payers")
#: Kinds of the rows that a turn answers.
_LANE: Final = 0
_TAKEN: Final = 1
_BUSY: Final = 2
_BEGINNING: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


class PostgresDispatchQueue:
    """Implements ports_dispatch.DispatchQueue."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def new_dispatcher(self) -> int:
        return int((await self._database.fetch("new_dispatcher"))[0]["id"])

    async def lease_due(
        self, asks: Sequence[LaneAsk], batch: int, dispatcher: int, acknowledged: Sequence[int]
    ) -> Turn:
        rows = await self._database.fetch("lease_due", *ask_columns(asks), batch, dispatcher, list(acknowledged))
        rooms = [LaneRoom(row["lane"], row["room"], row["low"]) for row in rows if row["kind"] == _LANE]
        taken = [_leased(row) for row in rows if row["kind"] == _TAKEN]
        taken.sort(key=lambda row: (row.klass, row.key))  # they go out as they lie here
        return Turn(rooms, taken, [row["lane"] for row in rows if row["kind"] == _BUSY])

    async def close_leases(self, leases: Sequence[int]) -> None:
        await self._database.fetch("close_leases", list(leases))

    async def lanes_with_work(self) -> list[int]:
        return [row["lane"] for row in await self._database.fetch("lanes_with_work")]

    async def server_began(self) -> datetime:
        began: datetime = (await self._database.fetch("server_began"))[0]["at"]
        return began

    async def lanes_changed(self, since: datetime | None) -> list[LaneInfo]:
        rows = await self._database.fetch("lanes_changed", since or _BEGINNING)
        return [
            LaneInfo(
                row["lane"],
                row["tenant_id"],
                row["model_id"],
                row["name"],
                row["partitions"],
                row["spread"],
                row["closed"],
                row["weight"],
                row["updated_at"],
            )
            for row in rows
        ]

    async def spread(self, partitions: Mapping[int, int]) -> None:
        await self._database.fetch("spread_lanes", list(partitions.keys()), list(partitions.values()))

    async def give_back(self, lease: int, ids: Sequence[int]) -> list[Moved]:
        return moved(await self._database.fetch_free("give_back", list(ids), lease))

    async def postpone_refused(self, rows: Sequence[tuple[int, int, float, str]]) -> list[tuple[int, int]]:
        ids, leases, delays, messages = (list(column) for column in zip(*sorted(rows), strict=True))
        answers = await self._database.fetch_free("postpone_refused", ids, leases, delays, messages)
        return [(row["id"], row["sends"]) for row in answers]

    async def bury_refused(self, ids: Sequence[int], message: str) -> list[tuple[UUID, int]]:
        rows = await self._database.fetch_free("bury_refused", sorted(ids), message, locked=LOCKED_ENDS)
        return [(row["public_id"], row["lane"]) for row in rows]


class PostgresEvents:
    """Implements ports_dispatch.Events and Ends. The relay's lock is a connection of its own, and dies with it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._right = Right(database, "become_relay", "relays")

    async def hold_relay(self) -> bool:
        return await self._right.hold()

    async def close(self) -> None:
        """Give the right up."""
        self._right.give_up()

    async def after(
        self, cursor: int, limit: int, missing: Sequence[int], sent: Sequence[EventKey] = ()
    ) -> list[EventRow]:
        async def read(ids: Sequence[int], instants: Sequence[datetime]) -> list[asyncpg.Record]:
            return await self._database.fetch("events_after", cursor, limit, list(missing), ids, instants)

        # One that cannot be deleted must not have all of them sent again, time and again.
        rows = await self._database.around_locked(read, *_key_columns(sent), locked=["locked_events"])
        return [_event(row) for row in rows]

    async def due(self, limit: int) -> list[EventRow]:
        return [_event(row) for row in await self._database.fetch("events_due", limit)]

    async def finals(self, after: int, limit: int, wanted: EndFilter) -> tuple[list[EventRow], int | None]:
        rows = await self._database.fetch(
            "finals_after", after, limit, wanted.since, wanted.until, wanted.tenant, wanted.model
        )
        return [_event(row) for row in rows if row["id"] is not None], rows[0]["upto"]

    async def sent(self, events: Sequence[EventKey]) -> None:
        await self._database.fetch_free("events_sent", *_key_columns(events), locked=["locked_events"])

    async def hand_over(self, events: Sequence[HookedEvent]) -> int:
        columns = hooked_columns(events)
        return len(await self._database.fetch_free("hand_to_webhooks", *columns, locked=["locked_events"]))

    async def refused(self, rows: Sequence[tuple[EventKey, float, str]], max_sends: int) -> list[int]:
        keys, delays, errors = (list(column) for column in zip(*sorted(rows), strict=True))
        ids, instants = _key_columns(keys)
        answers = await self._database.fetch_free(
            "events_refused", ids, delays, errors, max_sends, instants, locked=["locked_events"]
        )
        return [row["id"] for row in answers]


def _key_columns(events: Sequence[EventKey]) -> tuple[list[int], list[datetime]]:
    ordered = sorted(events)
    return [event.id for event in ordered], [event.finished_at for event in ordered]


def placed(rows: Sequence[asyncpg.Record]) -> list[Placed]:
    """Rows with lane, class, priority and position as places."""
    return [Placed(row["lane"], row["class"], Key(row["priority"], row["position"])) for row in rows]


def moved(rows: Sequence[asyncpg.Record]) -> list[Moved]:
    """The same rows with tenant_id and id, as tasks that moved."""
    return [Moved(row["tenant_id"], row["id"], place) for row, place in zip(rows, placed(rows), strict=True)]


def ask_columns(asks: Sequence[LaneAsk]) -> tuple[list[Any], ...]:
    """The first arguments of `lease_due`."""
    return (
        [ask.lane for ask in asks],
        [ask.quantum for ask in asks],
        [ask.low for ask in asks],
        [ask.returning.priority for ask in asks],
        [ask.returning.position for ask in asks],
        [ask.fresh.priority for ask in asks],
        [ask.fresh.position for ask in asks],
        [ask.fresh_first for ask in asks],
    )


def _leased(row: asyncpg.Record) -> LeasedRow:
    return LeasedRow(
        row["id"],
        row["lane"],
        row["class"],
        Key(row["priority"], row["position"]),
        row["attempt"],
        row["lease"],
        row["phase"],
        row["input_size"],
        row["leased_at"],
    )


def _event(row: asyncpg.Record) -> EventRow:
    return EventRow(
        id=row["id"],
        public_id=row["public_id"],
        tenant_id=row["tenant_id"],
        creator=row["creator"],
        biz_name=row["biz_name"],
        model_name=row["model_name"],
        version=row["version"],
        status=TaskStatus(row["status"]),
        attempt=row["attempt"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        oss_file=row["oss_file"],
        file_type=row["file_type"],
        file_size=row["file_size"],
        files=row["files"],
        error_code=row["error_code"] or None,
        error_message=row["error_message"] or None,
        sends=row["sends"],
        hooked=row["hooked"],
        webhook_url=row["webhook_url"],
        webhook_events=row["webhook_events"] or 0,
    )
