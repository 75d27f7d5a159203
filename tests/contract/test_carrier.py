"""What every Carrier keeps, Kafka's and the fake."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from libs.common.adapters.kafka.carrier import KafkaCarrier
from libs.common.adapters.kafka.connection import KafkaConnection
from libs.common.adapters.kafka.topics import KafkaTopics
from libs.common.embedded.ports import free_port
from libs.common.ports_dispatch import Carrier, Record, SendVerdict, TopicPlan
from tests.support.broker import records_on
from tests.support.dispatcher_fakes import FakeCarrier
from tests.support.servers import BrokerChoice


@dataclass(frozen=True, slots=True)
class Case:
    carrier: Carrier
    away: Carrier  #: the same without a broker
    good: str  #: a topic of one partition
    unknown: str  #: no such topic
    too_large: Record  #: that the broker refuses
    values: Callable[[int], Awaitable[list[bytes]]]  #: what stands on the good topic: so many, in order


@pytest.fixture(params=["fake", "real"])
async def case(
    request: pytest.FixtureRequest, topic_prefix: str, kafka_bootstrap: str, broker_choice: BrokerChoice
) -> AsyncIterator[Case]:
    good, unknown, narrow = (f"{topic_prefix}.{name}" for name in ("good", "unknown", "narrow"))
    large = Record(narrow, 0, b"k", b"x" * 2_000_000)
    if request.param == "fake":
        fake, nowhere = FakeCarrier(), FakeCarrier()
        fake.ignores, fake.refuses, nowhere.away = {unknown}, {narrow}, True

        async def kept(count: int) -> list[bytes]:
            found = [record.value for record in fake.sent if record.topic == good]
            assert len(found) == count
            return found

        yield Case(fake, nowhere, good, unknown, large, kept)
        return
    if broker_choice.kind != "kafka":
        pytest.skip("Tansu takes records of any size and makes any topic")
    connection = KafkaConnection(bootstrap=(kafka_bootstrap,), broker=broker_choice.kind)
    topics = KafkaTopics(connection, client_id="contract", replication=1)
    await topics.ensure({good: TopicPlan(1), narrow: TopicPlan(1)})
    await topics.close()
    carrier = KafkaCarrier(connection, client_id="contract")
    lost = KafkaCarrier(
        KafkaConnection(bootstrap=(f"127.0.0.1:{free_port()}",), broker=broker_choice.kind), client_id="contract"
    )

    async def stands(count: int) -> list[bytes]:
        found = [record.value for record in await records_on(connection, good, at_least=count, quiet=0.3)]
        assert len(found) == count
        return found

    yield Case(carrier, lost, good, unknown, large, stands)
    await carrier.close()
    await lost.close()


def batch(topic: str, *numbers: int) -> list[Record]:
    return [Record(topic, 0, b"%d" % number, b"%d" % number) for number in numbers]


async def test_each_record_is_answered_in_its_place_and_stands_in_order(case: Case) -> None:
    assert await case.carrier.send([]) == []
    assert await case.carrier.send(batch(case.good, *range(20))) == [SendVerdict(True)] * 20
    assert await case.carrier.send(batch(case.good, 20)) == [SendVerdict(True)]
    assert await case.values(21) == [b"%d" % number for number in range(21)]


async def test_what_the_broker_refuses_is_refused_alone(case: Case) -> None:
    (first,), (second,) = batch(case.good, 1), batch(case.good, 2)
    before, refused, after = await case.carrier.send([first, case.too_large, second])
    assert (before, after) == (SendVerdict(True), SendVerdict(True))
    assert not refused.acknowledged
    assert "TooLarge" in refused.refused
    assert await case.values(2) == [b"1", b"2"]


async def test_what_nobody_answers_for_is_neither_acknowledged_nor_refused(case: Case) -> None:
    (known,), (unknown,) = batch(case.good, 1), batch(case.unknown, 2)
    assert await case.carrier.send([unknown, known]) == [SendVerdict(False), SendVerdict(True)]


async def test_a_broker_that_is_away_raises_nothing_and_is_said_to_be(case: Case) -> None:
    assert await case.away.send(batch(case.good, 1, 2)) == [SendVerdict(False)] * 2
    assert not case.away.reachable
    assert case.away.last_error
    assert not await case.away.probe()


async def test_it_is_reachable_once_it_was_reached(case: Case) -> None:
    assert not case.carrier.reachable
    assert await case.carrier.probe()
    assert case.carrier.reachable
