"""Lists and groups of the dead, and what orders select of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from libs.common.domain.errors import Invalid, NotFound
from libs.common.ports_dead import Action, DeadFilter, DeadKind
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
