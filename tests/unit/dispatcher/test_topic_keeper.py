"""Topics come into being in the background, and are looked at again when they seem to be gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from libs.common.ports_dispatch import TopicPlan
from services.dispatcher.topic_keeper import TopicKeeper
from tests.support.dispatcher_fakes import FakeTopics
from tests.support.waiting import until


@asynccontextmanager
async def keeping(topics: FakeTopics) -> AsyncIterator[TopicKeeper]:
    keeper = TopicKeeper(topics, Random(1))
    running = asyncio.create_task(keeper.run())
    try:
        yield keeper
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_wanted_topic_is_made_and_told() -> None:
    topics, told = FakeTopics(), []
    async with keeping(topics) as keeper:
        keeper.want("a", TopicPlan(4, 3_600_000), told.append)
        keeper.want("a", TopicPlan(4, 3_600_000), told.append)
        await until(lambda: told)
    assert told == [4]
    assert topics.calls == [["a"]]


async def test_a_thousand_topics_come_in_slices() -> None:
    topics, told = FakeTopics(), []
    async with keeping(topics) as keeper:
        for number in range(1000):
            keeper.want(f"t{number}", TopicPlan(1), told.append)
        await until(lambda: len(told) == 1000)
    assert [len(call) for call in topics.calls] == [100] * 10


async def test_more_partitions_are_asked_for() -> None:
    topics, told = FakeTopics(), []
    async with keeping(topics) as keeper:
        keeper.want("a", TopicPlan(1), told.append)
        await until(lambda: told)
        keeper.want("a", TopicPlan(3), told.append)
        await until(lambda: told == [1, 3])


async def test_a_topic_that_cannot_be_made_is_tried_again_and_does_not_hold_the_others_up() -> None:
    topics, told = FakeTopics(), []
    topics.refuses = {"bad"}
    async with keeping(topics) as keeper:
        keeper.want("bad", TopicPlan(1), lambda n: told.append(("bad", n)))
        keeper.want("good", TopicPlan(1), lambda n: told.append(("good", n)))
        await until(lambda: told == [("good", 1)])
        assert keeper.refused() == {"bad": "not authorized"}
        topics.refuses = set()
        await until(lambda: ("bad", 1) in told)
        assert keeper.refused() == {}


async def test_a_doubtful_topic_is_closed_and_looked_at_at_once() -> None:
    topics, told = FakeTopics(), []
    async with keeping(topics) as keeper:
        keeper.want("a", TopicPlan(1), told.append)
        await until(lambda: told)
        keeper.doubt("a")
        assert told == [1, None]
        await until(lambda: told == [1, None, 1])


async def test_it_rests_longer_each_time_until_it_is_trusted_again() -> None:
    clock = _Clock()
    topics, told = FakeTopics(), []
    keeper = TopicKeeper(topics, Random(1), clock)
    keeper.want("a", TopicPlan(1), told.append)
    rests = []
    for _ in range(4):
        due = keeper._known["a"].due
        assert due is not None
        rests.append(due - clock.now)
        keeper._known["a"].due = None
        keeper.doubt("a")
    assert rests[0] == rests[1] == 0.0
    assert 0.4 <= rests[2] <= 0.5
    assert 0.8 <= rests[3] <= 1.0
    keeper.trust("a")
    keeper.doubt("a")
    assert keeper._known["a"].due == clock.now


async def test_a_broker_that_is_away_is_waited_for() -> None:
    topics, told = FakeTopics(), []
    topics.away = True
    async with keeping(topics) as keeper:
        keeper.want("a", TopicPlan(1), told.append)
        await until(lambda: len(topics.calls) >= 2)
        topics.away = False
        await until(lambda: told == [1])


async def test_a_surprise_ends_no_dispatcher() -> None:
    topics, told = FakeTopics(), []

    def surprise() -> None:
        topics.while_asked = lambda: None
        raise IndexError("a client of Kafka that took no broker for one")

    topics.while_asked = surprise
    async with keeping(topics) as keeper:
        keeper.want("a", TopicPlan(1), told.append)
        await until(lambda: told == [1])


async def test_after_an_outage_everything_is_looked_at_but_nothing_closed() -> None:
    topics, told = FakeTopics(), []
    async with keeping(topics) as keeper:
        keeper.want("a", TopicPlan(1), told.append)
        keeper.want("b", TopicPlan(1), told.append)
        await until(lambda: len(told) == 2)
        topics.there.clear()
        keeper.look_at_all()
        await until(lambda: len(topics.there) == 2)
    assert told == [1, 1]


async def test_a_topic_that_is_dropped_while_the_broker_is_away_stops_nobody() -> None:
    topics, told = FakeTopics(), []
    topics.away = True
    async with keeping(topics) as keeper:
        topics.while_asked = lambda: keeper.drop("a")
        keeper.want("a", TopicPlan(1), told.append)
        await until(lambda: topics.calls)
        topics.away = False
        keeper.want("b", TopicPlan(1), told.append)
        await until(lambda: told == [1])
    assert set(topics.there) == {"b"}


async def test_nobody_asks_for_dropped_topics() -> None:
    topics, told = FakeTopics(), []
    keeper = TopicKeeper(topics, Random(1))
    keeper.want("a", TopicPlan(1), told.append)
    keeper.drop("a")
    keeper.doubt("a")
    keeper.trust("a")
    running = asyncio.create_task(keeper.run())
    keeper.want("b", TopicPlan(1), told.append)
    await until(lambda: told)
    running.cancel()
    await asyncio.wait([running])
    assert topics.calls == [["b"]]


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now
