"""What the statements behind `why`, lanes and the outbox count, and what they leave out, over rows of every state."""

from __future__ import annotations

from libs.common.adapters.postgres.insight import PostgresInsight
from libs.common.adapters.postgres.models import PostgresModels
from libs.common.domain.model import Model
from libs.common.ports_insight import TaskFacts
from tests.support.house import House


async def facts_of(house: House, task: int) -> TaskFacts:
    (public,) = await house.sql("SELECT public_id FROM task WHERE id = $1", task)
    facts = await PostgresInsight(house.database).task(None, public["public_id"])
    assert facts is not None
    return facts


async def all_states(house: House, model: Model, class_: int, count: int = 1) -> None:
    """So many rows of each state and of this class, all of which stand before what comes later."""
    for state in range(4):
        for task in await house.tasks(model, count):
            due = "now() + interval '1 h'" if state >= 2 else "NULL"
            lease = "1" if state == 1 else "NULL"
            await house.sql(
                f"UPDATE dispatch SET state = {state}, class = {class_}, lease = {lease}, due_at = {due},"
                f" position = position - 1000000 WHERE id = $1",
                task,
            )


async def test_before_a_task_go_ready_rows_of_its_lane_of_its_class_and_as_many_of_the_other(house: House) -> None:
    model, other = await house.model(), await house.model()
    insight = PostgresInsight(house.database)
    await all_states(house, model, 1, 3)
    (task,) = await house.tasks(model)
    assert (await insight.place(await facts_of(house, task))).ahead == 3, "nothing of the other class is there"
    await all_states(house, model, 0, 1)
    for lane in (0, 1):
        await all_states(house, other, lane, 4)
    assert (await insight.place(await facts_of(house, task))).ahead == 4, "three of its class, and one of the other"
    await house.tasks(model, 2)
    assert (await insight.place(await facts_of(house, task))).ahead == 4, "who came later goes later"
    await house.sql("UPDATE dispatch SET class = 0 WHERE id = $1", task)
    assert (await insight.place(await facts_of(house, task))).ahead == 2, "one of its class, and one of the other"


async def test_before_a_published_task_go_published_rows_of_its_lane_alone(house: House) -> None:
    model, other = await house.model(), await house.model()
    insight = PostgresInsight(house.database)
    await house.tasks(other, 2)
    await house.lease(other)
    await house.tasks(model, 2)
    first, second = await house.lease(model, 2)
    task = max(first.id, second.id)
    assert (await insight.place_on_the_road(await facts_of(house, task))).ahead == 1
    await house.start(model, await house.executor(), [row for row in (first, second) if row.id != task])
    assert (await insight.place_on_the_road(await facts_of(house, task))).ahead == 0, (
        "what has begun stands before nobody"
    )


async def test_a_models_name_means_the_one_that_has_it_and_then_the_last_that_had_it(house: House) -> None:
    insight, models = PostgresInsight(house.database), PostgresModels(house.database)
    first = await house.model(name="painter")
    other = await house.model(name="painter")  # of another tenant
    singer = await house.model(name="singer", tenant=first.tenant_id)
    await models.delete(first.tenant_id, first.id, "tester")
    assert await insight.lane_of(first.tenant_id, "painter") is None
    assert await insight.lane_once(first.tenant_id, "painter") == first.lane
    second = await house.model(name="painter", tenant=first.tenant_id)
    for named in (insight.lane_of, insight.lane_once):
        assert await named(first.tenant_id, "painter") == second.lane
        assert await named(other.tenant_id, "painter") == other.lane
        assert await named(first.tenant_id, "nobody") is None
    for model in (second, singer, other):
        await models.delete(model.tenant_id, model.id, "tester")
    assert await insight.lane_once(first.tenant_id, "painter") == second.lane, "neither another name's nor a tenant's"


async def test_lists_of_lanes_have_models_that_exist_and_busy_ones_what_is_ready_or_in_flight(house: House) -> None:
    insight = PostgresInsight(house.database)
    ready, flying, later, retrying, idle, gone = [await house.model() for _ in range(6)]
    for state, model in enumerate((ready, flying, later, retrying)):
        (task,) = await house.tasks(model)
        lease, due = "1" if state == 1 else "NULL", "now()" if state >= 2 else "NULL"
        await house.sql(f"UPDATE dispatch SET state = {state}, lease = {lease}, due_at = {due} WHERE id = $1", task)
    await PostgresModels(house.database).delete(gone.tenant_id, gone.id, "tester")

    async def lanes(tenant: int | None, *, busy: bool) -> list[int]:
        return [facts.lane for facts in (await insight.lanes(tenant, 0, 100, busy=busy))[0]]

    exist = (ready, flying, later, retrying, idle)
    assert await lanes(None, busy=False) == sorted(model.lane for model in exist)
    assert await lanes(None, busy=True) == sorted((ready.lane, flying.lane))
    for model in (*exist, gone):
        assert await lanes(model.tenant_id, busy=False) == ([] if model is gone else [model.lane])
        assert await lanes(model.tenant_id, busy=True) == ([model.lane] if model in (ready, flying) else [])
