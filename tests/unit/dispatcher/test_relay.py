"""The relay over a queue and a broker in memory: what is sent, what goes back, what is burnt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from random import Random

from libs.common.contracts.dispatch_message import decode
from libs.common.domain.errors import DatabaseUnavailable
from services.dispatcher.dispatcher import Dispatcher
from services.dispatcher.lanes import LaneBook
from services.dispatcher.publisher import MAX_SENDS, Publisher
from services.dispatcher.relay import Relay
from services.dispatcher.roads import Roads
from services.dispatcher.topic_keeper import TopicKeeper
from tests.support.dispatcher_fakes import FakeCarrier, FakeGate, FakeTopics
from tests.support.fakes_redis import FakeHints
from tests.support.memory_queue import MemoryQueue, lane_info
from tests.support.waiting import until

TOPIC = "p.model.{0}-m"


class Bench:
    """A dispatcher of fakes."""

    def __init__(self, lanes: int = 1, window: int = 10) -> None:
        self.queue = MemoryQueue(dict.fromkeys(range(1, lanes + 1), window))
        self.queue.infos = [lane_info(lane, lane) for lane in self.queue.windows]
        self.carrier, self.topics, self.gate, self.hints = FakeCarrier(), FakeTopics(), FakeGate(), FakeHints()
        self.book = LaneBook()
        self.keeper = TopicKeeper(self.topics, Random(1))
        self.roads = Roads(self.queue, self.book, self.keeper, topic_prefix="p")
        self.publisher = Publisher(self.queue, self.carrier, self.gate, self.hints, self.roads, Random(1))
        self.relay = Relay(self.queue, self.carrier, self.publisher, self.book, self.roads, Random(1))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Bench]:
        listening = asyncio.create_task(self.hints.listen(["sw:dispatch"], self._hear))
        helpers = [asyncio.create_task(self.roads.run()), asyncio.create_task(self.keeper.run()), listening]
        relay = asyncio.create_task(self.relay.run())
        await until(lambda: all(self.roads.of(lane) for lane in self.queue.windows) or self.topics.refuses)
        try:
            yield self
        finally:
            self.relay.stop()
            await asyncio.wait_for(relay, 15)
            for helper in helpers:
                helper.cancel()
            await asyncio.wait(helpers)

    def _hear(self, channel: str, lines: list[str]) -> None:
        Dispatcher(self.relay, _NoEvents(), self.roads, self.keeper, self.book, self.hints).hear(channel, lines)

    def create(self, lane: int, rows: int = 1) -> list[int]:
        new = self.queue.add(lane, rows)
        self.hints.publish_soon("sw:dispatch", f"{lane} 1 0 {new[0].key.position}")
        return [row.id for row in new]

    def published(self) -> list[int]:
        return [decode(record.value).task for record in self.carrier.sent]


class _NoEvents:
    """The event relay's place, empty."""

    def wake(self) -> None:
        return


async def test_created_rows_are_published_with_all_that_executors_need() -> None:
    async with Bench().running() as bench:
        ids = bench.create(1, 3)
        await until(lambda: bench.published() == ids)
        record = bench.carrier.sent[0]
        assert record.topic == TOPIC.format(1)
        assert record.partition == 0
        assert record.key == b"1"
        message = decode(record.value)
        assert (message.task, message.lane, message.tenant, message.model, message.lease) == (1, 1, 1, 1, 1)
        assert record.timestamp_ms == 1_795_435_200_000
        await until(lambda: ("sw:road", "1 0") in bench.hints.lines)


async def test_rows_of_a_lane_without_a_topic_are_not_even_leased() -> None:
    bench = Bench(lanes=2)
    bench.topics.refuses = {TOPIC.format(1)}
    async with bench.running():
        bench.create(1)
        other = bench.create(2)
        await until(lambda: bench.published() == other)
        assert not any(ask.lane == 1 for asks in bench.queue.asked for ask in asks)
        assert bench.roads.refused() == {1: "not authorized"}
        bench.topics.refuses = set()
        await until(lambda: len(bench.published()) == 2)
        assert bench.roads.refused() == {}


async def test_the_acknowledged_lease_is_closed_by_the_next_turn_or_when_idle() -> None:
    async with Bench().running() as bench:
        bench.create(1)
        await until(lambda: bench.published() and not bench.queue.open_leases)


