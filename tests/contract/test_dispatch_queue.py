"""The queue in memory, which tests of the dispatcher stand on, does what the statements do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import asyncpg
import pytest

from libs.common.ports_dispatch import Key, LaneAsk, LeasedRow, Turn
from tests.support.memory_queue import MemoryQueue
from tests.support.queue_desk import FIRST, QueueDesk, open_desk

_INSERT = """
INSERT INTO dispatch (id, public_id, lane, state, class, priority, position) VALUES ($1, $2, $3, 0, $4, $5, $6)
"""


class Twins:
    """The same steps in both; leases have numbers of their own in each."""

    def __init__(self, desk: QueueDesk, windows: dict[int, int], beside: asyncpg.Connection) -> None:
        self.desk, self.beside = desk, beside
        self.memory = MemoryQueue(windows)
        self.lanes = list(windows)
        self.leases: dict[int, int] = {}  #: in memory -> in PostgreSQL
        self.flying: dict[int, int] = {}  #: row -> lease in memory
        self.cursors = {lane: [FIRST, FIRST] for lane in windows}

    async def add(self, lane: int, count: int, klass: int, priority: int) -> None:
        for row in self.memory.add(lane, count, klass=klass, priority=priority):
            await self.beside.execute(_INSERT, row.id, row.public_id, lane, klass, *row.key)
            head = self.cursors[lane]
            head[klass] = min(head[klass], row.key)

    async def turn(self, asks: list[LaneAsk], batch: int, done: list[int]) -> list[LeasedRow]:
        ours = await self.memory.lease_due(asks, batch, 1, done)
        real = await self.desk.queue.lease_due(asks, batch, 1, [self.leases[lease] for lease in done])
        if ours.rows:
            self.leases[ours.rows[0].lease] = real.rows[0].lease
        assert self.shape(real, self.leases) == self.shape(ours, {})
        for row in ours.rows:
            self.flying[row.id] = row.lease
            self.cursors[row.lane][row.klass] = max(self.cursors[row.lane][row.klass], row.key)
        return list(ours.rows)

    def shape(self, turn: Turn, leases: dict[int, int]) -> object:
        """What a turn found, without its own numbers."""
        numbers = {real: memory for memory, real in leases.items()}
        rooms = {room.lane: (room.room, numbers.get(room.low or 0, room.low)) for room in turn.rooms}
        rows = {(row.id, row.lane, row.klass, row.key) for row in turn.rows}
        return rooms, rows, len({row.lease for row in turn.rows}), sorted(turn.busy)

    async def finish(self, id_: int) -> None:
        self.memory.finish(id_)
        del self.flying[id_]
        await self.beside.execute("DELETE FROM dispatch WHERE id = $1", id_)

    async def give_back(self, lease: int, ids: list[int]) -> None:
        ours = await self.memory.give_back(lease, ids)
        theirs = await self.desk.queue.give_back(self.leases[lease], ids)
        assert sorted((row.id, row.place) for row in theirs) == sorted((row.id, row.place) for row in ours)
        for _, _, (lane, klass, key) in ours:
            self.cursors[lane][klass] = min(self.cursors[lane][klass], key)
        for id_ in ids:
            self.flying.pop(id_, None)

    async def refuse(self, lease: int, id_: int) -> None:
        ours = await self.memory.postpone_refused([(id_, lease, 60.0, "no")])
        assert await self.desk.queue.postpone_refused([(id_, self.leases[lease], 60.0, "no")]) == ours
        del self.flying[id_]


@asynccontextmanager
async def locked(desk: QueueDesk, lane: int) -> AsyncIterator[None]:
    """Another dispatcher has this lane in its turn."""
    connection = await asyncpg.connect(desk.url)
    try:
        await connection.execute(f"BEGIN; SELECT pg_advisory_xact_lock(7001, {lane})")
        yield
    finally:
        await connection.close()


@pytest.fixture
async def twins(database_url: str) -> AsyncIterator[Twins]:
    async with open_desk(database_url, connections=2) as desk:
        beside = await asyncpg.connect(database_url)
        windows = {await desk.lane(concurrency=concurrency): 2 * concurrency for concurrency in (2, 3, 5)}
        yield Twins(desk, windows, beside)
        await beside.close()


@pytest.mark.parametrize("seed", range(8))
async def test_both_queues_answer_alike(twins: Twins, seed: int) -> None:
    chance = Random(seed)
    for _ in range(60):
        lane, step = chance.choice(twins.lanes), chance.random()
        if step < 0.3:
            await twins.add(lane, chance.randint(1, 6), chance.randint(0, 1), chance.choice((0, 0, -1)))
        elif step < 0.7 or not twins.flying:
            lanes = chance.sample(twins.lanes, chance.randint(1, 3))
            asks = [LaneAsk(one, chance.randint(1, 5), 0, *twins.cursors[one]) for one in lanes]
            done = [lease for lease in twins.leases if chance.random() < 0.2]
            if chance.random() < 0.2:
                twins.memory.locked = {lane}
                async with locked(twins.desk, lane):
                    await twins.turn(asks, chance.randint(1, 8), done)
                twins.memory.locked = set()
            else:
                await twins.turn(asks, chance.randint(1, 8), done)
        else:
            id_, lease = chance.choice(list(twins.flying.items()))
            if step < 0.85:
                await twins.finish(id_)
            elif step < 0.95:
                await twins.give_back(lease, [row for row, of in twins.flying.items() if of == lease][:2])
            else:
                await twins.refuse(lease, id_)
        assert sorted(await twins.desk.queue.lanes_with_work()) == await twins.memory.lanes_with_work()


async def test_a_lease_that_is_not_the_rows_own_gives_nothing_back(twins: Twins) -> None:
    lane = twins.lanes[0]
    await twins.add(lane, 2, 1, 0)
    (first, *_) = await twins.turn([LaneAsk(lane, 1, 0, FIRST, FIRST)], 1, [])
    await twins.turn([LaneAsk(lane, 1, 0, FIRST, Key(*first.key))], 1, [])
    second = max(twins.leases)
    await twins.give_back(second, [first.id])
    assert (await twins.desk.row(first.id) or {})["state"] == 1
