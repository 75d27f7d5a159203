"""What every Topics keeps, Kafka's and the fake."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from libs.common.adapters.kafka.connection import KafkaConnection
from libs.common.adapters.kafka.topics import KafkaTopics
from libs.common.domain.errors import BrokerUnavailable
from libs.common.embedded.ports import free_port
from libs.common.ports_dispatch import TopicPlan, Topics
from tests.support.dispatcher_fakes import FakeTopics
from tests.support.servers import BrokerChoice


@dataclass(frozen=True, slots=True)
class Case:
    topics: Topics
    away: Topics  #: the same without a broker
    prefix: str
    grows: bool  #: whether the broker can add partitions

    def name(self, number: int) -> str:
        return f"{self.prefix}.{number}"


@pytest.fixture(params=["fake", "real"])
async def case(
    request: pytest.FixtureRequest, topic_prefix: str, kafka_bootstrap: str, broker_choice: BrokerChoice
) -> AsyncIterator[Case]:
    if request.param == "fake":
        away = FakeTopics()
        away.away = True
        yield Case(FakeTopics(), away, topic_prefix, grows=True)
        return
    topics, nowhere = (
        KafkaTopics(KafkaConnection(bootstrap=(address,), broker=broker_choice.kind), client_id="case", replication=1)
        for address in (kafka_bootstrap, f"127.0.0.1:{free_port()}")
    )
    yield Case(topics, nowhere, topic_prefix, grows=broker_choice.kind == "kafka")
    await topics.close()
    await nowhere.close()


async def test_what_is_missing_is_made_and_what_is_there_is_left(case: Case) -> None:
    first, second = case.name(1), case.name(2)
    assert await case.topics.ensure({first: TopicPlan(2)}) == {first: 2}
    assert await case.topics.ensure({first: TopicPlan(2), second: TopicPlan(1, 60_000)}) == {first: 2, second: 1}
    there = await case.topics.existing()
    assert (there[first], there[second]) == (2, 1)
    assert case.name(3) not in there


async def test_partitions_are_added_where_the_broker_can_and_never_taken_away(case: Case) -> None:
    name = case.name(1)
    await case.topics.ensure({name: TopicPlan(2)})
    assert await case.topics.ensure({name: TopicPlan(1)}) == {name: 2}
    assert await case.topics.ensure({name: TopicPlan(3)}) == {name: 3 if case.grows else 2}
    assert (await case.topics.existing())[name] == (3 if case.grows else 2)


async def test_nothing_wanted_is_nothing_made(case: Case) -> None:
    assert await case.topics.ensure({}) == {}


async def test_a_broker_that_is_away_is_said_to_be(case: Case) -> None:
    with pytest.raises(BrokerUnavailable):
        await case.away.ensure({case.name(1): TopicPlan(1)})
    with pytest.raises(BrokerUnavailable):
        await case.away.existing()
