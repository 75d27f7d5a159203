"""Gate and permits against PostgreSQL: what leaked goes back, what is missing is put back, and nothing else moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import pytest

from libs.common.adapters.redis import keys
from libs.common.ports import PermitRequest, SlotRequest
from libs.common.runtime import failpoints
from libs.common.runtime.failpoints import FailpointRaised
from services.janitor.sweeps.leaks import Leaks, permits, slots
from services.janitor.sweeps.renewal import PermitRenewal, SlotRenewal
from tests.support.house import SLOT_MS, House


async def command(house: House, *words: str | int) -> object:
    (reply,) = await house.redis.command_many([words])
    return reply


async def test_a_leaked_slot_goes_back_after_two_looks_half_a_minute_apart(house: House) -> None:
    model = await house.model()
    own = await house.public(await house.tasks(model, 3))
    ended = await house.running(model, await house.executor())
    await house.finish(ended[0])
    leaked = [str(ended[0].public_id), "no-uuid-at-all"]
    await house.gate.take_many([SlotRequest(model.lane, member, 100, SLOT_MS) for member in leaked])
    leaks = Leaks(house.sweeps, slots(house.sweeps, house.gate), house.clock)
    failpoints.arm("janitor/before-reconcile:1:raise")
    with pytest.raises(FailpointRaised):
        await leaks.sweep()
    failpoints.arm("")
    assert await leaks.sweep() == 0
    house.clock.now += 29
    assert await leaks.sweep() == 0
    house.clock.now += 2
    assert await leaks.sweep() == 2
    assert await house.members(model) >= set(own)
    assert not await house.members(model) & set(leaked)


async def test_a_member_that_is_no_text_goes_like_any_that_nobody_owns(house: House) -> None:
    model = await house.model()
    own = await house.public(await house.tasks(model, 1))
    await command(house, "ZADD", keys.gate(model.lane), 10**15, b"\xff\xfe")  # type: ignore[arg-type]
    leaks = Leaks(house.sweeps, slots(house.sweeps, house.gate), house.clock)
    assert await leaks.sweep() == 0
    house.clock.now += 31
    assert await leaks.sweep() == 1
    assert await house.members(model) == set(own)


async def test_a_create_under_way_keeps_its_slot(house: House) -> None:
    model = await house.model()
    leaks = Leaks(house.sweeps, slots(house.sweeps, house.gate), house.clock)
    (task,) = await house.tasks(model)
    hidden = await house.sql("DELETE FROM dispatch RETURNING *")
    await leaks.sweep()
    await house.sql(
        "INSERT INTO dispatch (id, public_id, lane, state, position) VALUES ($1, $2, $3, 0, $1)",
        task, hidden[0]["public_id"], model.lane,
    )  # fmt: skip
    house.clock.now += 31
    assert await leaks.sweep() == 0
    # and a suspicion that was wrong is forgotten
    await house.sql("DELETE FROM dispatch")
    assert await leaks.sweep() == 0
    assert await house.taken(model) == (1, 0)


async def test_a_slot_that_a_retry_goes_on_with_while_we_look_is_left_to_it(house: House) -> None:
    model = await house.model()
    (task,) = await house.tasks(model)
    await house.sql("UPDATE dispatch SET state = 3, due_at = now()")  # failed while Redis was away: its slot stayed
    places = slots(house.sweeps, house.gate)

    async def absent(lane: int, members: Sequence[UUID]) -> list[UUID]:
        found = await places.absent(lane, members)
        if house.clock.now > began:
            await house.sql("UPDATE dispatch SET state = 0")
        return found

    began = house.clock.now
    leaks = Leaks(house.sweeps, replace(places, absent=absent), house.clock)
    assert await leaks.sweep() == 0
    house.clock.now += 31
    assert await leaks.sweep() == 0
    assert await house.members(model) == set(await house.public([task]))


async def test_a_big_lane_is_read_a_part_a_round(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.janitor.sweeps.leaks._PAGE", 100)
    monkeypatch.setattr("services.janitor.sweeps.leaks._BUDGET", 150)
    big, small = await house.model(), await house.model()
    for model, count in ((big, 1_000), (small, 1)):
        members = [f"ghost-{number}" for number in range(count)]
        await house.gate.take_many([SlotRequest(model.lane, member, 10_000, SLOT_MS) for member in members])
    leaks = Leaks(house.sweeps, slots(house.sweeps, house.gate), house.clock)
    rounds = 0
    while await house.taken(big) != (0, 0) or await house.taken(small) != (0, 0):
        await leaks.sweep()
        house.clock.now += 10
        rounds += 1
        assert rounds < 60
    assert rounds > 10


@pytest.mark.parametrize("deleted", [False, True])
async def test_lanes_where_nothing_is_taken_hold_up_no_leak(house: House, deleted: bool) -> None:
    await house.sql(
        "INSERT INTO model (tenant_id, name, base_url, deleted_at)"
        " SELECT 1, 'm' || g, 'http://m', CASE WHEN $1 THEN now() - interval '9 days' END"
        " FROM generate_series(1, 3000) g",
        deleted,
    )
    await house.sql(
        "INSERT INTO lane (model_id, tenant_id, window_size, closed) SELECT id, 1, 3, deleted_at IS NOT NULL FROM model"
    )
    model = await house.model()
    await house.gate.take_many([SlotRequest(model.lane, "ghost", 100, SLOT_MS)])
    leaks = Leaks(house.sweeps, slots(house.sweeps, house.gate), house.clock)
    assert await leaks.sweep() == 0
    house.clock.now += 31
    assert await leaks.sweep() == 1


async def test_leaked_permits_go_back_and_wake_who_waits(house: House) -> None:
    model = await house.model()
    (attempt,) = await house.running(model, await house.executor())
    ghost = "0190d5a8-0000-7000-8000-000000000001"
    assert await house.permits.acquire_many([PermitRequest(model.lane, ghost, 2, SLOT_MS)]) == [True]
    assert await house.permits.acquire_many([PermitRequest(model.lane, "x", 2, SLOT_MS)]) == [False]
    leaks = Leaks(house.sweeps, permits(house.sweeps, house.permits), house.clock)
    await leaks.sweep()
    house.clock.now += 31
    assert await leaks.sweep() == 1
    assert await house.taken(model) == (1, 1)
    assert await house.permits.missing(model.lane, [str(attempt.token)]) == []


async def test_missing_slots_are_put_back_past_the_limit_and_others_are_left_alone(house: House) -> None:
    model, other = await house.model(queue_limit=2), await house.model()
    ids = await house.tasks(model, 4)
    lost = await house.public(ids[:2])
    await house.gate.release_many([(model.lane, member) for member in lost])
    (retry,) = await house.running(other, await house.executor())
    await house.fail(retry, delay=600)
    renewal = SlotRenewal(house.sweeps, house.gate, interval_seconds=10)
    failpoints.arm("janitor/before-reconcile:1:raise")
    with pytest.raises(FailpointRaised):
        await renewal.sweep()
    failpoints.arm("")
    assert await renewal.sweep() == 2
    assert await renewal.sweep() == 0
    assert await house.members(model) == set(await house.public(ids))
    assert await house.taken(other) == (0, 0)


async def test_a_task_that_ends_while_we_look_gets_no_slot_back(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    model = await house.model()
    (attempt,) = await house.running(model, await house.executor())
    ask = house.gate.missing

    async def after_its_end(lane: int, members: list[str]) -> list[str]:
        await house.finish(attempt)
        return await ask(lane, members)

    monkeypatch.setattr(house.gate, "missing", after_its_end)
    assert await SlotRenewal(house.sweeps, house.gate, interval_seconds=10).sweep() == 0
    assert await house.taken(model) == (0, 0)


async def test_slots_are_renewed_past_half_of_their_life(house: House) -> None:
    model = await house.model()
    young, old = await house.public(await house.tasks(model, 2))
    key = keys.gate(model.lane)
    await command(house, "ZINCRBY", key, -SLOT_MS * 2 // 3, old)
    before = {member: float(await command(house, "ZSCORE", key, member)) for member in (young, old)}  # type: ignore[arg-type]
    await SlotRenewal(house.sweeps, house.gate, interval_seconds=10).sweep()
    after = {member: float(await command(house, "ZSCORE", key, member)) for member in (young, old)}  # type: ignore[arg-type]
    assert after[young] == before[young]
    assert after[old] > before[old] + SLOT_MS / 2


async def test_the_walk_over_open_tasks_is_shared_out_over_rounds(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.janitor.sweeps.renewal._PAGE", 2)
    model = await house.model()
    assert await house.taken(model) == (0, 0)  # the lane is known from here on
    ids = await house.tasks(model, 9, slots=False)
    renewal = SlotRenewal(house.sweeps, house.gate, interval_seconds=300, clock=house.clock)  # three rounds a walk

    async def round() -> int:
        restored = await renewal.sweep()
        house.clock.now += 300
        return restored

    assert [await round() for _ in range(3)] == [4, 4, 1]
    await house.gate.release_many([(model.lane, member) for member in await house.public(ids)])
    assert await round() == 4
    await house.tasks(model, 6, slots=False)  # they have become more on the way
    assert [await round() for _ in range(3)] == [6, 5, 0]


async def test_a_walk_that_is_late_hurries_but_not_all_at_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.janitor.sweeps.renewal._PAGE", 2)
    model = await house.model()
    assert await house.taken(model) == (0, 0)
    await house.tasks(model, 40, slots=False)
    renewal = SlotRenewal(house.sweeps, house.gate, interval_seconds=30, clock=house.clock)
    assert await renewal.sweep() == 2
    house.clock.now += 3_600
    assert [await renewal.sweep(), await renewal.sweep()] == [14, 8]


async def test_permits_of_running_calls_are_put_back(house: House) -> None:
    model = await house.model()
    calling, uploading = await house.running(model, await house.executor(), 2)
    await house.stage(uploading)
    await house.permits.release_many([(model.lane, str(attempt.token)) for attempt in (calling, uploading)])
    renewal = PermitRenewal(house.sweeps, house.permits, house.source)
    assert await renewal.sweep() == 1
    assert await renewal.sweep() == 0
    assert await house.permits.missing(model.lane, [str(calling.token)]) == []


async def test_after_a_flush_everything_is_there_again(house: House) -> None:
    model = await house.model()
    await house.running(model, await house.executor(), 2)
    ids = await house.tasks(model, 3)
    await command(house, "FLUSHDB")
    await SlotRenewal(house.sweeps, house.gate, interval_seconds=10).sweep()
    await PermitRenewal(house.sweeps, house.permits, house.source).sweep()
    assert await house.taken(model) == (5, 2)
    assert await house.members(model) >= set(await house.public(ids))
