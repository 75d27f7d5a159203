"""Replays and drops of dead events and deliveries."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest

from libs.common.adapters.postgres.dispatch_queue import PostgresEvents
from libs.common.adapters.postgres.replay import PostgresReplayWork
from libs.common.adapters.postgres.webhooks import PostgresWebhooks
from libs.common.ports_dead import Action, DeadFilter, DeadKind, ItemResult, JobState
from tests.support.graves import USUAL, Operator, dead_delivery, dead_event, save_up, work
from tests.support.house import House
from tests.support.sights import sight_of


async def test_a_replayed_event_keeps_its_id_and_gets_fresh_sends(house: House) -> None:
    attempt, number = await dead_event(house, await house.model())
    (before,) = await house.sql("SELECT finished_at, files FROM task")
    operator = Operator(house.database)
    (entry,), _ = await operator.dead.page(None, DeadFilter(kind=DeadKind.EVENT), None, 10)
    assert (entry.id, entry.task_id, entry.code, entry.message) == (
        str(number), attempt.public_id, "publish_refused", "too large",
    )  # fmt: skip
    job = await operator.order(kind=DeadKind.EVENT, ids=[str(number)])
    assert await work(house) == 1
    assert await house.sql("SELECT 1 FROM dead_event") == []
    (event,) = await PostgresEvents(house.database).due(10)
    assert (event.id, event.sends, event.version) == (number, 0, entry.version)
    assert (event.finished_at, event.files) == (before["finished_at"], before["files"])
    assert house.hinted == ["* events"]
    assert (await operator.job(job)).state is JobState.DONE
    assert (await operator.dead.page(None, DeadFilter(), None, 10))[0] == []


async def test_a_dropped_event_is_never_sent_and_proves_that_it_was_to_be(house: House) -> None:
    _, number = await dead_event(house, await house.model())
    operator = Operator(house.database)
    job = await operator.order(kind=DeadKind.EVENT, action=Action.DROP)
    assert await work(house) == 1
    assert await operator.results(job) == {str(number): ItemResult.DROPPED}
    assert (await operator.dead.groups(None, DeadFilter())).items == []
    assert await house.value("SELECT count(*) FROM dead_event") == 1
    (channel,) = [channel for channel in await sight_of(house).outbox() if channel.channel == "event"]
    assert (channel.waiting.value, channel.dead.value) == (0, 0)
    (figure,) = [figure for figure in await house.sweeps.outbox_figures(10) if figure.channel == "event"]
    assert (figure.rows, figure.lag_seconds) == (0, 0.0), "it does not have to leave any more"


async def test_a_delivery_that_was_given_up_is_listed_and_sent_again(house: House) -> None:
    model = await house.model(name="painter")
    number = await dead_delivery(house, model)
    operator = Operator(house.database)
    wanted = DeadFilter(kind=DeadKind.DELIVERY)
    (entry,), _ = await operator.dead.page(None, wanted, None, 10)
    assert (entry.id, entry.code, entry.model, entry.tenant_id) == (
        str(number), "webhook_http_500", "painter", model.tenant_id,
    )  # fmt: skip
    assert entry.message == "https://hook.example/x: no"
    (group,) = (await operator.dead.groups(None, DeadFilter())).items
    assert (group.code, group.count, group.example_id) == ("webhook_http_500", 1, str(number))
    assert (await operator.dead.show(model.tenant_id, DeadKind.DELIVERY, str(number))).story.entry == entry
    job = await operator.order(kind=DeadKind.DELIVERY)
    assert await work(house) == 1
    (row,) = await house.sql("SELECT status, round, attempts, dead_at, next_at <= now() AS due FROM delivery")
    assert tuple(row) == ("pending", 9, 9, None, True)
    assert (await operator.job(job)).state is JobState.DONE
    assert house.hinted == ["* deliveries"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("UPDATE webhook SET deleted_at = now()", "webhook_removed"),
        ("DELETE FROM webhook", "webhook_removed"),
        ("UPDATE webhook SET disabled_at = now(), disabled_reason = 'x'", "webhook_switched_off"),
    ],
)
async def test_a_delivery_to_a_webhook_that_sends_nothing_is_refused(house: House, change: str, why: str) -> None:
    number = await dead_delivery(house, await house.model())
    await house.sql(change)
    operator = Operator(house.database)
    asked = replace(USUAL, kind=DeadKind.DELIVERY)
    assert (await operator.replays.preview(None, asked)).selection.refused == {why: 1}
    dropped = await operator.replays.preview(None, replace(asked, action=Action.DROP))
    assert (dropped.selection.count, dropped.selection.refused) == (1, {}), "dropped is what nobody could replay, too"
    job = await operator.order(kind=DeadKind.DELIVERY)
    await work(house)
    items, _ = await operator.replays.items(None, job.id, None, 10)
    assert [(item.result, item.detail) for item in items] == [(ItemResult.REFUSED, why)]
    done = await operator.job(job)
    assert (done.state, done.pending, done.results[ItemResult.REFUSED]) == (JobState.DONE, 0, 1)
    (entry,), _ = await operator.dead.page(None, DeadFilter(kind=DeadKind.DELIVERY), None, 10)
    assert entry.id == str(number), "it stays on the list"


async def test_a_delivery_that_was_dropped_is_off_the_list(house: House) -> None:
    model = await house.model()
    number = await dead_delivery(house, model)
    await house.sql("UPDATE delivery SET url = ''")  # as those of endpoints have it
    operator = Operator(house.database)
    (entry,), _ = await operator.dead.page(None, DeadFilter(kind=DeadKind.DELIVERY), None, 10)
    (group,) = (await operator.dead.groups(None, DeadFilter())).items
    assert entry.message == group.example == "no"
    job = await operator.order(kind=DeadKind.DELIVERY, action=Action.DROP)
    assert await work(house) == 1
    assert await operator.results(job) == {str(number): ItemResult.DROPPED}
    assert (await operator.dead.groups(None, DeadFilter())).items == []
    (channel,) = [channel for channel in await sight_of(house).outbox() if channel.channel == "webhook"]
    assert (channel.waiting.value, channel.dead.value) == (0, 0)


async def test_a_dropped_delivery_that_is_sent_again_by_hand_may_die_again(house: House) -> None:
    model = await house.model()
    number = await dead_delivery(house, model)
    await house.sql("UPDATE delivery SET dropped_at = now()")
    webhook = await house.value("SELECT webhook_id FROM delivery")
    assert await PostgresWebhooks(house.database).redeliver(model.tenant_id, webhook, number)
    await house.sql("UPDATE delivery SET status = 'dead', next_at = NULL, ended_at = now(), dead_at = now()")
    (entry,), _ = await Operator(house.database).dead.page(None, DeadFilter(kind=DeadKind.DELIVERY), None, 10)
    assert entry.id == str(number)


#: Per kind: how four dead ones are made of one, and which column says when one was dropped or settled.
_KINDS = {
    DeadKind.EVENT: (
        "INSERT INTO dead_event (id, task_id, tenant_id, model_id, version, status, attempt, finished_at, sends,"
        " last_error) SELECT n, n, 1, 1, 5, 6, 1, now(), 20, 'too large' FROM generate_series(1, 4) AS n RETURNING id",
        "UPDATE dead_event SET dropped_at = now() WHERE id = $1",
        "SELECT id FROM dead_event WHERE dropped_at IS NULL ORDER BY 1",
    ),
    DeadKind.DELIVERY: (
        "WITH w AS (INSERT INTO webhook (tenant_id, kind, url, secrets) VALUES (1, 'endpoint', 'https://x', '')"
        " RETURNING id) INSERT INTO delivery (tenant_id, webhook_id, line, url, task_id, message_id, type, body,"
        " status, attempts, next_at, last_code, ended_at, dead_at) SELECT 1, id, 'l', '', gen_random_uuid(), n::text,"
        " 't', '{}', 'dead', 9, NULL, 500, now(), now() FROM w, generate_series(1, 4) AS n RETURNING id",
        "UPDATE delivery SET dropped_at = now() WHERE id = $1",
        "SELECT id FROM delivery WHERE status = 'dead' AND dropped_at IS NULL ORDER BY 1",
    ),
    DeadKind.MESSAGE: (
        'INSERT INTO dead_message (topic, partition, "offset", digest, key, value, size, cause)'
        " SELECT 't', 0, n, '', '', 'x', 1, 'no JSON' FROM generate_series(1, 4) AS n RETURNING id",
        "UPDATE dead_message SET settled_at = now() WHERE id = $1",
        "SELECT id FROM dead_message WHERE settled_at IS NULL ORDER BY 1",
    ),
}


@pytest.mark.parametrize("action", list(Action))
@pytest.mark.parametrize("kind", list(_KINDS))
async def test_of_what_is_asked_for_only_what_still_waits_in_the_job_is_touched(
    house: House, kind: DeadKind, action: Action
) -> None:
    """Between the look and the write: settled by another process, dropped, or in the hands of another job."""
    make, drop, left = _KINDS[kind]
    settled, dropped, theirs, mine = [row["id"] for row in await house.sql(make)]
    operator = Operator(house.database)
    job = await operator.order(kind=kind, action=action, ids=[str(settled), str(dropped), str(mine)])
    await operator.order(kind=kind, action=action, ids=[str(theirs)])
    await save_up(house.database)
    jobs = PostgresReplayWork(house.database, "UTC")
    (turn,) = [turn for turn in await jobs.take(uuid4(), [kind], 10) if turn.id == job.id]
    await house.sql("UPDATE replay_item SET result = 'gone' WHERE target = $1", settled)
    await house.sql(drop, dropped)
    keys = [settled, dropped, theirs, mine]

    async def touched() -> int:
        if action is Action.DROP:
            return await jobs.drop(turn, keys)
        if kind is not DeadKind.MESSAGE:
            return await jobs.replay_outbox(turn, keys)
        there = [message.key for message in await jobs.messages(turn, keys) if message.topic is not None]
        assert there in ([mine], [])
        return await jobs.sent_messages(turn, keys)

    assert await touched() == 1
    assert [row["id"] for row in await house.sql(left)] == [settled, theirs]
    done = ItemResult.DROPPED if action is Action.DROP else ItemResult.REPLAYED
    results = {row["target"]: row["result"] for row in await house.sql("SELECT target, result FROM replay_item")}
    assert results == {settled: "gone", dropped: "gone", theirs: None, mine: done.value}
    counted = (await operator.job(job)).results
    assert (counted[done], counted[ItemResult.GONE]) == (1, 1)
    assert await touched() == 0
