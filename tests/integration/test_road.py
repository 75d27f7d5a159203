"""Reading without a consumer group: where reading starts, who reads, and what happens when the road is bad."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAuthorizationFailedError

from libs.common.adapters.kafka.connection import KafkaConnection
from libs.common.adapters.kafka.road import open_road
from libs.common.adapters.postgres.dispatch_queue import PostgresDispatchQueue
from libs.common.contracts.topics import model_topic
from libs.common.domain.errors import BrokerUnavailable, DatabaseUnavailable, GateUnavailable
from libs.common.domain.model import Model
from libs.common.domain.task import TaskStatus
from libs.common.embedded.ports import free_port
from libs.common.ports_road import RoadRecord, Spot
from libs.common.runtime.metrics import REGISTRY
from services.executor import steward
from tests.support.broker import asks_for_metadata
from tests.support.executor_rig import Rig, Running, Through, until
from tests.support.unreadable import send_unreadable


def figure(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


def place_of(running: Running, model_id: int, partition: int = 0) -> Any:
    return running.places.find(model_id, partition)


async def test_rows_without_a_hint_are_found_by_the_sweep(rig: Rig) -> None:
    model = await rig.make_model(partitions=3)
    ids = await rig.make_tasks(model, 6)
    await rig.dispatch(model, hint=False)
    await rig.executor()
    await rig.ended(ids, seconds=3)


async def test_rows_in_a_topic_that_has_fewer_partitions_than_it_should_are_found_by_the_sweep(rig: Rig) -> None:
    model = await rig.make_model(max_concurrency=6)
    await rig.sql("UPDATE model SET partitions = 3 WHERE id = $1", model.id)
    await PostgresDispatchQueue(rig.database).spread({model.lane: 1})
    await rig.make_tasks(model, 6)
    rows = [row for row in await rig.lease(model) if row.id % 3]
    assert len(rows) == 4
    await rig.send(model, rows, hint=False)
    await rig.executor()
    await rig.ended([row.id for row in rows], seconds=3)


async def test_a_hint_makes_a_new_model_usable_at_once(rig: Rig) -> None:
    await rig.executor()
    model = await rig.make_model()
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(ids, seconds=2)


async def test_reading_starts_at_the_oldest_unclaimed_row(rig: Rig) -> None:
    model = await rig.make_model(max_concurrency=50)
    await rig.make_tasks(model, 30)
    topic = model_topic(rig.prefix, model.id, model.name)
    rows = await rig.lease(model)
    for row in rows[:20]:  # long ago, and claimed since
        await rig.raw(topic, 0, b"old", int((row.leased_at - timedelta(hours=1)).timestamp() * 1_000))
    await rig.send(model, rows, hint=False)
    running = await rig.executor()
    await rig.ended([row.id for row in rows])
    if rig.connection.broker == "kafka":
        assert await rig.sql("SELECT 1 FROM dead_message") == []
    assert place_of(running, model.id).settled == 20 + 30


async def test_copies_and_replays_change_nothing(rig: Rig) -> None:
    model = await rig.make_model(max_concurrency=10)
    running = await rig.executor()
    ids = await rig.make_tasks(model, 5)
    rows = await rig.lease(model)
    await rig.send(model, [*rows, *rows])
    await rig.ended(ids)
    place = place_of(running, model.id)
    await until(lambda: place.settled == 10, "all copies are settled")
    running.executor.steward._begin(place, 0, 0, datetime.now(UTC))
    await until(lambda: place.settled == 10, "the topic is read once more")
    assert len(rig.model.calls) == 5
    assert len(await rig.sql("SELECT 1 FROM event")) == 5
    await rig.nothing_taken(model)


async def test_what_cannot_be_read_is_kept_and_does_not_stop_the_rest(rig: Rig) -> None:
    model = await rig.make_model()
    running = await rig.executor()
    topic = model_topic(rig.prefix, model.id, model.name)
    bad = [None, b"", b"\xff\x00\xfe", b"[]", b'{"v":2}', b'{"v":1,"task":"1"}', b"x" * 300_000]
    for value in bad:
        await rig.raw(topic, 0, value)
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(ids)
    dead = await rig.sql('SELECT topic, "partition", "offset", value, cause FROM dead_message ORDER BY "offset"')
    assert [row["value"] for row in dead] == bad
    assert {row["topic"] for row in dead} == {topic}
    assert all(row["cause"] for row in dead)
    place = place_of(running, model.id)
    running.executor.steward._begin(place, 0, 0, datetime.now(UTC))
    await until(lambda: place.settled == len(bad) + 1, "the topic is read once more")
    assert len(await rig.sql("SELECT 1 FROM dead_message")) == len(bad)


async def test_bytes_that_the_client_cannot_take_do_not_stop_the_partition(rig: Rig) -> None:
    model, other = await rig.make_model(), await rig.make_model()
    await rig.executor()
    topic = model_topic(rig.prefix, model.id, model.name)
    await send_unreadable(rig.producer, topic)
    ids = [*await rig.make_tasks(model), *await rig.make_tasks(other)]
    await rig.dispatch(model)
    await rig.dispatch(other)
    await rig.ended(ids)
    dead = await rig.sql('SELECT "offset", value, cause FROM dead_message')
    assert [(row["offset"], row["value"]) for row in dead] == [(0, None)]
    assert "UnicodeDecodeError" in dead[0]["cause"]


@pytest.mark.parametrize("compression", ["lz4", "snappy", "zstd"])
async def test_what_the_broker_compresses_is_read(rig: Rig, compression: str) -> None:
    if rig.connection.broker != "kafka":
        pytest.skip("it compresses nothing")
    model = await rig.make_model()
    topic = model_topic(rig.prefix, model.id, model.name)
    admin = AIOKafkaAdminClient(**rig.connection.arguments())
    await admin.start()
    try:
        setting = {"compression.type": compression}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, setting)])
    finally:
        await admin.close()
    await rig.executor()
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(ids)


@pytest.mark.parametrize("compressed", [False, True])
async def test_what_is_read_together_with_bytes_that_the_client_cannot_take_is_settled(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, compressed: bool
) -> None:
    monkeypatch.setattr("aiokafka.codec.has_gzip", lambda: False)
    models = [await rig.make_model(max_concurrency=10) for _ in range(2)]
    ids: list[int] = []
    for model in models:
        ids += await rig.make_tasks(model, 5)
        rows = await rig.lease(model)
        await rig.send(model, rows[:3], hint=False)
        topic = model_topic(rig.prefix, model.id, model.name)
        await send_unreadable(rig.producer, topic, compressed=compressed)
        await rig.send(model, rows[3:], hint=False)
    running = await rig.executor()
    await rig.ended(ids)
    dead = await rig.sql('SELECT topic, "offset", cause FROM dead_message')
    assert sorted(row["topic"] for row in dead) == sorted(model_topic(rig.prefix, one.id, one.name) for one in models)
    assert {row["offset"] for row in dead} == {3}
    assert len(rig.model.calls) == len(ids)
    assert running.executor.steward.generation == 1


async def test_a_topic_that_may_not_be_read_costs_the_others_no_connection(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, refused = await rig.make_model(), await rig.make_model()
    topic = model_topic(rig.prefix, refused.id, refused.name)
    getmany = AIOKafkaConsumer.getmany

    async def read(consumer: AIOKafkaConsumer, *places: Any, **wanted: Any) -> Any:
        found = await getmany(consumer, *places, **wanted)
        others = {place: records for place, records in found.items() if place.topic != topic}
        fetched = consumer.assignment() - consumer.paused()
        if not others and any(place.topic == topic for place in fetched):
            raise TopicAuthorizationFailedError(topic)
        return others

    monkeypatch.setattr(AIOKafkaConsumer, "getmany", read)
    running = await rig.executor()
    await rig.make_tasks(refused)
    await rig.dispatch(refused)
    await asyncio.sleep(1)
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(ids)
    assert running.executor.steward.generation == 1


async def test_why_there_is_no_connection_is_said_with_the_address() -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    async with open_road(KafkaConnection(bootstrap=(nowhere,))) as road:
        with pytest.raises(BrokerUnavailable, match=f"{nowhere}: .*Connect call failed"):
            await road.rebuild()


async def test_a_partition_without_a_leader_does_not_have_the_brokers_asked_without_a_rest(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = await rig.make_model()
    topic = model_topic(rig.prefix, model.id, model.name)
    async with open_road(rig.connection) as road:
        await road.rebuild()
        assert road._consumer is not None
        client = road._consumer._client
        asked = asks_for_metadata(client, monkeypatch)
        monkeypatch.setattr(client.cluster, "leader_for_partition", lambda place: -1)
        road.assign({Spot(topic, 0): 0})
        await road.read(1)
    assert 5 <= len(asked) <= 20


async def test_a_message_that_names_another_tenant_and_model_runs_as_its_row_says(rig: Rig) -> None:
    model, other = await rig.make_model(), await rig.make_model()
    await rig.executor()
    ids = await rig.make_tasks(model)
    rows = await rig.lease(model)
    lies = {"tenant": other.tenant_id, "model": other.id, "lane": other.lane, "size": 0}
    await rig.send(model, rows, lies=lies)
    await rig.ended(ids)
    assert (await rig.sql("SELECT tenant_id FROM task"))[0]["tenant_id"] == model.tenant_id
    await rig.nothing_taken(model)
    await rig.nothing_taken(other)


async def test_a_message_in_a_foreign_topic_is_given_back(rig: Rig) -> None:
    model, other = await rig.make_model(), await rig.make_model()
    await rig.executor()
    ids = await rig.make_tasks(model)
    rows = await rig.lease(model)
    await rig.send(other, rows)

    async def ready() -> bool:
        return bool(await rig.sql("SELECT 1 FROM dispatch WHERE state = 0 AND attempt = 0"))

    await until(ready, "it is ready again")
    assert rig.model.calls == []
    assert (await rig.sql("SELECT coalesce(sum(calls), 0) AS calls FROM stat_delta"))[0]["calls"] == 0
    await rig.dispatch(model)
    await rig.ended(ids)
    await rig.nothing_taken(other)


async def test_a_message_that_lies_about_its_phase_gets_no_call_without_a_permit(rig: Rig) -> None:
    model = await rig.make_model()
    await rig.executor()
    await rig.make_tasks(model)
    rows = await rig.lease(model)
    await rig.send(model, rows, lies={"phase": 2})

    async def ready() -> bool:
        return bool(await rig.sql("SELECT 1 FROM dispatch WHERE state = 0 AND attempt = 0"))

    await until(ready, "it is ready again")
    assert rig.model.calls == []


async def test_a_skipped_row_is_healed(rig: Rig) -> None:
    model = await rig.make_model()
    running = await rig.executor()
    first = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(first)
    place = place_of(running, model.id)
    heals = figure("sluiceway_heals_total")
    rows_of = await rig.make_tasks(model, 3)
    rows = await rig.lease(model)
    running.road._consumer.pause(*running.road._consumer.assignment())  # type: ignore[union-attr]
    await rig.send(model, rows)
    running.executor.steward._begin(place, place.settled + 3, 0, datetime.now(UTC))
    await rig.ended(rows_of, seconds=6)
    assert figure("sluiceway_heals_total") > heals


async def test_a_position_beyond_a_log_that_began_anew_is_healed(rig: Rig) -> None:
    """The row is older than the assignment; on a broker that never says "out of range" only the healer helps."""
    model = await rig.make_model()
    running = await rig.executor()
    first = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(first)
    place = place_of(running, model.id)
    running.executor.steward._begin(place, place.settled + 1_000, 0, datetime.now(UTC))
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(ids, seconds=6)


async def test_a_connection_that_says_nothing_is_made_anew(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.executor.steward.SUSPICIOUS_SECONDS", 0.3)
    model = await rig.make_model()
    silent = True

    def change(real: Any) -> Through:
        builds = 0

        async def read(seconds: float) -> Mapping[Spot, Sequence[RoadRecord]]:
            if silent:
                await asyncio.sleep(min(seconds, 0.1))
                return {}
            records: Mapping[Spot, Sequence[RoadRecord]] = await real.read(seconds)
            return records

        async def rebuild() -> None:
            nonlocal silent, builds
            builds += 1
            silent = builds == 1
            await real.rebuild()

        return Through(real, read=read, rebuild=rebuild)

    running = await rig.executor(road=change)
    running.executor.steward._rebuilt_at = float("-inf")
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(ids, seconds=12)
    assert not silent


async def test_an_error_of_the_client_makes_a_new_connection(rig: Rig) -> None:
    model = await rig.make_model()
    failing = [BrokerUnavailable("reading from Kafka failed")] * 2

    def change(real: Any) -> Through:
        async def read(seconds: float) -> Mapping[Spot, Sequence[RoadRecord]]:
            if failing:
                raise failing.pop()
            records: Mapping[Spot, Sequence[RoadRecord]] = await real.read(seconds)
            return records

        return Through(real, read=read)

    await rig.executor(road=change)
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(ids)
    assert not failing


async def test_a_connection_that_breaks_whenever_it_is_made_anew_is_made_anew_ever_more_rarely(rig: Rig) -> None:
    model = await rig.make_model()
    breaks = False

    def change(real: Any) -> Through:
        async def read(seconds: float) -> Mapping[Spot, Sequence[RoadRecord]]:
            if breaks:
                raise BrokerUnavailable("reading from Kafka failed")
            records: Mapping[Spot, Sequence[RoadRecord]] = await real.read(seconds)
            return records

        return Through(real, read=read)

    running = await rig.executor(road=change)
    before = running.executor.steward.generation
    breaks = True
    await asyncio.sleep(2)
    assert 1 <= running.executor.steward.generation - before <= 6
    breaks = False
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(ids)


async def test_a_batch_that_cannot_be_settled_is_read_again(rig: Rig) -> None:
    model = await rig.make_model()
    running = await rig.executor()
    settle, failures = running.executor.desk.settle, [RuntimeError("a surprise")]

    async def failing(arrivals: Any) -> None:
        if failures:
            raise failures.pop()
        await settle(arrivals)

    running.executor.desk.settle = failing  # type: ignore[method-assign]
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(ids)


async def test_two_executors_share_the_models_and_read_each_once(rig: Rig) -> None:
    models = [await rig.make_model() for _ in range(16)]  # of 8 one had all in one run of 128
    first, second = await rig.executor(), await rig.executor()
    both = {first.number, second.number}
    for running in (first, second):
        await until(lambda seen=running: seen.executor._ownership.view.readers() == both, "they see each other")
    ids = []
    for model in models:
        ids += await rig.make_tasks(model, 2)
        await rig.dispatch(model)
    await rig.ended(ids)
    assert len(rig.model.calls) == len(ids)
    owners = [{running.number for running in (first, second) if place_of(running, model.id)} for model in models]
    assert all(len(owner) == 1 for owner in owners)
    assert {number for owner in owners for number in owner} == both


async def test_who_loses_a_partition_reads_on_until_its_new_owner_can_have_begun(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steward, "HANDING_OVER_SECONDS", 60.0)
    models = [await rig.make_model() for _ in range(6)]
    first = await rig.executor()
    for model in models:
        ids = await rig.make_tasks(model)
        await rig.dispatch(model)
        await rig.ended(ids)
    second = await rig.executor()

    async def slow(_: object) -> dict[Spot, int]:
        await asyncio.sleep(60)
        return {}

    second.road.offsets = slow  # type: ignore[method-assign]
    both = {first.number, second.number}
    await until(lambda: first.executor._ownership.view.readers() == both, "the first sees the second")
    assert any(not first.executor._ownership.mine(model.id, 0) for model in models)
    ids = [task for model in models for task in await rig.make_tasks(model)]
    for model in models:
        await rig.dispatch(model)
    await rig.ended(ids, seconds=5)
    assert all(place_of(first, model.id) for model in models)

    monkeypatch.setattr(steward, "HANDING_OVER_SECONDS", 0.5)
    for model in models:
        mine = first.executor._ownership.mine(model.id, 0)
        await until(lambda model=model, mine=mine: bool(place_of(first, model.id)) == mine, "what is lost is let go of")


async def test_a_clean_stop_hands_its_partitions_over_at_once(rig: Rig) -> None:
    model = await rig.make_model()
    first, second = await rig.executor(), await rig.executor()
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(ids)
    owner, heir = (first, second) if place_of(first, model.id) else (second, first)
    await owner.stop()
    more = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(more, seconds=2.5)
    assert place_of(heir, model.id) is not None


async def test_the_partitions_of_a_silent_executor_pass_on(rig: Rig) -> None:
    model = await rig.make_model()
    first, second = await rig.executor(), await rig.executor()
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(ids)
    owner = first if place_of(first, model.id) else second

    async def gone(*_: object) -> None:
        raise DatabaseUnavailable("killed")

    heartbeat = owner.executor.heartbeat
    heartbeat._membership = Through(heartbeat._membership, beat=gone)
    owner.road._consumer.pause(*owner.road._consumer.assignment())  # type: ignore[union-attr]
    owner.road.assign = owner.road.seek = lambda *_: None  # type: ignore[method-assign,assignment]
    more = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(more, seconds=9)


async def test_a_reader_that_hangs_while_it_beats_loses_its_partitions_and_keeps_its_calls(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.executor.watchdog.HANGS_SECONDS", 1.5)
    model = await rig.make_model()
    first, second = await rig.executor(), await rig.executor()
    rig.model.held = asyncio.Event()
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await until(lambda: rig.model.running == 1, "the model is called")
    owner = first if place_of(first, model.id) else second

    async def hangs(_seconds: float) -> dict[Spot, Sequence[RoadRecord]]:
        await asyncio.Event().wait()
        return {}

    owner.road.read = hangs  # type: ignore[method-assign,assignment]
    await until(lambda: owner.executor.posture() != "reading", "it leaves the hash")
    more = await rig.make_tasks(model)
    await rig.dispatch(model)
    await until(lambda: rig.model.running == 2, "the other one reads")
    rig.model.held.set()
    await rig.ended([*ids, *more])
    assert len(rig.model.calls) == 2


async def test_who_redis_does_not_answer_leaves_what_waits_to_others(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.executor.doorman.AWAY_SECONDS", 1.0)
    model = await rig.make_model()
    away: set[int] = set()

    def deaf(number: int) -> dict[str, Any]:
        def through(real: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            async def asked(*arguments: Any) -> Any:
                if number in away:
                    raise GateUnavailable("Redis did not answer within 1 s")
                return await real(*arguments)

            return asked

        return {
            "permits": lambda real: Through(real, acquire_many=through(real.acquire_many)),
            "redis_answers": through,
        }

    first, second = await rig.executor(**deaf(1)), await rig.executor(**deaf(2))
    await rig.ended(await start_one(rig, model))
    owner, other = (first, second) if place_of(first, model.id) else (second, first)
    number = 1 if owner is first else 2
    away.add(number)
    ids = [*await start_one(rig, model), *await start_one(rig, model)]

    async def ended() -> bool:
        await rig.dispatch(model)  # what was held goes back into the queue
        return set((await rig.statuses(ids)).values()) == {TaskStatus.SUCCESS}

    await until(ended, "the other one starts them", seconds=9)
    assert (owner.executor.posture(), other.executor.posture()) == ("redis_unreachable", "reading")

    away.add(3 - number)  # now it answers nobody: who can start nothing reads on, for what needs no permit
    await until(lambda: other.executor.posture() == "redis_unreachable", "neither is answered")
    await until(lambda: owner.executor._reads and other.executor._reads, "both read on")
    ids = await start_one(rig, model)
    await asyncio.sleep(0.5)
    away.clear()
    await until(ended, "they are answered again")
    await until(
        lambda: owner.executor.posture() == "reading" and other.executor.posture() == "reading", "both take work again"
    )


async def start_one(rig: Rig, model: Model) -> list[int]:
    """A task on the road."""
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    return ids


async def test_who_gets_no_answer_to_its_fetches_alone_leaves_what_waits_to_others(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.executor.steward.MUTE_SECONDS", 8.0)
    model = await rig.make_model()
    silent: set[int] = set()

    def deaf(number: int) -> Callable[[Any], Through]:
        def change(real: Any) -> Through:
            async def read(seconds: float) -> Mapping[Spot, Sequence[RoadRecord]]:
                if number in silent:
                    await asyncio.sleep(seconds)
                    return {}
                records: Mapping[Spot, Sequence[RoadRecord]] = await real.read(seconds)
                return records

            return Through(real, read=read, heard=lambda spot: number not in silent)

        return change

    first, second = await rig.executor(road=deaf(1)), await rig.executor(road=deaf(2))
    await rig.ended(await start_one(rig, model))
    owner = first if place_of(first, model.id) else second
    silent.add(1 if owner is first else 2)
    await asyncio.sleep(1.2)  # a read that is under way is answered
    ids = await start_one(rig, model)
    await until(lambda: owner.executor.posture() == "hangs", "it steps aside", seconds=15)
    await rig.ended(ids, seconds=5)
    silent.clear()
    await until(lambda: owner.executor.posture() == "reading", "it tries again", seconds=12)


async def test_a_partition_whose_fetches_are_answered_is_heard(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libs.common.adapters.kafka.road._UNHEARD_SECONDS", 0.3)
    model = await rig.make_model()
    spot = Spot(model_topic(rig.prefix, model.id, model.name), 0)
    async with open_road(rig.connection) as road:
        await road.rebuild()
        assert road.heard(spot), "it is not read at all"
        road.assign({spot: None})  # it waits for its beginning: nothing is fetched
        assert road.heard(spot), "it is too early to say"
        await until(lambda: not road.heard(spot), "no fetch was answered")
        road.seek(spot, 0)
        await road.read(0.1)
        await until(lambda: road.heard(spot), "fetches are answered")


async def test_a_reader_that_waits_for_kafka_wants_no_restart(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.executor.executor._HOPELESS_SECONDS", 0.5)
    away = False

    def change(real: Any) -> Through:
        async def rebuild() -> None:
            if away:
                raise BrokerUnavailable("no connection to Kafka")
            await real.rebuild()

        async def read(seconds: float) -> Mapping[Spot, Sequence[RoadRecord]]:
            if away:
                raise BrokerUnavailable("reading from Kafka failed")
            records: Mapping[Spot, Sequence[RoadRecord]] = await real.read(seconds)
            return records

        return Through(real, rebuild=rebuild, read=read)

    running = await rig.executor(road=change)
    executor, away = running.executor, True
    await until(lambda: executor._watchdog.stuck > 1, "it waits for long")
    assert not executor.hangs_for_long, "a new process would only lose the calls that run"
    away = False
    await until(lambda: not executor.steward.broken, "Kafka is back")
    monkeypatch.setattr(executor._watchdog, "stuck", 1.0)
    assert executor.hangs_for_long


async def test_a_partition_that_is_not_there_is_let_go_and_holds_up_no_other(rig: Rig) -> None:
    model = await rig.make_model()
    running = await rig.executor()
    rig.hints.publish_soon("sw:road", f"{model.id} 2")
    await until(lambda: place_of(running, model.id, 2) is not None, "it was looked for")
    await until(lambda: not place_of(running, model.id, 2).assigned, "it is let go")
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(ids, seconds=2)


async def test_an_idle_partition_is_let_go_and_remembered(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.executor.steward.IDLE_SECONDS", 0.5)
    model = await rig.make_model()
    running = await rig.executor()
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(ids)
    place = place_of(running, model.id)
    await until(lambda: not place.assigned, "it is let go")
    more = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(more, seconds=2)
    assert place_of(running, model.id) is place
    assert (await rig.statuses(more))[more[0]] == TaskStatus.SUCCESS


@pytest.mark.parametrize("step", ["getmany", "end_offsets", "stop"])
async def test_a_client_that_cancels_its_own_futures_ends_no_loop_of_ours(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Seen when a broker went away: what waited for the client's future was cancelled with it."""
    struck = asyncio.Event()
    step_of_the_client = getattr(AIOKafkaConsumer, step)

    async def give_up_once(*arguments: Any, **options: Any) -> Any:
        if struck.is_set():
            return await step_of_the_client(*arguments, **options)
        struck.set()
        if step == "stop":
            await step_of_the_client(*arguments, **options)
        raise asyncio.CancelledError

    model = await rig.make_model()
    running = await rig.executor()
    monkeypatch.setattr(AIOKafkaConsumer, step, give_up_once)
    if step == "stop":
        await running.executor.steward.mend("test", running.executor.steward.generation)
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(ids)
    assert struck.is_set()
