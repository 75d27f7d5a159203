"""Jobs that replay or drop the dead, as they are worked off in PostgreSQL."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import date
from typing import Any, Final
from uuid import UUID

from libs.common.adapters.postgres.database import Database, HotTransaction
from libs.common.adapters.postgres.dead import headers_of, stored_headers
from libs.common.adapters.postgres.dispatch_queue import moved
from libs.common.ports_dead import KEPT_BYTES, Action, DeadKind, DeadLetter, DueItem, DueMessage, Turn
from libs.common.ports_dispatch import Moved

_DROPS: Final = {
    DeadKind.TASK: "drop_tasks",
    DeadKind.EVENT: "drop_events",
    DeadKind.DELIVERY: "drop_deliveries",
    DeadKind.MESSAGE: "drop_messages",
}
_OUTBOX: Final = {DeadKind.EVENT: "replay_events", DeadKind.DELIVERY: "replay_deliveries"}


class PostgresReplayWork:
    """Implements ports_dead.ReplayWork."""

    def __init__(self, database: Database, time_zone: str) -> None:
        self._database = database
        self._time_zone = time_zone

    async def take(self, runner: UUID, kinds: Sequence[DeadKind], lease_seconds: float) -> list[Turn]:
        rows = await self._database.fetch("take_replay_jobs", runner, list(kinds), lease_seconds)
        return [
            Turn(
                row["id"],
                Action(row["action"]),
                DeadKind(row["kind"]),
                row["budget"],
                row["reason"],
                row["asked_by"],
                row["by_tenant"],
            )
            for row in rows
        ]

    async def due(self, turn: Turn, limit: int, full: Collection[int]) -> list[DueItem]:
        return [
            DueItem(
                row["key"],
                row["public_id"],
                row["lane"],
                row["points"] or 0,
                row["queue_limit"] or 0,
                row["slot_ttl_ms"] or 0,
            )
            for row in await self._database.fetch("replay_due", turn.id, limit, sorted(full))
        ]

    async def hold_up(self, turn: Turn, lanes: int, note: str) -> None:
        await self._database.fetch("hold_up_replay", turn.id, lanes, note)

    async def replay_tasks(self, turn: Turn, items: Sequence[DueItem]) -> tuple[list[Moved], list[int]]:
        keys, said = sorted(item.key for item in items), _said(turn)
        if not any(item.points for item in items):
            return moved(await self._database.fetch("replay_tasks", turn.id, keys, said, [None] * len(keys))), []
        async with self._database.transaction() as transaction:
            days, poor = await self._reserve(transaction, turn, keys)
            going = [key for key in keys if key not in poor]
            rows = await transaction.fetch("replay_tasks", turn.id, going, said, [days.get(key) for key in going])
        return moved(rows), sorted(poor)

    async def _reserve(
        self, transaction: HotTransaction, turn: Turn, keys: Sequence[int]
    ) -> tuple[dict[int, date], set[int]]:
        """Reserve points on today's accounts: the day by task, and the tasks whose users cannot pay."""
        locked = await transaction.fetch("lock_dead_tasks", turn.id, keys)
        priced = [row for row in locked if row["points"]]
        if not priced:
            return {}, set()
        rows = await transaction.fetch(
            "reserve_points",
            [row["tenant_id"] for row in priced],
            [row["creator"] for row in priced],
            [row["points"] for row in priced],
            self._time_zone,
        )
        ids = {row["place"]: priced[row["place"] - 1]["id"] for row in rows}
        days = {ids[row["place"]]: row["day"] for row in rows if row["fits"]}
        return days, {ids[row["place"]] for row in rows if not row["fits"]}

    async def replay_outbox(self, turn: Turn, keys: Sequence[int]) -> int:
        return len(await self._database.fetch(_OUTBOX[turn.kind], turn.id, sorted(keys)))

    async def messages(self, turn: Turn, keys: Sequence[int]) -> list[DueMessage]:
        return [_message(row) for row in await self._database.fetch("replay_messages", turn.id, sorted(keys))]

    async def sent_messages(self, turn: Turn, keys: Sequence[int]) -> int:
        return len(await self._database.fetch("settle_messages", turn.id, sorted(keys)))

    async def drop(self, turn: Turn, keys: Sequence[int]) -> int:
        said = [_said(turn)] if turn.kind is DeadKind.TASK else []
        return len(await self._database.fetch(_DROPS[turn.kind], turn.id, sorted(keys), *said))

    async def refuse(self, turn: Turn, refused: Sequence[tuple[int, str]]) -> None:
        ordered = sorted(refused)
        await self._database.fetch("refuse_items", turn.id, [key for key, _ in ordered], [why for _, why in ordered])

    async def put_off(self, turn: Turn, later: Sequence[tuple[int, float]], note: str) -> None:
        ordered = sorted(later)
        await self._database.fetch(
            "put_off_items", turn.id, [key for key, _ in ordered], [seconds for _, seconds in ordered], note
        )

    async def locked(self, turn: Turn, keys: Sequence[int]) -> set[int]:
        rows = await self._database.fetch("locked_dead", turn.kind, list(keys), self._time_zone)
        return {row["id"] for row in rows}

    async def absent_slots(self, lane: int, members: Sequence[UUID]) -> list[UUID]:
        return [row["member"] for row in await self._database.fetch("absent_slots", list(members), lane)]

    async def finish(self, turn: Turn) -> bool:
        return bool(await self._database.fetch("finish_replay", turn.id))


class PostgresDeadLetters:
    """Implements ports_dead.DeadLetterBook."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def bury(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        rows = await self._database.fetch(
            "bury_messages",
            [letter.topic for letter in letters],
            [letter.partition for letter in letters],
            [letter.offset for letter in letters],
            [hashlib.sha256(letter.value or b"").digest() for letter in letters],
            [letter.record_key for letter in letters],
            [letter.value[:KEPT_BYTES] if letter.value is not None else None for letter in letters],
            [stored_headers(letter.headers) for letter in letters],
            [letter.code for letter in letters],
            [letter.cause for letter in letters],
            [letter.size for letter in letters],
        )
        return [replace(letters[row["ordinal"] - 1], key=row["id"]) for row in rows]

    async def unlettered(self, older_than_seconds: float, limit: int) -> list[DeadLetter]:
        return [
            DeadLetter(
                row["topic"], row["partition"], row["offset"], row["key"], row["value"],
                headers_of(row["headers"]), row["code"], row["cause"], row["size"], row["id"],
            )
            for row in await self._database.fetch("unlettered_messages", older_than_seconds, limit)
        ]  # fmt: skip

    async def lettered(self, keys: Sequence[int]) -> None:
        await self._database.fetch("lettered_messages", sorted(keys))


def _said(turn: Turn) -> str:
    # A task's history is its tenant's to read: which operator ordered a job, and why, stands in the job alone.
    return f"job {turn.id} of {turn.asked_by}: {turn.reason}" if turn.by_tenant else f"job {turn.id} of an operator"


def _message(row: Any) -> DueMessage:
    if row["topic"] is None:
        return DueMessage(row["key"], None, 0, None, None, ())
    headers = headers_of(row["headers"])
    if row["mended"] is not None:
        return DueMessage(row["key"], row["topic"], row["partition"], row["record_key"], row["mended"], headers)
    problem = ""
    if row["value"] is None:
        problem = "no_bytes"
    elif len(row["value"]) < row["size"]:
        problem = "cut"  # only its beginning was kept
    return DueMessage(row["key"], row["topic"], row["partition"], row["record_key"], row["value"], headers, problem)
