"""What a turn costs beside a long queue, and that several dispatchers together keep every promise of one."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from libs.common.adapters.postgres.dispatch_queue import ask_columns
from libs.common.ports_dispatch import Key, LaneAsk, LaneInfo, Placed
from services.dispatcher.lanes import LaneBook
from tests.support.memory_queue import NOW
from tests.support.queue_desk import FIRST, QueueDesk, open_desk

_FILL = """
INSERT INTO dispatch (id, public_id, lane, state, priority, position)
SELECT g, gen_random_uuid(), $1, 0, 0, g FROM generate_series($2::bigint, $3::bigint) g
"""


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[QueueDesk]:
    async with open_desk(database_url, connections=16) as desk:
        yield desk


async def explain(desk: QueueDesk, name: str, *arguments: Any) -> dict[str, Any]:
    """The plan of a hot statement, run and rolled back, on a connection with the planner settings of hot ones."""
    connection = await desk.database.acquire()
    try:
        transaction = connection.transaction()
        await transaction.start()
        text = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {desk.database.statement(name)}"
        plan: dict[str, Any] = json.loads(await connection.fetchval(text, *arguments))[0]["Plan"]
        await transaction.rollback()
        return plan
    finally:
        await desk.database.pool.release(connection)


def buffers(plan: dict[str, Any]) -> int:
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def scans(plan: dict[str, Any]) -> set[str]:
    return {plan["Node Type"]}.union(*(scans(child) for child in plan.get("Plans", [])))


@pytest.mark.parametrize("waiting", [200_000, pytest.param(1_000_000, marks=pytest.mark.long)])
@pytest.mark.long
async def test_a_turn_costs_the_same_beside_a_thousand_and_beside_very_many_rows(desk: QueueDesk, waiting: int) -> None:
    lane = await desk.lane(concurrency=15)
    turn = (*ask_columns([LaneAsk(lane, 500, 0, FIRST, FIRST)]), 500, 1, [])
    await desk.sql(_FILL, lane, 1, 1_000)
    await desk.sql("ANALYZE dispatch")
    short = await explain(desk, "lease_due", *turn)
    await desk.sql(_FILL, lane, 1_001, waiting)
    long = await explain(desk, "lease_due", *turn)
    assert long["Actual Rows"] == short["Actual Rows"] == 31
    assert buffers(long) <= 2 * buffers(short)
    assert "Seq Scan" not in scans(long)


async def test_a_turn_costs_the_same_beside_a_forgotten_transaction(desk: QueueDesk) -> None:
    lane = await desk.lane(concurrency=15)
    book, newest = LaneBook(clock=lambda: 0.0), 1_000  # its cursors are never cleared meanwhile
    book.learn([LaneInfo(lane, lane, lane, "m", 1, 1, False, 1, NOW)])
    book.open([lane])
    await desk.sql(_FILL, lane, 1, newest)
    await desk.sql("ANALYZE dispatch")

    async def turn() -> int:
        """One turn; what it took ends, and as much comes. Returns its buffers."""
        nonlocal newest
        (ask,) = book.take()
        cost = buffers(await explain(desk, "lease_due", *ask_columns([ask]), 500, 1, []))
        taken = await desk.queue.lease_due([ask], 500, 1, [])
        book.settle(taken)
        await desk.sql("DELETE FROM dispatch WHERE id = ANY ($1::bigint[])", [row.id for row in taken.rows])
        await desk.sql(_FILL, lane, newest + 1, newest + len(taken.rows))
        newest += len(taken.rows)
        book.room(lane)
        book.work(lane, 1, Key(0, newest))
        assert len(taken.rows) == 30
        return cost

    usual = max([await turn() for _ in range(10)])
    forgotten = await asyncpg.connect(desk.url)
    try:
        await forgotten.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM lane")
        costs = [await turn() for _ in range(200)]
    finally:
        await forgotten.close()
    assert max(costs[-10:]) <= 2 * usual


async def test_neither_cursors_nor_full_lanes_make_a_turn_dearer(desk: QueueDesk) -> None:
    lane = await desk.lane(concurrency=15)
    await desk.sql(_FILL, lane, 1, 50_000)
    await desk.lease(lane)
    full = (*ask_columns([LaneAsk(lane, 500, 0, FIRST, FIRST)]), 500, 1, [])
    assert buffers(await explain(desk, "lease_due", *full)) < 60
    assert buffers(await explain(desk, "lanes_with_work")) < 120


class Colleague:
    """A dispatcher as far as the queue sees it."""

    def __init__(self, desk: QueueDesk, number: int) -> None:
        self.desk, self.number, self.book = desk, number, LaneBook()
        self.done: list[int] = []
        self.taken: list[tuple[int, int]] = []

    async def work(self, stop: asyncio.Event) -> None:
        sweep_at = 0.0
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            if loop.time() > sweep_at:
                self.book.swept(await self.desk.queue.lanes_with_work())
                sweep_at = loop.time() + 0.3
            asks = self.book.take()
            if not asks:
                await asyncio.sleep(0.002)
                continue
            turn = await self.desk.queue.lease_due(asks, self.book.limit, self.number, self.done)
            self.book.settle(turn)
            self.done = sorted({row.lease for row in turn.rows})
            self.taken += [(row.id, row.lease) for row in turn.rows]
            await asyncio.sleep(0.001)
        await self.desk.queue.close_leases(self.done)


async def test_three_dispatchers_never_overrun_a_window_publish_twice_or_leave_a_row(desk: QueueDesk) -> None:
    lanes = [await desk.lane(concurrency=3, tenant=tenant) for tenant in range(1, 9)]
    window = 6
    team = [Colleague(desk, number) for number in (1, 2, 3)]
    for colleague in team:
        colleague.book.learn(LaneInfo(lane, lane, lane, "m", 1, 1, False, 1, NOW) for lane in lanes)
        colleague.book.open(lanes)
    stop, no_more = asyncio.Event(), asyncio.Event()
    crew = [asyncio.create_task(colleague.work(stop)) for colleague in team]
    crew.append(asyncio.create_task(_executor(desk, team, stop, no_more)))
    watch = asyncio.create_task(_watch(desk, stop))
    try:
        created = await _create_for(desk, team, lanes, seconds=3.0)
        no_more.set()
        await _drained(desk)
    finally:
        stop.set()
        await asyncio.gather(*crew)
    taken = Counter(row for colleague in team for row in colleague.taken)
    assert max(taken.values()) == 1, "no row twice under one lease"
    by_row = Counter(row for row, _ in taken)
    assert set(by_row) == set(created)
    back = Counter(row["task_id"] for row in await desk.sql("SELECT task_id FROM history WHERE kind = 'heal'"))
    assert by_row == Counter(dict.fromkeys(created, 1)) + back, "a second lease only after a recorded heal"
    assert sum(back.values()) > 0
    assert await watch <= window
    assert all(colleague.taken for colleague in team)
    assert await desk.sql("SELECT * FROM lease") == []


async def _create_for(desk: QueueDesk, team: list[Colleague], lanes: list[int], seconds: float) -> list[int]:
    created: list[int] = []
    deadline = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < deadline:
        lane = random.choice(lanes)
        new = await desk.create(lane, random.randint(1, 8), priority=random.choice((0, 0, -1)))
        created += new
        _tell(team, [Placed(lane, 1, Key(-1, new[0]))])
        await asyncio.sleep(0.002)
    return created


async def _executor(desk: QueueDesk, team: list[Colleague], stop: asyncio.Event, no_more: asyncio.Event) -> None:
    """Ends some of what is in flight, and has some of it given back as if the broker had not answered."""
    while not stop.is_set():
        rows = await desk.sql("SELECT id, lane, lease FROM dispatch WHERE state = 1 ORDER BY random()")
        ended = rows[: len(rows) // 3 + 1]
        for row in [] if no_more.is_set() else rows[len(ended) : len(ended) + 2]:
            _tell(team, [back.place for back in await desk.queue.give_back(row["lease"], [row["id"]])])
        await desk.sql("DELETE FROM dispatch WHERE id = ANY ($1::bigint[])", sorted(row["id"] for row in ended))
        for lane in {row["lane"] for row in ended}:
            for colleague in team:
                colleague.book.room(lane)
        await asyncio.sleep(0.002)


async def _watch(desk: QueueDesk, stop: asyncio.Event) -> int:
    most = 0
    while not stop.is_set():
        rows = await desk.sql("SELECT count(*) FROM dispatch WHERE state = 1 GROUP BY lane")
        most = max([most, *(row["count"] for row in rows)])
    return most


async def _drained(desk: QueueDesk) -> None:
    async with asyncio.timeout(30):
        while (await desk.sql("SELECT count(*) FROM dispatch"))[0]["count"]:
            await asyncio.sleep(0.05)


def _tell(team: list[Colleague], places: list[Placed]) -> None:
    for colleague in team:
        for place in places:
            colleague.book.work(*place)
