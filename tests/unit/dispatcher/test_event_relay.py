"""The event relay over a table in memory: order, late commits, refusals, one relay at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from uuid import UUID

from libs.common.domain.errors import DatabaseUnavailable
from libs.common.ports_dispatch import EventKey, EventRow
from libs.common.ports_webhooks import HookedEvent
from services.dispatcher.event_relay import MAX_SENDS, EventRelay, Gaps
from services.dispatcher.topic_keeper import TopicKeeper
from tests.support.dispatcher_fakes import FakeCarrier, FakeTopics
from tests.support.waiting import until
from tests.unit.dispatcher.test_event_records import ROW


class FakeEvents:
    """Implements ports_dispatch.Events."""

    def __init__(self) -> None:
        self.rows: dict[int, EventRow] = {}
        self.postponed: dict[int, EventRow] = {}
        self.due_now: set[int] = set()
        self.dead: list[int] = []
        self.handed: list[HookedEvent] = []
        self.ours = True
        self.down = False
        self.reads: list[tuple[int, list[int]]] = []

    def add(self, *numbers: int) -> None:
        for number in numbers:
            self.rows[number] = replace(ROW, id=number, public_id=UUID(int=number))

    async def hold_relay(self) -> bool:
        self._fail_when_down()
        return self.ours

    async def after(
        self, cursor: int, limit: int, missing: Sequence[int], sent: Sequence[EventKey] = ()
    ) -> list[EventRow]:
        assert all(event.id <= cursor and event.id not in missing for event in sent if event.id in self.rows)
        await self.sent(sent)
        self.reads.append((cursor, list(missing)))
        late = [self.rows[number] for number in missing if number in self.rows]
        return late + [self.rows[number] for number in sorted(self.rows) if number > cursor][:limit]

    async def due(self, limit: int) -> list[EventRow]:
        return [self.postponed[number] for number in self.due_now]

    async def sent(self, events: Sequence[EventKey]) -> None:
        self._fail_when_down()
        for number, _ in events:
            self.rows.pop(number, None)
            self.postponed.pop(number, None)
            self.due_now.discard(number)

    async def hand_over(self, events: Sequence[HookedEvent]) -> int:
        await self.sent([EventKey(event.id, event.finished_at) for event in events])
        self.handed += events
        return len(events)

    async def refused(self, rows: Sequence[tuple[EventKey, float, str]], max_sends: int) -> list[int]:
        dead = []
        for (number, _), delay, _ in rows:
            assert delay >= 1.0
            row = self.rows.pop(number, None) or self.postponed[number]
            self.postponed[number] = replace(row, sends=row.sends + 1)
            self.due_now.discard(number)
            if row.sends + 1 >= max_sends:
                self.dead.append(number)
                dead.append(number)
        return dead

    def _fail_when_down(self) -> None:
        if self.down:
            raise DatabaseUnavailable("away")


class Bench:
    def __init__(self) -> None:
        self.events, self.carrier, self.topics = FakeEvents(), FakeCarrier(), FakeTopics()
        self.keeper = TopicKeeper(self.topics, Random(1))
        self.delivered = 0
        self.relay = EventRelay(
            self.events,
            self.carrier,
            self.keeper,
            topic="e",
            source="/s",
            rng=Random(1),
            public_url="https://api.example/",
            delivered=self._count,
        )

    def _count(self) -> None:
        self.delivered += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Bench]:
        keeper, relay = asyncio.create_task(self.keeper.run()), asyncio.create_task(self.relay.run())
        try:
            yield self
        finally:
            self.relay.stop()
            await asyncio.wait_for(relay, 5)
            keeper.cancel()
            await asyncio.wait([keeper])

    def sent(self) -> list[int]:
        return [UUID(record.key.decode()).int for record in self.carrier.sent]


async def test_events_leave_in_order_and_are_deleted() -> None:
    bench = Bench()
    bench.events.add(*range(1, 1201))
    async with bench.running():
        await until(lambda: not bench.events.rows)
    assert bench.sent() == list(range(1, 1201))
    assert bench.topics.there == {"e": 12}


async def test_what_webhooks_may_want_is_handed_over_once_the_broker_has_it() -> None:
    bench = Bench()
    bench.events.add(1, 2, 3)
    bench.events.rows[2] = replace(
        bench.events.rows[2], hooked=True, webhook_url="http://h:81/x?token=1", webhook_events=1
    )
    bench.events.rows[3] = replace(bench.events.rows[3], hooked=True, webhook_url="http://h/", webhook_events=2)
    async with bench.running():
        await until(lambda: not bench.events.rows)
    assert bench.sent() == [1, 2, 3]
    first, second = bench.events.handed
    assert (first.id, first.url, first.line, first.bit, first.type) == (
        2,
        "http://h:81/x?token=1",
        "http://h:81",
        1,
        "task.success",
    )
    assert (second.url, second.line) == (None, "")  # it wants failures alone
    assert first.message_id == f"{UUID(int=2)}:7"
    body = json.loads(first.body)
    assert body["timestamp"] == "2026-11-23T12:00:02.999Z"
    assert body["data"].pop("link") == f"https://api.example/v1/tasks/{UUID(int=2)}"
    assert body["data"] == json.loads(bench.carrier.sent[1].value)
    assert bench.delivered == 1


async def test_numbers_that_commit_late_are_asked_for_at_once() -> None:
    bench = Bench()
    async with bench.running():
        bench.events.add(10)
        await until(lambda: bench.sent() == [10])
        bench.events.add(11, 14)
        bench.relay.wake()
        await until(lambda: bench.sent()[1:] == [11, 14])
        bench.events.add(12)
        bench.relay.wake()
        await until(lambda: 12 in bench.sent())
    assert any(missing == [12, 13] for _, missing in bench.events.reads)


async def test_what_committed_before_the_first_number_seen_is_found_when_the_cursor_is_cleared() -> None:
    bench = Bench()
    async with bench.running():
        bench.events.add(10)
        await until(lambda: bench.sent() == [10])
        bench.events.add(3)
        await until(lambda: 3 in bench.sent())


async def test_a_broker_away_burns_nothing() -> None:
    bench = Bench()
    async with bench.running():
        await until(lambda: bench.events.reads)
        bench.carrier.away = True
        bench.events.add(1, 2)
        await until(lambda: bench.carrier.probes >= 2)
        assert not bench.events.postponed
        bench.carrier.away = False
        await until(lambda: bench.sent() == [1, 2])


async def test_a_lost_topic_is_made_again() -> None:
    bench = Bench()
    async with bench.running():
        await until(lambda: bench.topics.there)
        bench.topics.there.clear()
        bench.carrier.ignores = {"e"}
        bench.events.add(1)
        await until(lambda: bench.topics.there)
        bench.carrier.ignores = set()
        await until(lambda: bench.sent() == [1])


async def test_a_topic_that_the_broker_refuses_is_told_with_its_cause() -> None:
    bench = Bench()
    bench.topics.refuses = {"e"}
    bench.events.add(1)
    assert bench.relay.refused == ""
    async with bench.running():
        await until(lambda: bench.relay.refused == "not authorized")
        bench.topics.refuses = set()
        await until(lambda: bench.sent() == [1])
        assert bench.relay.refused == ""


async def test_refused_events_back_off_alone_and_die() -> None:
    bench = Bench()
    bench.carrier.refuses = {"e"}
    async with bench.running():
        bench.events.add(1)
        await until(lambda: bench.events.postponed)
        bench.events.postponed[1] = replace(bench.events.postponed[1], sends=MAX_SENDS - 1)
        bench.events.due_now.add(1)
        await until(lambda: bench.events.dead == [1])
        bench.carrier.refuses = set()
        bench.events.add(2)
        await until(lambda: bench.sent() == [2])


async def test_only_the_one_that_holds_the_right_sends() -> None:
    bench = Bench()
    bench.events.ours = False
    bench.events.add(1)
    async with bench.running():
        await asyncio.sleep(0.1)
        assert not bench.events.reads


async def test_postgresql_away_is_waited_for() -> None:
    bench = Bench()
    async with bench.running():
        await until(lambda: bench.events.reads)
        bench.events.down = True
        bench.events.add(1)
        bench.relay.wake()
        await asyncio.sleep(0.05)
        bench.events.down = False
        await until(lambda: bench.sent() == [1])


def test_gaps_are_remembered_for_ten_seconds() -> None:
    now = [0.0]
    gaps = Gaps(lambda: now[0])
    gaps.skipped([3, 4])
    now[0] = 6
    gaps.skipped([4, 9])
    assert gaps.missing() == [3, 4, 9]
    gaps.found([4])
    now[0] = 10.5
    assert gaps.missing() == [9]
    now[0] = 17
    assert gaps.missing() == []


def test_a_rolled_back_million_does_not_fill_the_memory() -> None:
    gaps = Gaps(lambda: 0.0)
    gaps.skipped(range(1_000_000))
    assert len(gaps.missing()) == 1_000