async def test_while_the_broker_is_away_rows_wait_and_nothing_is_burnt() -> None:
    async with Bench().running() as bench:
        bench.create(1)
        await until(lambda: len(bench.published()) == 1)
        bench.carrier.away = True
        bench.create(1, 3)
        await until(lambda: bench.carrier.probes > 3)
        assert all(row.sends == 0 and row.lease is None for row in bench.queue.ready(1))
        assert {(1, row.id) for row in bench.queue.ready(1)} <= set(bench.hints.changes)
        turns = len(bench.queue.asked)
        bench.create(1, 2)
        probes = bench.carrier.probes
        await until(lambda: bench.carrier.probes > probes + 1)
        assert len(bench.queue.asked) == turns, "no turn takes more until the broker answers"
        bench.carrier.away = False
        await until(lambda: len(bench.published()) == 6)
        assert sorted(bench.published()) == [1, 2, 3, 4, 5, 6]


async def test_a_topic_without_leader_rests_alone() -> None:
    async with Bench(lanes=2).running() as bench:
        bench.carrier.ignores = {TOPIC.format(1)}
        stuck = bench.create(1)
        await until(lambda: not bench.queue.in_flight(1) and bench.queue.asked)
        for _ in range(5):
            fine = bench.create(2)
            await until(lambda fine=fine: fine[0] in bench.published())
        bench.carrier.ignores = set()
        await until(lambda: stuck[0] in bench.published())


async def test_a_refused_row_backs_off_alone_and_dies_in_the_end() -> None:
    async with Bench(lanes=2).running() as bench:
        bench.carrier.refuses = {TOPIC.format(1)}
        (id_,) = bench.create(1)
        row = bench.queue.rows[id_]
        await until(lambda: row.sends == 1)
        assert row.due is not None
        assert 1.0 <= row.due <= 1.25
        await until(lambda: (1, id_) in bench.hints.changes)  # listeners hear that it waits again
        bench.hints.changes.clear()
        row.sends, row.due = MAX_SENDS - 1, None
        bench.hints.publish_soon("sw:dispatch", f"1 1 0 {row.key.position}")
        await until(lambda: bench.gate.released == [(1, str(row.public_id))])
        assert id_ not in bench.queue.rows
        assert ("sw:dispatch", "* events") in bench.hints.lines
        await until(lambda: (1, id_) in bench.hints.changes)  # and of its end
        assert bench.create(2)
        await until(lambda: len(bench.published()) == 1)


async def test_slots_of_a_buried_row_are_left_to_reconcile_when_redis_is_away() -> None:
    async with Bench().running() as bench:
        bench.gate.away = True
        bench.carrier.refuses = {TOPIC.format(1)}
        row = bench.queue.add(1)[0]
        row.sends = MAX_SENDS - 1
        bench.hints.publish_soon("sw:dispatch", f"1 1 0 {row.key.position}")
        await until(lambda: row.id not in bench.queue.rows)
        await until(lambda: not bench.queue.open_leases)


async def test_a_lease_whose_rows_cannot_be_given_back_stays_for_the_janitor() -> None:
    async with Bench().running() as bench:
        bench.carrier.hold = asyncio.Event()
        bench.create(1, 2)
        await until(lambda: bench.queue.open_leases)
        bench.carrier.away = True
        bench.queue.fail_with = DatabaseUnavailable("away")
        bench.carrier.hold.set()
        await until(lambda: bench.carrier.probes > 1)
        bench.carrier.away, bench.carrier.hold, bench.queue.fail_with = False, None, None
        bench.create(1)
        await until(lambda: len(bench.published()) == 1)
        await until(lambda: bench.queue.open_leases == {1})


async def test_postgresql_away_is_waited_for() -> None:
    async with Bench().running() as bench:
        bench.queue.fail_with = DatabaseUnavailable("away")
        bench.create(1)
        await asyncio.sleep(0.05)
        bench.queue.fail_with = None
        await until(lambda: len(bench.published()) == 1)


async def test_topics_are_looked_at_after_an_outage_of_the_broker_whoever_saw_its_end() -> None:
    async with Bench().running() as bench:
        bench.carrier.hold = asyncio.Event()
        bench.create(1)
        await until(lambda: bench.queue.open_leases)
        bench.queue.fail_with = DatabaseUnavailable("away")
        bench.carrier.hold.set()
        await until(lambda: len(bench.published()) == 1)
        bench.carrier.away, bench.carrier.reachable = True, False
        await until(lambda: bench.carrier.probes > 1)
        bench.topics.calls.clear()
        bench.carrier.away, bench.carrier.reachable = False, True  # somebody else has asked
        bench.queue.fail_with = None
        bench.create(1)
        await until(lambda: len(bench.published()) == 2)
        await until(lambda: [TOPIC.format(1)] in bench.topics.calls)


