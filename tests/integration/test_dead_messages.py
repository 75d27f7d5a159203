"""Bytes on a model's topic that nobody understands: kept, put on the dead-letter topic, listed, and sent again."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from libs.common.adapters.kafka.carrier import KafkaCarrier
from libs.common.adapters.postgres.replay import PostgresDeadLetters
from libs.common.contracts.dispatch_message import DispatchMessage, decode
from libs.common.contracts.topics import dead_topic, model_topic
from libs.common.domain.model import Model
from libs.common.operations.dead_json import details_document
from libs.common.operations.dead_letters import CAUSE, CODE, LEFT_OUT, OFFSET, PARTITION, TOPIC, DeadLetters
from libs.common.ports_dead import Action, DeadFilter, DeadKind, DeadLetter, ItemResult, JobState
from libs.common.ports_dispatch import LeasedRow, Record, SendVerdict, TopicPlan
from libs.common.runtime import failpoints
from services.executor import reader
from tests.support.executor_rig import Rig, until
from tests.support.graves import USUAL, Operator, dispatcher_of, save_up
from tests.support.locks import kept_by
from tests.support.poison import HEADERS, POISON
from tests.support.servers import BrokerChoice

MESSAGES = DeadFilter(kind=DeadKind.MESSAGE)


@asynccontextmanager
async def carrier_of(rig: Rig) -> AsyncIterator[KafkaCarrier]:
    carrier = KafkaCarrier(rig.connection, client_id="test")
    try:
        yield carrier
    finally:
        await carrier.close()


async def letters(rig: Rig, count: int) -> list[Any]:
    """The first records of the dead-letter topic."""
    consumer = AIOKafkaConsumer(
        **rig.connection.arguments(), enable_auto_commit=False, auto_offset_reset="earliest", fetch_max_wait_ms=50
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(dead_topic(rig.prefix), 0)])
        return [await asyncio.wait_for(consumer.getone(), 10) for _ in range(count)]
    finally:
        await consumer.stop()


async def with_dead_topic(rig: Rig) -> None:
    await rig.topics.ensure({dead_topic(rig.prefix): TopicPlan(1)})


async def kept(rig: Rig, count: int) -> bool:
    return bool((await rig.sql("SELECT count(*) FROM dead_message"))[0]["count"] == count)


async def replay(rig: Rig) -> int:
    """A round of a dispatcher."""
    await save_up(rig.database)
    async with carrier_of(rig) as carrier:
        return await dispatcher_of(rig.database, carrier).round()


def claim_check(model: Model, row: LeasedRow) -> bytes:
    return DispatchMessage(
        row.id, row.lane, model.tenant_id, model.id, row.attempt, row.lease, row.phase, row.input_size
    ).encode()


async def test_two_hundred_kinds_of_poison_hold_nobody_up(rig: Rig) -> None:
    await with_dead_topic(rig)
    model = await rig.make_model(max_concurrency=50)
    await rig.executor()
    topic = model_topic(rig.prefix, model.id, model.name)
    good: list[int] = []
    for start in range(0, len(POISON), 25):
        for value in POISON[start : start + 25]:
            await rig.raw(topic, 0, value)
        good += await rig.make_tasks(model, 2)
        await rig.dispatch(model)
    await rig.ended(good)
    await until(lambda: kept(rig, len(POISON)), "all are kept")
    rows = await rig.sql('SELECT value, "offset", code, cause, lettered_at FROM dead_message ORDER BY "offset"')
    assert [row["value"] for row in rows] == POISON
    assert all(row["cause"] and row["lettered_at"] for row in rows)
    sent = await letters(rig, len(POISON))
    assert [record.value for record in sent] == [value or b"" for value in POISON]
    for record, row in zip(sent, rows, strict=True):
        told = dict(record.headers)
        assert (told[TOPIC], told[PARTITION], told[OFFSET]) == (topic.encode(), b"0", str(row["offset"]).encode())
        assert (told[CODE], told[CAUSE]) == (row["code"].encode(), row["cause"].encode())
    groups = await Operator(rig.database).dead.groups(None, MESSAGES)
    assert {group.code: group.count for group in groups.items} == Counter(row["code"] for row in rows)
    assert (groups.counted, groups.complete) == (len(POISON), True)


async def test_a_mended_message_runs_its_task(rig: Rig) -> None:
    await with_dead_topic(rig)
    model = await rig.make_model()
    await rig.executor()
    (task,) = await rig.make_tasks(model)
    (row,) = await rig.lease(model)
    message = claim_check(model, row)
    topic = model_topic(rig.prefix, model.id, model.name)
    await rig.raw(topic, 0, message[:-7])
    await until(lambda: kept(rig, 1), "the broken one is kept")
    operator = Operator(rig.database)
    (entry,), _ = await operator.dead.page(None, MESSAGES, None, 10)
    assert (entry.code, entry.topic, entry.partition, entry.offset) == ("not_json", topic, 0, 0)
    details = await operator.dead.show(None, DeadKind.MESSAGE, entry.id)
    assert (details.story.value, details.story.key, details.story.value_size) == (message[:-7], b"k", len(message) - 7)
    job = await operator.order(kind=DeadKind.MESSAGE, ids=[entry.id], mended=message)
    assert await replay(rig) == 1
    await rig.ended([task])
    done = await operator.job(job)
    assert (done.state, done.results[ItemResult.REPLAYED]) == (JobState.DONE, 1)
    assert (await operator.dead.page(None, MESSAGES, None, 10))[0] == []
    assert await replay(rig) == 0


async def test_a_message_that_is_still_poison_dies_again_under_its_new_place(rig: Rig) -> None:
    await with_dead_topic(rig)
    model = await rig.make_model()
    running = await rig.executor()
    topic = model_topic(rig.prefix, model.id, model.name)
    rig.hints.publish_soon("sw:road", f"{model.id} 0")
    await until(lambda: (place := running.places.find(model.id, 0)) is not None and place.assigned, "it is read")
    headers = [("h", b"\xff\x00"), ("h", b"text")]
    await rig.producer.send_and_wait(topic, b"poison", partition=0, headers=headers)
    await until(lambda: kept(rig, 1), "it is kept")
    operator = Operator(rig.database)
    (first,), _ = await operator.dead.page(None, MESSAGES, None, 10)
    await operator.order(kind=DeadKind.MESSAGE)
    assert await replay(rig) == 1
    await until(lambda: kept(rig, 2), "it is kept again")
    (second,), _ = await operator.dead.page(None, MESSAGES, None, 10)
    assert (first.offset, second.offset) == (0, 1)
    details = await operator.dead.show(None, DeadKind.MESSAGE, second.id)
    assert list(details.story.headers) == headers


async def test_whatever_headers_a_record_has_they_hold_nobody_up(rig: Rig) -> None:
    await with_dead_topic(rig)
    model = await rig.make_model()
    await rig.executor()
    topic = model_topic(rig.prefix, model.id, model.name)
    for headers in HEADERS:
        await rig.producer.send_and_wait(topic, b"poison", partition=0, headers=headers)
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(ids)
    operator = Operator(rig.database)
    entries, _ = await operator.dead.page(None, MESSAGES, None, 100)
    stories = [(await operator.dead.show(None, DeadKind.MESSAGE, entry.id)) for entry in reversed(entries)]
    kept_headers = [list(details.story.headers) for details in stories]
    assert kept_headers == [[(name.replace("\x00", "\ufffd"), value) for name, value in one] for one in HEADERS]
    assert details_document(stories[0])["message"]["headers"] == [{"name": "h", "value": None}]
    sent = await letters(rig, len(HEADERS))
    assert [list(record.headers)[5:] for record in sent] == HEADERS
    await operator.order(kind=DeadKind.MESSAGE)
    assert await replay(rig) == len(HEADERS)
    await until(lambda: kept(rig, 2 * len(HEADERS)), "they are sent with their headers, and die again")


async def test_a_record_that_fails_in_an_unforeseen_way_holds_nobody_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(value: bytes | None) -> DispatchMessage:
        if value == b"a trap":
            raise RecursionError
        return decode(value)

    monkeypatch.setattr(reader, "decode", fails)
    await with_dead_topic(rig)
    model = await rig.make_model()
    await rig.executor()
    await rig.raw(model_topic(rig.prefix, model.id, model.name), 0, b"a trap")
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(ids)
    (row,) = await rig.sql("SELECT value, code, cause FROM dead_message")
    assert tuple(row) == (b"a trap", "unreadable", "reading it failed: RecursionError")


async def test_a_record_without_its_bytes_cannot_be_replayed_but_dropped(rig: Rig) -> None:
    rows = await rig.sql(
        'INSERT INTO dead_message (topic, "partition", "offset", digest, value, size, code, cause) VALUES'
        " ('t', 0, 1, sha256(''), NULL, 0, 'unreadable', 'x'), ('t', 0, 2, sha256('whole'), 'who', 5, 'too_large', 'x')"
        " RETURNING id"
    )
    operator = Operator(rig.database)
    asked = replace(USUAL, kind=DeadKind.MESSAGE)
    assert (await operator.replays.preview(None, asked)).selection.refused == {"no_bytes": 1, "cut": 1}
    mended = replace(asked, ids=[str(rows[0]["id"])], mended=b"{}")
    assert (await operator.replays.preview(None, mended)).selection.refused == {}, "its bytes are brought along"
    job = await operator.order(kind=DeadKind.MESSAGE)
    assert await replay(rig) == 0
    items, _ = await operator.replays.items(None, job.id, None, 9)
    assert [(item.result, item.detail) for item in items] == [("refused", "no_bytes"), ("refused", "cut")]
    job = await operator.order(kind=DeadKind.MESSAGE, action=Action.DROP)
    assert await replay(rig) == 2
    assert await operator.results(job) == {str(row["id"]): ItemResult.DROPPED for row in rows}
    assert (await operator.dead.groups(None, MESSAGES)).items == []


async def test_a_topic_that_is_not_there_puts_the_replay_off(rig: Rig, broker_choice: BrokerChoice) -> None:
    if broker_choice.kind == "tansu":
        pytest.skip("Tansu makes every topic that it is asked about")
    await lies_dead(rig, 1, topic=f"{rig.prefix}.nowhere")
    operator = Operator(rig.database)
    job = await operator.order(kind=DeadKind.MESSAGE)
    assert await replay(rig) == 0
    waiting = await operator.job(job)
    assert (waiting.state, waiting.pending, waiting.refusals) == (JobState.RUNNING, 1, 1)
    assert waiting.note


async def lies_dead(rig: Rig, count: int, size: int = 1, *, topic: str | None = None) -> str:
    """So many dead messages of that size, on a topic that is there unless it is named; returns the topic."""
    model = await rig.make_model()
    topic = topic or model_topic(rig.prefix, model.id, model.name)
    await rig.sql(
        'INSERT INTO dead_message (topic, "partition", "offset", digest, value, size, code, cause, died_at)'
        " SELECT $1, 0, g, sha256('x'), convert_to(repeat('x', $3), 'UTF8'), $3, 'not_json', 'x',"
        " now() - interval '1 min' FROM generate_series(1, $2) g",
        topic, count, size,
    )  # fmt: skip
    return topic


async def test_large_messages_are_sent_a_few_at_a_time(rig: Rig) -> None:
    await lies_dead(rig, 20, 1_000_000)
    operator = Operator(rig.database)
    job = await operator.order(kind=DeadKind.MESSAGE)
    for moved in (9, 9, 2):
        assert await replay(rig) == moved, "8 MiB a round, and one"
    assert (await operator.job(job)).state is JobState.DONE
    carrier = Refusing(2**30)
    letters_ = DeadLetters(PostgresDeadLetters(rig.database), carrier, dead_topic(rig.prefix))
    for moved in (9, 9, 2, 0):
        assert await letters_.send_rest() == moved


async def test_what_cannot_be_settled_is_not_sent_and_holds_up_no_other(rig: Rig) -> None:
    topic = await lies_dead(rig, 2)
    operator = Operator(rig.database)
    job = await operator.order(kind=DeadKind.MESSAGE)
    async with kept_by(rig, 'dead_message SET code = code WHERE "offset" = 1'):
        assert await replay(rig) == 1
        assert await replay(rig) == 0
    waiting = await operator.job(job)
    assert (waiting.pending, waiting.note) == (1, "somebody's transaction keeps rows locked")
    await rig.sql("UPDATE replay_item SET due_at = now() WHERE result IS NULL")
    assert await replay(rig) == 1
    assert (await operator.job(job)).state is JobState.DONE
    assert await rig.raw(topic, 0, b"the next") == 2, "each was sent once"


@pytest.mark.parametrize(("steer", "state"), [("stop", JobState.STOPPED), ("pause", JobState.PAUSED)])
async def test_what_was_on_its_way_when_the_job_was_halted_is_told_as_sent(
    rig: Rig, steer: str, state: JobState
) -> None:
    await lies_dead(rig, 2)
    operator = Operator(rig.database)
    job = await operator.order(kind=DeadKind.MESSAGE)
    failpoints.arm("dispatcher/after-replay-send:1:delay=500")
    sending = asyncio.create_task(replay(rig))
    await until(lambda: bool(failpoints.reached()), "they are sent")
    await getattr(operator.replays, steer)(None, job.id)
    assert await sending == 2
    halted = await operator.job(job)
    assert (halted.state, halted.pending, halted.results[ItemResult.STOPPED]) == (state, 0, 0)
    assert set((await operator.results(job)).values()) == {ItemResult.REPLAYED}
    assert (await operator.dead.groups(None, MESSAGES)).items == [], "nobody sends them again"


async def test_nothing_is_sent_once_a_pause_was_answered(rig: Rig) -> None:
    await lies_dead(rig, 2)
    operator = Operator(rig.database)
    job = await operator.order(kind=DeadKind.MESSAGE)
    failpoints.arm("dispatcher/before-replay-send:1:delay=500")
    sending = asyncio.create_task(replay(rig))
    await until(lambda: bool(failpoints.reached()), "they are about to be sent")
    await operator.replays.pause(None, job.id)
    assert await sending == 0
    assert (await operator.job(job)).pending == 2


async def test_a_letter_that_comes_late_is_not_passed_off_as_whole(rig: Rig) -> None:
    carrier = Refusing(-1)
    letters_ = DeadLetters(PostgresDeadLetters(rig.database), carrier, dead_topic(rig.prefix))
    size = 2**20 + 5
    await letters_.keep([DeadLetter("t", 0, 1, b"k", b"x" * size, (), "not_json", "not JSON", size)])
    carrier.most = 2**30
    await rig.sql("UPDATE dead_message SET died_at = now() - interval '1 min'")
    assert await letters_.send_rest() == 1
    assert (carrier.taken[0].value, dict(carrier.taken[0].headers)[LEFT_OUT]) == (b"", str(size).encode())
    operator = Operator(rig.database)
    (entry,), _ = await operator.dead.page(None, MESSAGES, None, 10)
    message = details_document(await operator.dead.show(None, DeadKind.MESSAGE, entry.id))["message"]
    assert (message["size"], message["complete"]) == (size, False)


@pytest.mark.parametrize("point", ["executor/before-dead-letter", "executor/after-dead-letter"])
async def test_a_letter_is_sent_before_the_position_moves(rig: Rig, point: str) -> None:
    await with_dead_topic(rig)
    model = await rig.make_model()
    running = await rig.executor()
    failpoints.arm(f"{point}:1:raise")
    topic = model_topic(rig.prefix, model.id, model.name)
    await rig.raw(topic, 0, b"poison")
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(ids)
    assert failpoints.reached()[point]
    assert running.places.find(model.id, 0).settled == 2
    rows = await rig.sql("SELECT lettered_at FROM dead_message")
    assert [row["lettered_at"] is not None for row in rows] == [True], "one row, however often it was read"
    (letter,) = await letters(rig, 1)
    assert letter.value == b"poison"


class Refusing:
    """A carrier that takes nothing that is longer than it likes."""

    reachable, last_error = True, "nobody there"

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken: list[Record] = []

    async def send(self, records: Sequence[Record]) -> list[SendVerdict]:
        fit = [len(record.value) <= self.most for record in records]
        self.taken += [record for record, ok in zip(records, fit, strict=True) if ok]
        return [SendVerdict(True) if ok else SendVerdict(False, "too large" if self.most >= 0 else "") for ok in fit]

    async def probe(self) -> bool:
        return True


async def test_letters_that_could_not_be_sent_follow_later_and_large_ones_come_without_their_value(rig: Rig) -> None:
    model = await rig.make_model()
    carrier = Refusing(-1)
    book = PostgresDeadLetters(rig.database)
    await rig.executor(graveyard=lambda _: DeadLetters(book, carrier, dead_topic(rig.prefix)))
    topic = model_topic(rig.prefix, model.id, model.name)
    await rig.raw(topic, 0, b"poison")
    await rig.raw(topic, 0, b"x" * 100)
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(ids)
    assert carrier.taken == []
    carrier.most = 50
    rest = DeadLetters(book, carrier, dead_topic(rig.prefix))
    assert await rest.send_rest() == 0, "whoever kept them may still be at it"
    await rig.sql("UPDATE dead_message SET died_at = now() - interval '1 min'")
    failpoints.arm("dispatcher/before-dead-letters:1:delay=1")
    assert await rest.send_rest() == 2
    assert await rest.send_rest() == 0
    assert [record.value for record in carrier.taken] == [b"poison", b""]
    assert dict(carrier.taken[1].headers)[LEFT_OUT] == b"100"


@pytest.mark.parametrize("end", ["killed", "stopped"])
async def test_poison_that_came_while_nobody_read_is_kept(rig: Rig, end: str) -> None:
    """No row asks for it: the next reader begins where the last one may have stopped."""
    await with_dead_topic(rig)
    model = await rig.make_model()
    first = await rig.executor()
    await until(lambda: rig.sql("SELECT 1 FROM executor"), "it is there")
    await first.stop()
    await rig.sql("UPDATE executor SET started_at = now() - interval '1 h', beat_at = now() - interval '40 s'")
    await rig.sql("UPDATE executor SET stopped_at = CASE WHEN $1 THEN NULL ELSE beat_at END", end == "killed")
    topic = model_topic(rig.prefix, model.id, model.name)
    await rig.raw(topic, 0, b"poison", timestamp_ms=int((time.time() - 30) * 1_000))
    await rig.executor()
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(ids)
    await until(lambda: kept(rig, 1), "it is kept")
