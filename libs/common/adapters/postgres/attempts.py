"""Attempts and heartbeats in PostgreSQL, from the executor's side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar
from uuid import UUID

import asyncpg
import orjson

from libs.common.adapters.postgres.database import Database
from libs.common.adapters.postgres.dispatch_queue import placed
from libs.common.domain.output import StagedFile
from libs.common.domain.settle import CallAgain, Finish, GiveBack, Park, Retry
from libs.common.domain.task import Phase
from libs.common.ports_attempts import (
    Answered,
    Attempt,
    Claim,
    HandedRow,
    Identity,
    NamedRow,
    Paused,
    Posture,
    ReadFrom,
    UnclaimedPartition,
    WatchedBeat,
)
from libs.common.ports_dispatch import Placed

#: dispatch.job of an attempt whose provider has not begun to work.
_NOT_BEGUN: Final = 2

Written = TypeVar("Written")


class PostgresAttempts:
    """Implements ports_attempts.Attempts. Statements by id get them sorted, so that two batches cannot deadlock."""

    def __init__(self, database: Database, executor: int, time_zone: str) -> None:
        self._database = database
        self.executor = executor
        self._time_zone = time_zone

    async def start_many(self, claims: Sequence[Claim]) -> list[Attempt]:
        ordered = sorted(claims, key=lambda claim: claim.id)
        rows = await self._database.fetch_free(
            "start_many",
            [claim.id for claim in ordered],
            [claim.lease for claim in ordered],
            [claim.token for claim in ordered],
            [claim.timeout_seconds for claim in ordered],
            self.executor,
            self._time_zone,
            [_NOT_BEGUN if claim.job else 0 for claim in ordered],
        )
        return [_attempt(row) for row in rows]

    async def started_many(self, claims: Sequence[Claim]) -> list[Attempt]:
        rows = await self._database.fetch("started_many", *fence(claims))
        return [_attempt(row) for row in rows]

    async def hold_many(self, messages: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
        ordered = sorted(messages)
        rows = await self._database.fetch_free(
            "hold_many", [message[0] for message in ordered], [message[1] for message in ordered], self.executor
        )
        return {(row["id"], row["lease"]) for row in rows}

    async def release_held(self, ids: Sequence[int]) -> list[Placed]:
        return placed(await self._database.fetch_free("release_held", sorted(ids), self.executor))

    async def release_many(self, rows: Sequence[tuple[Attempt, GiveBack, bool]]) -> list[Placed]:
        ordered = sorted(rows, key=lambda row: row[0].id)
        answers = await self._database.fetch(
            "release_started",
            [attempt.id for attempt, _, _ in ordered],
            [attempt.token for attempt, _, _ in ordered],
            [given.delay for _, given, _ in ordered],
            [called for _, _, called in ordered],
            [given.reason for _, given, _ in ordered],
            self._time_zone,
        )
        return placed([row for row in answers if row["state"] == 0])

    async def generated_many(self, rows: Sequence[tuple[Attempt, Sequence[StagedFile]]]) -> set[int]:
        attempts, outputs = _in_order(rows)
        firsts = [files[0] for files in outputs]
        answers = await self._database.fetch(
            "generated_many",
            *fence(attempts),
            [first.reference for first in firsts],
            [sum(file.size for file in files) for files in outputs],
            [first.sha256 for first in firsts],
            [f"{first.file_type} {first.mime}" for first in firsts],
            [first.content for first in firsts],
            [_several(files) for files in outputs],
        )
        return _ids(answers)

    async def migrating_many(self, attempts: Sequence[Attempt]) -> set[int]:
        ordered = sorted(attempts, key=lambda attempt: attempt.id)
        return _ids(await self._database.fetch("migrating_many", *fence(ordered)))

    async def finish_many(self, rows: Sequence[tuple[Attempt, Finish]]) -> set[int]:
        attempts, ends = _in_order(rows)
        firsts = [end.files[0] if end.files else None for end in ends]
        answers = await self._database.fetch(
            "finish_many",
            *fence(attempts),
            [int(end.status) for end in ends],
            [end.code or None for end in ends],
            [end.message or None for end in ends],
            [first.url if first else None for first in firsts],
            [first.file_type if first else None for first in firsts],
            [first.size if first else None for first in firsts],
            [_files(end) for end in ends],
            [end.dead for end in ends],
            [end.called for end in ends],
            self._time_zone,
        )
        return _ids(answers)

    async def retry_many(self, rows: Sequence[tuple[Attempt, Retry]]) -> set[int]:
        attempts, retries = _in_order(rows)
        answers = await self._database.fetch(
            "retry_many",
            *fence(attempts),
            [retry.delay for retry in retries],
            [retry.head for retry in retries],
            [retry.code for retry in retries],
            [retry.message for retry in retries],
            [retry.timed_out for retry in retries],
            [retry.called for retry in retries],
            self._time_zone,
        )
        return _ids(answers)

    async def park_many(self, rows: Sequence[tuple[Attempt, Park]]) -> set[int]:
        attempts, parks = _in_order(rows)
        answers = await self._database.fetch(
            "park_many",
            *fence(attempts),
            [park.delay for park in parks],
            [park.code for park in parks],
            [park.message for park in parks],
        )
        return _ids(answers)

    async def call_again_many(self, rows: Sequence[tuple[Attempt, CallAgain]]) -> list[Placed]:
        attempts, agains = _in_order(rows)
        return placed(
            await self._database.fetch("call_again_many", *fence(attempts), [again.message for again in agains])
        )

    async def ends_recorded(self, attempts: Sequence[Attempt]) -> set[int]:
        rows = await self._database.fetch(
            "ends_recorded",
            [attempt.id for attempt in attempts],
            [attempt.number for attempt in attempts],
            [attempt.token for attempt in attempts],
        )
        return _ids(rows)

    async def hand_over(self, rows: Sequence[tuple[Attempt, int]]) -> set[int]:
        attempts, executors = _in_order(rows)
        return _ids(await self._database.fetch("hand_over", *fence(attempts), executors))

    async def handed(self) -> list[HandedRow]:
        rows = await self._database.fetch("handed_rows", self.executor)
        return [
            HandedRow(row["id"], row["lease"], row["model_id"], row["input_size"], Phase(row["phase"])) for row in rows
        ]

    async def locked(
        self, tasks: Sequence[int], *, giving_back: Sequence[int] = (), beginning: Sequence[int] = ()
    ) -> set[int]:
        rows = await self._database.fetch("locked_rows", list(tasks))
        if giving_back:
            rows += await self._database.fetch("locked_payers", list(giving_back))
        if beginning:
            rows += await self._database.fetch("locked_models", list(beginning))
        return _ids(rows)

    async def alive(self, attempts: Sequence[Attempt]) -> set[UUID]:
        return {row["token"] for row in await self._database.fetch("tokens_alive", *fence(attempts))}

    async def named(self) -> list[NamedRow]:
        rows = await self._database.fetch("named_rows", self.executor)
        return [NamedRow(row["id"], row["lease"], row["token"]) for row in rows]

    async def disown(self, rows: Sequence[NamedRow]) -> None:
        ordered = sorted(rows, key=lambda row: row.id)
        await self._database.fetch_free(
            "disown",
            [row.id for row in ordered],
            [row.lease for row in ordered],
            [row.token for row in ordered],
            self.executor,
        )


class PostgresMembership:
    """Implements ports_attempts.Membership; wants a Database of its own, so that work cannot starve a heartbeat."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._name = ""
        self.id = 0

    async def join(self, me: Identity) -> int:
        self._name = me.name
        rows = await self._database.fetch(
            "join_executors", me.name, me.slots, me.stores, me.version, self.id, me.adapters
        )
        self.id = rows[0]["id"]
        return self.id

    async def beat(self, running: int, held: int, posture: Posture) -> Answered | None:
        rows = await self._database.fetch("beat", self.id, running, held, posture, self._name)
        return _answered(rows[0]) if rows else None

    async def leave(self) -> None:
        await self._database.fetch("leave_executors", self.id)

    async def watch(self) -> list[WatchedBeat]:
        return watched(await self._database.fetch("watch_beats"))

    async def unclaimed(self) -> list[UnclaimedPartition]:
        rows = await self._database.fetch("unclaimed_partitions")
        return [UnclaimedPartition(row["model_id"], row["partition"], row["oldest"], row["age"]) for row in rows]

    async def read_from(self, wanted: Sequence[tuple[int, int]]) -> list[ReadFrom]:
        lanes, partitions = [lane for lane, _ in wanted], [partition for _, partition in wanted]
        rows = await self._database.fetch("read_from", lanes, partitions)
        found = {(row["lane"], row["partition"]): ReadFrom(row["since"], row["now"]) for row in rows}
        return [found[place] for place in wanted]