async def test_stopping_waits_for_what_is_on_its_way() -> None:
    bench = Bench()
    async with bench.running():
        bench.carrier.hold = asyncio.Event()
        bench.create(1)
        await until(lambda: bench.queue.open_leases)
        bench.relay.stop()
        bench.carrier.hold.set()
    assert len(bench.published()) == 1
    assert not bench.queue.open_leases


async def test_the_next_batch_is_taken_while_one_is_on_its_way_but_no_third() -> None:
    async with Bench(lanes=4).running() as bench:
        bench.carrier.hold = asyncio.Event()
        for lane in (1, 2, 3, 4):
            bench.create(lane)
            await asyncio.sleep(0.01)
        await until(lambda: len(bench.queue.open_leases) == 2)
        await asyncio.sleep(0.05)
        assert len(bench.queue.open_leases) == 2
        bench.carrier.hold.set()
        await until(lambda: len(bench.published()) == 4)


async def test_hints_that_make_no_sense_are_passed_over() -> None:
    async with Bench().running() as bench:
        for line in ("", "x", "1 2", "1 9 0 5", "a 1 0 5", "1 1 0", "* models", "* events", "999 1 0 7", "5 room"):
            bench.hints.publish_soon("sw:dispatch", line)
        bench.create(1)
        await until(lambda: len(bench.published()) == 1)


async def test_a_model_that_comes_is_read_at_once_when_told_and_its_topic_made() -> None:
    async with Bench().running() as bench:
        bench.queue.windows[7] = 5
        bench.queue._lanes[7] = {}
        bench.queue.infos.append(lane_info(7, 7, name="Ein Modell", partitions=3))
        bench.hints.publish_soon("sw:dispatch", "* models")
        await until(lambda: bench.roads.of(7))
        bench.create(7, 3)
        await until(lambda: len(bench.published()) == 3)
        assert {record.topic for record in bench.carrier.sent} == {"p.model.7-ein-modell"}
        assert {record.partition for record in bench.carrier.sent} == {0, 1, 2}


async def test_hints_hurry_no_look_that_postgresql_refuses() -> None:
    """Each hint of an unknown lane was a connection and a line of the log: with none left, as fast as creates."""
    bench, looks = Bench(), 0

    async def refused() -> datetime:
        nonlocal looks
        looks += 1
        raise DatabaseUnavailable("too many connections")

    bench.queue.server_began = refused  # type: ignore[method-assign]
    looking = asyncio.create_task(bench.roads.run())
    for _ in range(20):
        bench.roads.look_soon()
        await asyncio.sleep(0.005)
    assert looks == 1
    looking.cancel()


def wants(bench: Bench, partitions: int) -> None:
    """The model 7 is to have so many partitions."""
    bench.queue.infos = [info for info in bench.queue.infos if info.lane != 7]
    bench.queue.infos.append(lane_info(7, 7, partitions=partitions))
    bench.hints.publish_soon("sw:dispatch", "* models")


async def test_executors_are_told_over_how_many_partitions_a_topic_that_does_not_grow_is_spread() -> None:
    async with Bench().running() as bench:
        bench.topics.there["p.model.7-m"], bench.topics.grows = 1, False
        bench.queue.windows[7], bench.queue._lanes[7] = 5, {}
        wants(bench, 3)
        await until(lambda: bench.queue.spreads == {7: 1})
        bench.create(7, 3)
        await until(lambda: len(bench.published()) == 3)
        assert {record.partition for record in bench.carrier.sent} == {0}
        bench.topics.grows = True
        bench.roads.look_at_topics()
        await until(lambda: bench.queue.spreads == {7: 3})


async def test_a_model_that_wants_fewer_partitions_for_a_while_gets_back_those_that_its_topic_has() -> None:
    async with Bench().running() as bench:
        bench.queue.windows[7], bench.queue._lanes[7] = 5, {}
        for partitions in (3, 1, 3):
            wants(bench, partitions)
            await until(lambda partitions=partitions: spread_of(bench) == partitions)  # type: ignore[misc]


def spread_of(bench: Bench) -> int | None:
    road = bench.roads.of(7)
    return road and road.partitions


async def test_batches_shrink_while_the_broker_cannot_take_them_and_grow_again() -> None:
    bench = Bench(lanes=1, window=10_000)
    async with bench.running():
        bench.carrier.ignores = {TOPIC.format(1)}
        bench.create(1, 2_000)
        await until(lambda: len(bench.queue.asked) >= 4, seconds=15)
        quanta = [asks[0].quantum for asks in bench.queue.asked]
        assert quanta[-1] <= quanta[0] / 4
        bench.carrier.ignores = set()
        await until(lambda: len(bench.published()) == 2_000, seconds=45)
        assert max(asks[0].quantum for asks in bench.queue.asked[-3:]) > 100
