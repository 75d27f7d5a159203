"""Pauses and drains: they hold, they survive, they are recorded, and what was paused has not waited meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from libs.common.adapters.postgres.attempts import PostgresMembership
from libs.common.adapters.postgres.control import PostgresControl
from libs.common.adapters.postgres.models import PostgresModels
from libs.common.adapters.postgres.webhooks import PostgresWebhooks
from libs.common.domain.errors import Invalid, NotFound
from libs.common.ports_attempts import Identity, Paused
from libs.common.ports_dispatch import LaneAsk
from services.janitor.sweeps.waits import TooLong
from tests.support.api import until_true
from tests.support.house import House
from tests.support.queue_desk import FIRST
from tests.support.sights import controls_of, sight_of, why_task


async def test_everything_paused_no_turn_takes_a_row_and_no_sweep_names_a_lane(house: House) -> None:
    model, controls = await house.model(), controls_of(house)
    await house.tasks(model)
    assert await controls.pause_all("night", "broker moves") == "paused"
    assert await controls.pause_all("night", "again") == "already_paused"
    turn = await house.queue.lease_due([LaneAsk(model.lane, 9, 0, FIRST, FIRST)], 9, 1, [])
    assert (list(turn.rows), list(turn.rooms), list(turn.busy)) == ([], [], [])
    assert await house.queue.lanes_with_work() == []
    assert await controls.resume_all("day") == "resumed"
    assert await controls.resume_all("day") == "not_paused"
    assert await house.queue.lanes_with_work() == [model.lane]
    assert len(await house.lease(model)) == 1
    assert house.hinted.count("* pauses") == 4


async def test_what_operators_did_is_recorded_once_with_who_and_why(house: House) -> None:
    model, controls = await house.model(), controls_of(house)
    await controls.pause_model(model.tenant_id, model.name, "ann", " wrong answers ")
    await controls.pause_model(model.tenant_id, model.name, "bob", "me too")
    await controls.pause_tenant(model.tenant_id, "bob", "")
    await controls.resume_model(model.tenant_id, model.name, "cy", "mended")
    done, following = await controls.actions(None, 2)
    assert [(one.by, one.action, one.reason) for one in done] == [("cy", "resume", "mended"), ("bob", "pause", "")]
    assert following == done[-1].id
    (first,), end = await controls.actions(following, 2)
    assert (first.by, first.subject, first.reason) == ("ann", f"model {model.name}", "wrong answers")
    assert (first.tenant_id, end) == (model.tenant_id, None)
    (pause,) = await sight_of(house).pauses(None)
    assert (pause.scope, pause.tenant_id, pause.by) == ("tenant", model.tenant_id, "bob")


async def test_pauses_of_one_tenant_are_no_other_tenants_business(house: House) -> None:
    model, other, controls = await house.model(), await house.model(), controls_of(house)
    await controls.pause_model(model.tenant_id, model.name, "ann", "")
    await controls.pause_all("ann", "")
    assert [pause.scope for pause in await sight_of(house).pauses(other.tenant_id)] == ["all"]
    assert [pause.scope for pause in await sight_of(house).pauses(model.tenant_id)] == ["model", "all"]
    with pytest.raises(NotFound):
        await controls.pause_model(other.tenant_id, model.name, "ann", "")


async def test_what_goes_on_is_what_was_resumed_and_nothing_else(house: House) -> None:
    one, controls = await house.model(), controls_of(house)
    sibling, other = await house.model(tenant=one.tenant_id), await house.model()
    for model in (one, sibling, other):
        await controls.pause_model(model.tenant_id, model.name, "ann", "")
    for tenant in (one.tenant_id, other.tenant_id):
        await controls.pause_tenant(tenant, "ann", "")
    await controls.pause_all("ann", "")

    async def held() -> set[tuple[str, int | None, str | None]]:
        """By what faces say, which is what dispatchers go by."""
        tenants = await house.sql("SELECT id FROM tenant WHERE paused")
        lanes = await house.sql("SELECT l.tenant_id, m.name FROM lane l JOIN model m ON m.id = l.model_id WHERE paused")
        flags = {("tenant", row["id"], None) for row in tenants}
        flags |= {("model", row["tenant_id"], row["name"]) for row in lanes}
        told = {(pause.scope, pause.tenant_id, pause.model) for pause in await sight_of(house).pauses(None)}
        assert told - {("all", None, None)} == flags
        return told

    everything = await held()
    assert len(everything) == 6
    assert await controls.resume_model(one.tenant_id, one.name, "bob") == "resumed"
    assert everything - await held() == {("model", one.tenant_id, one.name)}
    assert await controls.resume_tenant(other.tenant_id, "bob") == "resumed"
    assert everything - await held() == {("model", one.tenant_id, one.name), ("tenant", other.tenant_id, None)}
    assert await controls.resume_tenant(other.tenant_id, "bob") == "not_paused"
    assert await controls.pause_tenant(one.tenant_id, "bob", "") == "already_paused"
    assert await controls.resume_all("bob") == "resumed"
    assert await held() == {
        ("model", sibling.tenant_id, sibling.name),
        ("model", other.tenant_id, other.name),
        ("tenant", one.tenant_id, None),
    }


async def test_a_drain_is_for_the_executors_of_that_name(house: House) -> None:
    for name in ("e-leaves", "e-stays"):
        await PostgresMembership(house.database).join(Identity(name, 1, ("local",), "test", ("plain-http",)))
    await controls_of(house).drain("e-leaves", "ann", "")
    rows = await house.sql("SELECT name, draining FROM executor WHERE name LIKE 'e-%s' ORDER BY 1")
    assert [tuple(row) for row in rows] == [("e-leaves", True), ("e-stays", False)]


async def test_what_is_not_there_cannot_be_paused_or_drained(house: House) -> None:
    controls = controls_of(house)
    for call in (
        controls.pause_tenant(987_654, "a", ""),
        controls.resume_tenant(987_654, "a"),
        controls.pause_model(1, "no\x00pe", "a", ""),
        controls.drain("nobody", "a", ""),
        controls.pause_webhook(987_654, "a", ""),
        controls.resume_webhook(987_654, "a"),
    ):
        with pytest.raises(NotFound):
            await call
    with pytest.raises(Invalid):
        await controls.pause_all("a", "x" * 501)
    assert await house.value("SELECT count(*) FROM operator_action") == 0


async def test_two_operators_at_once_pause_once(house: House) -> None:
    model, controls = await house.model(), controls_of(house)
    for _ in range(5):
        paused = await asyncio.gather(*(controls.pause_model(model.tenant_id, model.name, "a", "") for _ in range(4)))
        assert sorted(paused) == ["already_paused"] * 3 + ["paused"]
        resumed = await asyncio.gather(*(controls.resume_model(model.tenant_id, model.name, "a") for _ in range(4)))
        assert sorted(resumed) == ["not_paused"] * 3 + ["resumed"]
    assert await house.value("SELECT count(*) FROM pause WHERE ended IS NULL") == 0


async def test_a_pause_is_no_waiting_however_pauses_overlap(house: House) -> None:
    model, controls = await house.model(), controls_of(house)
    late, early = await house.tasks(model, 2)
    await house.sql("UPDATE dispatch SET entered_at = now() - interval '10 h' WHERE id = $1", late)
    await house.sql("UPDATE dispatch SET entered_at = now() - interval '5 h' WHERE id = $1", early)
    await house.sql("UPDATE task SET created_at = now() - interval '10 h'")
    walk = TooLong(house.sweeps, house.endings, max_wait_seconds=3 * 3_600)
    await controls.pause_all("a", "")
    assert await walk.sweep() == 0, "while all is paused nothing waits too long"
    await controls.pause_tenant(model.tenant_id, "a", "")
    await controls.pause_model(model.tenant_id, model.name, "a", "")
    # all from 8 h to 3 h ago, the tenant from 4 h to 1 h ago, the model within these
    await house.sql(
        "UPDATE pause SET began = now() - interval '8 h', ended = now() - interval '3 h' WHERE scope = 'all'"
    )
    await house.sql("UPDATE pause SET began = now() - interval '4 h' WHERE scope <> 'all'")
    await controls.resume_tenant(model.tenant_id, "a")
    await controls.resume_model(model.tenant_id, model.name, "a")
    await house.sql("UPDATE pause SET ended = now() - interval '1 h' WHERE scope <> 'all'")
    rows = {row.id: row.waited for row in await house.sweeps.waiting_page(0, 10, 3 * 3_600)}
    assert rows[late] == pytest.approx(3 * 3_600, abs=60)  # 10 h less the 7 h from 8 to 1
    assert rows[early] == pytest.approx(3_600, abs=60)  # 5 h less the 4 h from 5 to 1
    await house.sql("UPDATE dispatch SET entered_at = entered_at - interval '5 min' WHERE id = $1", late)
    assert await walk.sweep() == 1


@pytest.mark.parametrize("scope", ["all", "tenant", "model"])
async def test_each_pause_counts_for_its_own_alone_and_one_that_was_over_before_for_none(
    house: House, scope: str
) -> None:
    model, other, controls = await house.model(), await house.model(), controls_of(house)
    (ours,), (theirs,) = await house.tasks(model), await house.tasks(other)
    assert model.tenant_id != other.tenant_id
    pauses = {
        "all": (controls.pause_all, controls.resume_all, ()),
        "tenant": (controls.pause_tenant, controls.resume_tenant, (model.tenant_id,)),
        "model": (controls.pause_model, controls.resume_model, (model.tenant_id, model.name)),
    }
    pause, resume, whom = pauses[scope]
    for began, ended in (("9 h", "8 h"), ("3 h", "1 h")):
        assert await pause(*whom, "a", "") == "paused"
        await resume(*whom, "a")
        await house.sql(f"UPDATE pause SET began = now() - interval '{began}' WHERE began > now() - interval '1 min'")
        await house.sql(f"UPDATE pause SET ended = now() - interval '{ended}' WHERE ended > now() - interval '1 min'")
    await house.sql("UPDATE dispatch SET entered_at = now() - interval '5 h'")
    waited = {row.id: round(row.waited / 3_600) for row in await house.sweeps.waiting_page(0, 10, 3_600)}
    assert waited == {ours: 3, theirs: 3 if scope == "all" else 5}


async def test_a_webhook_that_is_held_holds_no_task(house: House) -> None:
    model, controls = await house.model(), controls_of(house)
    webhook = await webhook_of(house, model.tenant_id)
    (task,) = await house.tasks(model)
    await house.sql("UPDATE dispatch SET entered_at = now() - interval '5 h'")
    assert await controls.pause_webhook(webhook, "ann", "it moves") == "paused"
    await house.sql("UPDATE pause SET began = now() - interval '4 h'")
    (pause,) = await sight_of(house).pauses(model.tenant_id)
    assert (pause.scope, pause.tenant_id, pause.webhook, pause.by) == ("webhook", model.tenant_id, webhook, "ann")
    assert await sight_of(house).pauses(model.tenant_id + 1) == []
    (lane,) = (await sight_of(house).lanes(None))[0]
    assert list(lane.pauses) == []
    assert (await why_task(house, task)).code != "webhook_paused"
    (row,) = await house.sweeps.waiting_page(0, 10, 3 * 3_600)
    assert (row.paused, row.waited) == (False, pytest.approx(5 * 3_600, abs=60))
    membership = PostgresMembership(house.database)
    await membership.join(Identity("e", 1, ("local",), "test", ("plain-http",)))
    answered = await membership.beat(0, 0, "reading")
    assert answered is not None
    assert answered.paused == Paused()
    assert len(await house.lease(model)) == 1


async def test_operators_hold_a_webhook_once_and_record_it(house: House) -> None:
    controls = controls_of(house)
    webhook, other = await webhook_of(house, 7), await webhook_of(house, 7)
    for _ in range(5):
        paused = await asyncio.gather(*(controls.pause_webhook(webhook, "a", "") for _ in range(4)))
        assert sorted(paused) == ["already_paused"] * 3 + ["paused"]
        assert await controls.resume_webhook(other, "a") == "not_paused"
        resumed = await asyncio.gather(*(controls.resume_webhook(webhook, "a") for _ in range(4)))
        assert sorted(resumed) == ["not_paused"] * 3 + ["resumed"]
    assert await house.value("SELECT count(*) FROM operator_action") == 10
    assert await house.value("SELECT count(*) FROM pause WHERE ended IS NULL") == 0


async def test_a_removed_webhook_is_not_held_for_ever_whoever_is_first(house: House) -> None:
    controls, webhooks = controls_of(house), PostgresWebhooks(house.database)
    for _ in range(10):
        webhook = await webhook_of(house, 7)
        await asyncio.gather(
            controls.pause_webhook(webhook, "ann", ""), webhooks.delete(7, webhook), return_exceptions=True
        )
        with pytest.raises(NotFound):
            await controls.resume_webhook(webhook, "ann")
        assert await sight_of(house).pauses(None) == []


async def test_a_removal_ends_the_hold_of_no_other(house: House) -> None:
    controls, webhooks = controls_of(house), PostgresWebhooks(house.database)
    webhook, other, theirs = await webhook_of(house, 7), await webhook_of(house, 7), await webhook_of(house, 8)
    model = await house.model(tenant=7)
    for held in (webhook, other, theirs):
        await controls.pause_webhook(held, "ann", "")
    await controls.pause_all("ann", "")
    await controls.pause_tenant(7, "ann", "")
    await controls.pause_model(7, model.name, "ann", "")
    assert await controls.resume_webhook(webhook, "ann") == await controls.resume_webhook(theirs, "ann") == "resumed"
    over = "SELECT id, ended FROM pause WHERE ended IS NOT NULL ORDER BY id LIMIT 2"
    ended = await house.sql(over)
    await controls.pause_webhook(webhook, "ann", "")
    assert await webhooks.delete(7, webhook)
    left = await house.sql("SELECT scope, webhook_id FROM pause WHERE ended IS NULL ORDER BY id")
    assert [tuple(row) for row in left] == [("webhook", other), ("all", None), ("tenant", None), ("model", None)]
    assert await house.sql(over) == ended


async def test_a_removal_that_waited_for_a_hold_ends_it(house: House) -> None:
    webhook, webhooks = await webhook_of(house, 7), PostgresWebhooks(house.database)
    async with house.database.transaction() as transaction:
        await transaction.fetch("pause_webhook", webhook, "ann", "")
        removing = asyncio.create_task(webhooks.delete(7, webhook))
        await until_waiting(house)
    assert await removing
    assert await sight_of(house).pauses(None) == []


async def webhook_of(house: House, tenant: int) -> int:
    made: int = await house.value(
        "INSERT INTO webhook (tenant_id, kind, url, secrets) VALUES ($1, 'endpoint', 'https://example.com', '')"
        " RETURNING id",
        tenant,
    )
    return made


async def until_waiting(house: House) -> None:
    """Until a statement of this database waits for a lock."""

    async def waits() -> bool:
        waiting: int = await house.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return waiting > 0

    await until_true(waits)


async def test_old_pauses_are_forgotten_and_what_was_done_is_not(house: House) -> None:
    controls = controls_of(house)
    await controls.pause_all("a", "")
    await controls.resume_all("a")
    await controls.pause_all("a", "")
    await house.sql("UPDATE pause SET began = now() - interval '3 years', ended = ended - interval '2 years'")
    await house.sweeps.prune(100)
    assert await house.value("SELECT count(*) FROM pause") == 1
    assert await house.value("SELECT count(*) FROM operator_action") == 3


async def test_a_drain_is_asked_for_once_and_taken_back(house: House) -> None:
    executor, controls = await house.executor(), controls_of(house)
    name = await house.value("SELECT name FROM executor WHERE id = $1", executor)
    assert await controls.drain(name, "ann", "kernel update") == "draining"
    assert await controls.drain(name, "ann", "") == "already_draining"
    (seen,) = await sight_of(house).executors()
    assert seen.draining
    assert await controls.undrain(name, "ann") == "staying"
    assert await controls.undrain(name, "ann") == "not_draining"
    await house.sql("UPDATE executor SET stopped_at = now()")
    with pytest.raises(NotFound):
        await controls.drain(name, "ann", "")


async def test_who_was_presumed_dead_is_still_to_leave(house: House) -> None:
    membership = PostgresMembership(house.database)
    await membership.join(Identity("e-drained", 1, ("local",), "test", ("plain-http",)))
    await controls_of(house).drain("e-drained", "ann", "kernel update")
    await house.sql("UPDATE executor SET stopped_at = now()")
    assert await membership.beat(0, 0, "reading") is None
    await membership.join(Identity("e-drained", 1, ("local",), "test", ("plain-http",)))
    answered = await membership.beat(0, 0, "reading")
    assert answered is not None
    assert answered.draining


async def test_a_deleted_model_is_not_paused_for_ever(house: House) -> None:
    model, controls = await house.model(), controls_of(house)
    await controls.pause_model(model.tenant_id, model.name, "ann", "wrong answers")
    await PostgresModels(house.database).delete(model.tenant_id, model.id, "ann")
    assert await sight_of(house).pauses(None) == [], "nobody could resume it: its name is nobody's any more"
    assert await house.database.fetch("audit_lane_pauses") == []
    assert await house.database.fetch("audit_tenant_pauses") == []
    assert await PostgresControl(house.database).pause("model", model.lane, "bob", "too late") is False
    assert await sight_of(house).pauses(None) == []


async def test_a_deletion_that_waited_for_a_pause_ends_it(house: House) -> None:
    model, models = await house.model(), PostgresModels(house.database)
    async with house.database.transaction() as transaction:
        await transaction.fetch("pause_model", model.lane, "ann", "wrong answers")
        deleting = asyncio.create_task(models.delete(model.tenant_id, model.id, "bob"))
        await until_waiting(house)
    assert await deleting
    assert await sight_of(house).pauses(None) == []
    assert await house.database.fetch("audit_lane_pauses") == []