def fence(owned: Sequence[Attempt | Claim]) -> tuple[list[int], list[UUID]]:
    """The first arguments of what compares the token."""
    return [one.id for one in owned], [one.token for one in owned]


def watched(rows: Sequence[asyncpg.Record]) -> list[WatchedBeat]:
    """Heartbeat rows as others see them."""
    return [
        WatchedBeat(
            row["id"],
            row["name"],
            row["beat"],
            row["reading"],
            row["age"],
            tuple(row["stores"]),
            row["free"],
            frozenset(row["adapters"]),
            row["last_resort"],
        )
        for row in rows
    ]


def _in_order(rows: Sequence[tuple[Attempt, Written]]) -> tuple[list[Attempt], list[Written]]:
    ordered = sorted(rows, key=lambda row: row[0].id)
    return [attempt for attempt, _ in ordered], [written for _, written in ordered]


def _ids(rows: Sequence[asyncpg.Record]) -> set[int]:
    return {row["id"] for row in rows}


def _answered(row: Any) -> Answered:
    paused = Paused(row["all_paused"], frozenset(row["tenants_paused"]), frozenset(row["lanes_paused"]))
    return Answered(row["canceled"], row["draining"], paused)


def _files(end: Finish) -> str | None:
    if not end.files:
        return None
    return orjson.dumps(
        [
            {
                "url": file.url,
                "type": file.file_type,
                "size": file.size,
                "sha256": file.sha256,
                "name": file.name,
                "index": index,
            }
            for index, file in enumerate(end.files)
        ]
    ).decode()


