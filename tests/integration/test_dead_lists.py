"""Lists and groups of the dead, and what orders select of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from libs.common.domain.errors import Invalid, NotFound
from libs.common.ports_dead import NO_MODEL, Action, DeadFilter, DeadKind
from tests.support.graves import USUAL, Operator, dead_delivery, dead_event, died, ids_of
from tests.support.house import House


async def test_the_limit_takes_the_oldest(house: House) -> None:
    model = await house.model()
    attempts = await died(house, model, 5)
    for age, attempt in enumerate(attempts):
        await house.sql(
            "UPDATE dead_task SET died_at = now() - make_interval(hours => $2) WHERE task_id = $1", attempt.id, age
        )
    operator = Operator(house.database)
    job = await operator.order(limit=2)
    assert set(await operator.results(job)) == set(ids_of(attempts[3:]))


async def test_filters_select_what_they_say(house: House) -> None:
    first, second = await house.model(name="first"), await house.model(name="second")
    old = await died(house, first, 2, "http_500")
    young = await died(house, second, 3, "http_400")
    await house.sql(
        "UPDATE dead_task SET died_at = now() - interval '2 h' WHERE task_id = ANY ($1::bigint[])",
        [attempt.id for attempt in old],
    )
    await house.sql("UPDATE task SET error_message = 'GPU gone' WHERE id = $1", young[0].id)
    hour = datetime.now(UTC) - timedelta(hours=1)
    operator = Operator(house.database)
    for wanted, expected in [
        (DeadFilter(code="http_500"), old),
        (DeadFilter(model="second"), young),
        (DeadFilter(tenant=first.tenant_id), old),
        (DeadFilter(since=hour), young),
        (DeadFilter(until=hour), old),
        (DeadFilter(text="gpu"), young[:1]),
        (DeadFilter(code="nothing"), []),
    ]:
        entries, _ = await operator.dead.page(None, wanted, None, 10)
        assert {entry.id for entry in entries} == set(ids_of(expected)), wanted
        groups = await operator.dead.groups(None, wanted)
        assert groups.counted == len(expected), wanted
        preview = await operator.replays.preview(None, replace(USUAL, wanted=wanted))
        assert preview.selection.count == len(expected), wanted
    assert [group.count for group in (await operator.dead.groups(None, DeadFilter())).items] == [3, 2]
    for reach, expected in ((first.tenant_id, old), (second.tenant_id, young)):
        own = Operator(house.database, reach)
        assert {entry.id for entry in (await own.dead.page(reach, DeadFilter(), None, 10))[0]} == set(ids_of(expected))
        other = first.tenant_id if reach != first.tenant_id else second.tenant_id
        assert await own.dead.page(reach, DeadFilter(tenant=other), None, 10) == ([], None)
    with pytest.raises(NotFound):
        await Operator(house.database, first.tenant_id).order(ids=ids_of(young))
    own = Operator(house.database, first.tenant_id)
    with pytest.raises(Invalid):  # not all of its own instead
        await own.order(wanted=DeadFilter(tenant=second.tenant_id), action=Action.DROP)
    job = await own.order(wanted=DeadFilter(tenant=first.tenant_id))
    assert job.total == 2
    assert await Operator(house.database, second.tenant_id).replays.page(second.tenant_id, None, 9) == ([], None)
    with pytest.raises(NotFound):
        await Operator(house.database, second.tenant_id).job(job)


async def test_a_group_is_taken_by_its_models_id_alone(house: House) -> None:
    """Models of one name, one of them deleted, and deliveries whose tasks were cleaned: each group for itself."""
    models = [await house.model(name="painter", tenant=900)]
    await died(house, models[0], 3)
    await house.sql("UPDATE model SET deleted_at = now()")
    models.append(await house.model(name="painter", tenant=900))
    await died(house, models[1], 2)
    for model in (*models, models[1]):
        await dead_delivery(house, model)
        await house.sql("DELETE FROM event")
    await house.sql("UPDATE delivery SET task_id = gen_random_uuid() WHERE id = (SELECT max(id) FROM delivery)")
    await dead_event(house, models[1])
    operator = Operator(house.database)
    groups = (await operator.dead.groups(None, DeadFilter())).items
    told = sorted((group.kind, group.model_id or 0, group.count) for group in groups)
    first, second = (model.id for model in models)
    assert told == [
        (DeadKind.DELIVERY, NO_MODEL, 1), (DeadKind.DELIVERY, first, 1), (DeadKind.DELIVERY, second, 1),
        (DeadKind.EVENT, second, 1), (DeadKind.TASK, first, 3), (DeadKind.TASK, second, 2),
    ]  # fmt: skip
    for group in groups:
        wanted = DeadFilter(kind=group.kind, code=group.code, model_id=group.model_id or NO_MODEL)
        entries, _ = await operator.dead.page(None, wanted, None, 10)
        preview = await operator.replays.preview(None, replace(USUAL, kind=group.kind, wanted=wanted))
        assert len(entries) == preview.selection.count == group.count
        assert (await operator.dead.groups(None, wanted)).items == [group]
        assert preview.selection.groups == [group]
    wanted = DeadFilter(model_id=NO_MODEL)
    assert (await operator.order(kind=DeadKind.DELIVERY, wanted=wanted)).asked == {"model_id": "none"}


async def test_deliveries_are_taken_by_their_webhook(house: House) -> None:
    models = [await house.model(), await house.model()]
    for model in (*models, models[0]):
        await dead_delivery(house, model)
        await house.sql("DELETE FROM event")
    await died(house, models[0], 1)
    operator = Operator(house.database)
    entries, _ = await operator.dead.page(None, DeadFilter(kind=DeadKind.DELIVERY), None, 10)
    assert len({entry.webhook for entry in entries}) == 3
    for entry in entries:
        wanted = DeadFilter(webhook=entry.webhook)
        assert await operator.dead.page(None, wanted, None, 10) == ([entry], None)
        assert await operator.dead.page(entry.tenant_id, wanted, None, 10) == ([entry], None)
        assert (await operator.dead.page((entry.tenant_id or 0) + 1, wanted, None, 10)) == ([], None)
        assert await operator.dead.page(None, replace(wanted, kind=DeadKind.TASK), None, 10) == ([], None)
        (group,) = (await operator.dead.groups(None, wanted)).items
        assert (group.kind, group.count) == (DeadKind.DELIVERY, 1)
    wanted = DeadFilter(webhook=entries[0].webhook)
    for kind, count in ((DeadKind.TASK, 0), (DeadKind.DELIVERY, 1)):
        preview = await operator.replays.preview(None, replace(USUAL, kind=kind, wanted=wanted))
        assert preview.selection.count == count
    job = await operator.order(kind=DeadKind.DELIVERY, wanted=wanted)
    assert (job.total, job.asked) == (1, {"webhook": str(entries[0].webhook)})


async def test_the_dead_of_a_model_that_never_was_are_not_looked_for(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EXAMINE_LIMIT", "COUNTED"):
        monkeypatch.setattr(f"libs.common.adapters.postgres.dead.{name}", 2)
    model, other = await house.model(name="gone"), await house.model(name="another's")
    await died(house, model, 3)
    for _ in range(3):
        await dead_delivery(house, model)
        await house.sql("DELETE FROM event")
    await house.sql("UPDATE model SET deleted_at = now() WHERE id = $1", model.id)
    operator, own = Operator(house.database), Operator(house.database, model.tenant_id)
    for reach, name in ((None, "nobody's"), (model.tenant_id, "nobody's"), (model.tenant_id, "another's")):
        assert await own.dead.page(reach, DeadFilter(model=name), None, 10) == ([], None)
        groups = await own.dead.groups(reach, DeadFilter(model=name))
        assert (groups.items, groups.complete) == ([], True)
    assert await operator.dead.page(None, DeadFilter(model="gone", tenant=other.tenant_id), None, 10) == ([], None)
    for reach in (None, model.tenant_id):
        for kind in (DeadKind.TASK, DeadKind.DELIVERY):
            entries, _ = await operator.dead.page(reach, DeadFilter(kind=kind, model="gone"), None, 10)
            assert [entry.model for entry in entries] == ["gone"] * 2


async def test_a_tenants_dead_are_not_hidden_by_those_of_others(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libs.common.adapters.postgres.dead.EXAMINE_LIMIT", 2)
    quiet, loud = await house.model(), await house.model(max_concurrency=20)
    for model, count in ((quiet, 1), (loud, 5)):
        for _ in range(count):
            await dead_delivery(house, model)
            await house.sql("DELETE FROM event")
    await dead_event(house, quiet)
    await house.sql("UPDATE dead_event SET dead_at = now() - interval '1 h'")
    for _ in range(5):
        await dead_event(house, loud)
    operator = Operator(house.database)
    for kind in (DeadKind.DELIVERY, DeadKind.EVENT):
        wanted = DeadFilter(kind=kind, tenant=quiet.tenant_id)
        for narrowed in (wanted, replace(wanted, text="o")):
            assert len((await operator.dead.page(None, narrowed, None, 10))[0]) == 1
            groups = await operator.dead.groups(None, narrowed)
            assert (groups.counted, groups.complete) == (1, True)
        whole, following = await operator.dead.page(None, DeadFilter(kind=kind), None, 10)
        assert (len(whole), following) == (6, None), "without a filter a page looks at what it shows"
        assert not (await operator.dead.groups(None, DeadFilter(kind=kind))).complete


async def test_one_list_of_all_kinds_goes_on_where_it_stopped(house: House) -> None:
    model = await house.model()
    await died(house, model, 4)
    await dead_event(house, model)
    await house.sql(
        'INSERT INTO dead_message (topic, "partition", "offset", digest, code, cause)'
        " SELECT 't', 0, g, '', 'not_json', 'not JSON' FROM generate_series(1, 3) g"
    )
    await house.sql("UPDATE dead_message SET died_at = (SELECT min(died_at) FROM dead_task)")
    operator = Operator(house.database)
    whole, following = await operator.dead.page(None, DeadFilter(), None, 100)
    assert (len(whole), following) == (8, None)
    for limit in (1, 2, 3, 7):
        seen, place = [], None
        for _ in range(20):
            page, place = await operator.dead.page(None, DeadFilter(), place, limit)
            seen += page
            if place is None:
                break
        assert seen == whole, limit


async def test_events_deliveries_and_messages_are_filtered_as_tasks_are(house: House) -> None:
    first, second = await house.model(name="first"), await house.model(name="second")
    for model in (first, second):
        await dead_event(house, model)
        await dead_delivery(house, model)
        await house.sql("DELETE FROM event")
    await house.sql("UPDATE dead_event SET last_error = 'GPU gone' WHERE model_id = $1", first.id)
    await house.sql(
        "UPDATE delivery SET last_error = 'GPU gone', last_code = 404 WHERE tenant_id = $1", first.tenant_id
    )
    await house.sql(
        'INSERT INTO dead_message (topic, "partition", "offset", digest, code, cause)'
        " VALUES ('t', 0, 1, '', 'tombstone', 'GPU gone'), ('t', 0, 2, '', 'not_json', 'not JSON')"
    )
    operator = Operator(house.database)
    for kind, wanted, count in [
        *((kind, DeadFilter(text="gpu"), 1) for kind in DeadKind if kind is not DeadKind.TASK),
        *((kind, DeadFilter(code="nothing"), 0) for kind in DeadKind),
        *((kind, DeadFilter(model="first"), 1) for kind in (DeadKind.EVENT, DeadKind.DELIVERY)),
        *((kind, DeadFilter(model="nothing"), 0) for kind in DeadKind),
        *((kind, DeadFilter(model_id=second.id), 1) for kind in (DeadKind.EVENT, DeadKind.DELIVERY)),
        (DeadKind.EVENT, DeadFilter(code="publish_refused"), 2),
        (DeadKind.DELIVERY, DeadFilter(code="webhook_http_404"), 1),
        (DeadKind.MESSAGE, DeadFilter(code="tombstone"), 1),
    ]:
        narrowed = replace(wanted, kind=kind)
        entries, _ = await operator.dead.page(None, narrowed, None, 10)
        groups = await operator.dead.groups(None, narrowed)
        assert (len(entries), sum(group.count for group in groups.items)) == (count, count), narrowed
    deliveries = await house.sql("SELECT id, tenant_id, webhook_id FROM delivery ORDER BY id")
    theirs = DeadFilter(kind=DeadKind.DELIVERY, webhook=deliveries[1]["webhook_id"])
    assert (await operator.dead.groups(deliveries[0]["tenant_id"], theirs)).items == []
    job = await operator.order(kind=DeadKind.DELIVERY, ids=[str(deliveries[0]["id"])])
    assert set(await operator.results(job)) == {str(deliveries[0]["id"])}


async def test_what_was_dropped_or_died_earlier_is_in_no_list_whoever_asks(house: House) -> None:
    """Of each kind one died hours ago, one was dropped, one is left; so of another tenant, too."""
    model, other = await house.model(max_concurrency=20), await house.model(max_concurrency=20)
    hour = datetime.now(UTC) - timedelta(hours=1)
    for owner in (model, other):
        await died(house, owner, 3)
        for _ in range(3):
            await dead_event(house, owner)
        for _ in range(3):
            await dead_delivery(house, owner)
            await house.sql("DELETE FROM event")
        await house.sql(
            'INSERT INTO dead_message (topic, "partition", "offset", digest, code, cause)'
            " SELECT 't', $1, g, '', 'not_json', 'not JSON' FROM generate_series(1, 3) g",
            owner.lane,
        )
        await house.sql(
            "UPDATE delivery SET webhook_id = (SELECT min(webhook_id) FROM delivery WHERE tenant_id = $1)"
            " WHERE tenant_id = $1",
            owner.tenant_id,
        )
        for table, key, at, off, own in (
            ("dead_task", "task_id", "died_at", "dropped_at", "tenant_id"),
            ("dead_event", "id", "dead_at", "dropped_at", "tenant_id"),
            ("delivery", "id", "dead_at", "dropped_at", "tenant_id"),
            ("dead_message", "id", "died_at", "settled_at", '"partition"'),
        ):
            whose = owner.lane if table == "dead_message" else owner.tenant_id
            mine = f"SELECT {key} FROM {table} WHERE {own} = $1 ORDER BY {key} LIMIT 1"
            await house.sql(f"UPDATE {table} SET {at} = now() - interval '2 h' WHERE {key} = ({mine})", whose)
            await house.sql(f"UPDATE {table} SET {off} = now() WHERE {key} = ({mine} OFFSET 1)", whose)
    webhook = await house.value("SELECT min(webhook_id) FROM delivery WHERE tenant_id = $1", model.tenant_id)
    operator = Operator(house.database)
    for wanted, reach, young in [
        *((DeadFilter(kind=kind), None, 2) for kind in DeadKind),
        *((DeadFilter(kind=kind), model.tenant_id, 1) for kind in DeadKind if kind is not DeadKind.MESSAGE),
        (DeadFilter(kind=DeadKind.DELIVERY, webhook=webhook), None, 1),
    ]:
        for narrowed, count in (
            (wanted, 2 * young), (replace(wanted, since=hour), young), (replace(wanted, until=hour), young),
        ):  # fmt: skip
            entries, _ = await operator.dead.page(reach, narrowed, None, 10)
            groups = await operator.dead.groups(reach, narrowed)
            assert (len(entries), sum(group.count for group in groups.items)) == (count, count), (narrowed, reach)
    for kind, ids in (
        (DeadKind.TASK, "SELECT t.public_id::text AS id FROM dead_task d JOIN task t ON t.id = task_id ORDER BY t.id"),
        (DeadKind.EVENT, "SELECT d.id::text FROM dead_event d ORDER BY d.id"),
        (DeadKind.DELIVERY, "SELECT d.id::text FROM delivery d ORDER BY d.id"),
        (DeadKind.MESSAGE, "SELECT d.id::text FROM dead_message d ORDER BY d.id"),
    ):
        every = [row["id"] for row in await house.sql(ids)]
        order = replace(USUAL, kind=kind, ids=every)
        assert (await operator.replays.preview(None, order)).unknown == [every[1], every[4]], kind
        if kind is not DeadKind.MESSAGE:
            assert (await operator.replays.preview(model.tenant_id, order)).unknown == [every[1], *every[3:]], kind


async def test_who_has_one_in_hand_is_told_until_he_lets_it_go(house: House) -> None:
    model = await house.model()
    await died(house, model)
    await dead_event(house, model)
    await dead_delivery(house, model)
    await house.sql(
        'INSERT INTO dead_message (topic, "partition", "offset", digest, code, cause)'
        " VALUES ('t', 0, 1, '', 'not_json', 'not JSON')"
    )
    operator = Operator(house.database)
    for kind in DeadKind:
        job = await operator.order(kind=kind)
        for held in (job.id, None):
            ((entry,), _) = await operator.dead.page(None, DeadFilter(kind=kind), None, 10)
            assert (entry.pending, entry.in_hand) == (held, held is not None), kind
            if held:
                await operator.replays.stop(None, job.id)


async def test_nonsense_is_refused_and_changes_nothing(house: House) -> None:
    await died(house, await house.model())
    operator = Operator(house.database)
    for changes in (
        {"reason": " "}, {"reason": "x" * 501}, {"reason": "a\nb"}, {"limit": 0}, {"limit": 100_001}, {"rate": 0.0},
        {"rate": float("nan")}, {"rate": 2_001.0}, {"ids": []}, {"ids": ["x"], "wanted": DeadFilter(code="y")},
        {"mended": b"x"},
    ):  # fmt: skip
        with pytest.raises(Invalid):
            await operator.order(**changes)
    with pytest.raises(NotFound):
        await operator.order(ids=["x", "00000000-0000-0000-0000-000000000000"])
    assert await operator.replays.page(None, None, 10) == ([], None)


async def test_a_part_of_a_deliverys_message_is_found_as_a_job_finds_it(house: House) -> None:
    await dead_delivery(house, await house.model())
    operator = Operator(house.database)
    for part, found in (("HOOK.example/x: n", 1), ("canary", 0)):
        wanted = DeadFilter(kind=DeadKind.DELIVERY, text=part)
        assert len((await operator.dead.page(None, wanted, None, 10))[0]) == found
        assert len((await operator.dead.groups(None, wanted)).items) == found
        preview = await operator.replays.preview(None, replace(USUAL, kind=DeadKind.DELIVERY, wanted=wanted))
        assert preview.selection.count == found
