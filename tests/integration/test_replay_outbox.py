"""Replays and drops of dead events and deliveries."""

from __future__ import annotations

import pytest

from libs.common.adapters.postgres.dispatch_queue import PostgresEvents
from libs.common.adapters.postgres.webhooks import PostgresWebhooks
from libs.common.ports_dead import Action, DeadFilter, DeadKind, ItemResult, JobState
from tests.support.graves import Operator, dead_delivery, dead_event, work
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