def _attempt(row: asyncpg.Record) -> Attempt:
    return Attempt(
        id=row["id"],
        public_id=row["public_id"],
        lane=row["lane"],
        tenant_id=row["tenant_id"],
        model_id=row["model_id"],
        lease=row["lease"],
        token=row["token"],
        phase=Phase(row["phase"]),
        number=row["attempt"],
        retries=row["retries"],
        lost=row["lost"],
        input_ref=row["input_ref"],
        trace=row["trace"],
        created_at=row["created_at"],
        entered_at=row["entered_at"],
        started_at=row["started_at"],
        age=row["age"],
        upload_age=row["upload_age"] or 0.0,
        payload=row["payload"],
        sealed=row["sealed"],
        output_count=row["output_count"],
        staged=_staged(row),
        deadline_in=row["deadline_in"],
    )


def _several(files: Sequence[StagedFile]) -> str | None:
    """What is recorded of several files; of one, the row's own columns say everything."""
    if len(files) == 1:
        return None
    return orjson.dumps(
        [
            {
                "reference": file.reference,
                "size": file.size,
                "sha256": file.sha256.hex(),
                "type": file.file_type,
                "mime": file.mime,
            }
            for file in files
        ]
    ).decode()


def _staged(row: Any) -> tuple[StagedFile, ...]:
    if row["staged"] is None:
        return ()
    if row["staged_files"] is not None:
        return tuple(
            StagedFile(file["reference"], file["size"], bytes.fromhex(file["sha256"]), file["type"], file["mime"])
            for file in orjson.loads(row["staged_files"])
        )
    file_type, _, mime = row["staged_type"].partition(" ")
    return (StagedFile(row["staged"], row["staged_size"], row["staged_hash"], file_type, mime, row["staged_content"]),)
