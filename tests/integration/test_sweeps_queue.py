"""What comes back into the queue: retries, drafts, what dispatchers or the log lost."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from libs.common.adapters.redis import keys
from libs.common.domain.errors import GateUnavailable
from libs.common.domain.model import Model
from libs.common.ports import SlotRequest
from libs.common.runtime import failpoints
from libs.common.runtime.failpoints import FailpointRaised
from services.janitor.beats import BeatWatch
from services.janitor.sweeps.promote import Promote
from services.janitor.sweeps.republish import Republish
from services.janitor.sweeps.rescue import Rescue
from services.janitor.sweeps.retries import Retries
from tests.support.house import SLOT_MS, House, open_house


def retries_of(house: House) -> Retries:
    return Retries(house.sweeps, house.gate, house.returns, house.wake, house.rng)


async def failed(house: House, model: Model, count: int, *, head: bool = True) -> list[int]:
    """Tasks whose retry is due."""
    attempts = await house.running(model, await house.executor(), count)
    for attempt in attempts:
        await house.fail(attempt, head=head)
    await house.make_overdue([attempt.id for attempt in attempts])
    return [attempt.id for attempt in attempts]


async def test_due_retries_take_a_slot_and_stand_where_their_failure_put_them(house: House) -> None:
    model = await house.model(max_concurrency=10)
    head, tail = await failed(house, model, 1), await failed(house, model, 1, head=False)
    later = (await house.running(model, await house.executor()))[0]
    await house.fail(later, delay=60)
    assert await house.taken(model) == (0, 0)

    assert await retries_of(house).sweep() == 2

    first, last = await house.state(head[0]), await house.state(tail[0])
    assert (first["state"], first["class"], first["retries"]) == (0, 0, 1)
    assert (last["state"], last["class"]) == (0, 1)
    assert last["position"] > tail[0]
    assert (await house.state(later.id))["state"] == 3
    assert await house.members(model) == set(await house.public([*head, *tail]))
    assert f"{model.lane} 0 0 {head[0]}" in house.hinted
    assert await retries_of(house).sweep() == 0


async def test_a_retry_that_grew_too_old_for_the_tail_goes_to_the_head(house: House) -> None:
    model = await house.model(max_concurrency=10, retry_queue_max_seconds=60)
    young, old = await failed(house, model, 2, head=False)
    await house.sql("UPDATE task SET created_at = now() - interval '61 s' WHERE id = $1", old)
    (fresh,) = await house.tasks(model)
    assert await retries_of(house).sweep() == 2
    tail, head = await house.state(young), await house.state(old)
    assert (head["class"], head["position"]) == (0, old)
    assert tail["class"] == 1
    assert tail["position"] > fresh, "behind what came while it waited for its slot"


async def test_a_full_gate_puts_retries_off_spread_and_others_go_on(house: House) -> None:
    model, free = await house.model(queue_limit=3, max_concurrency=20), await house.model(max_concurrency=20)
    waiting, others = await failed(house, model, 8), await failed(house, free, 2)
    await house.gate.take_many([SlotRequest(model.lane, "somebody", 3, SLOT_MS)])
    assert await retries_of(house).sweep() == 4
    assert (await house.gate.depths([model.lane]))[0] == 3
    assert {(await house.state(id_))["state"] for id_ in others} == {0}
    rows = await house.sql(
        "SELECT extract(epoch FROM due_at - now())::float8 AS seconds FROM dispatch WHERE state = 3 AND id = ANY ($1)",
        waiting,
    )
    pauses = sorted(row["seconds"] for row in rows)
    assert len(pauses) == 6
    assert pauses[0] > 1
    assert pauses[-1] < 10.5
    assert pauses[-1] - pauses[0] > 1
    assert await retries_of(house).sweep() == 0  # nothing is due: no slot was asked for


async def test_more_refusals_are_spread_further() -> None:
    retries = Retries(None, None, None, None, Random(1))  # type: ignore[arg-type]
    assert max(retries._pause(10) for _ in range(200)) < 10
    assert max(retries._pause(5_000) for _ in range(200)) > 40
    assert max(retries._pause(10**9) for _ in range(200)) < 303


async def test_redis_away_puts_nothing_off(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(_: object) -> None:
        raise GateUnavailable("away")

    model = await house.model()
    (task,) = await failed(house, model, 1)
    before = await house.state(task)
    with monkeypatch.context() as patch:
        patch.setattr(house.gate, "take_many", away)
        assert await retries_of(house).sweep() == 0
    assert await house.state(task) == before
    assert await retries_of(house).sweep() == 1


async def test_a_lane_that_redis_cannot_answer_for_holds_up_nobody_elses_retries(house: House) -> None:
    broken, other = await house.model(max_concurrency=20), await house.model(max_concurrency=20)
    stuck, others = await failed(house, broken, 3), await failed(house, other, 3)
    await house.sql("UPDATE dispatch SET due_at = now() - interval '1 hour' WHERE id = ANY ($1)", stuck)
    members = [(broken.lane, member) for member in await house.public(stuck)]
    await house.redis.command_many([("SET", keys.gate(broken.lane), "a string")])
    await house.returns.give(slots=members)
    retries = retries_of(house)
    assert await retries.sweep() == 3
    assert {(await house.state(id_))["state"] for id_ in others} == {0}
    assert await house.sweeps.due_retries(10) == []
    await house.redis.command_many([("DEL", keys.gate(broken.lane))])
    await house.make_overdue(stuck)
    assert await retries.sweep() == 3
    assert await house.members(broken) == {member for _, member in members}


async def test_a_slot_that_waits_to_go_back_is_not_mistaken_for_the_retrys_own(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: object) -> None:
        raise GateUnavailable("away")

    model = await house.model()
    (task,) = await failed(house, model, 1)
    (member,) = await house.public([task])
    await house.gate.take_many([SlotRequest(model.lane, member, 9, SLOT_MS)])
    with monkeypatch.context() as patch:
        patch.setattr(house.gate, "release_many", away)
        await house.returns.give(slots=[(model.lane, member)])
        assert await retries_of(house).sweep() == 0
    assert await retries_of(house).sweep() == 1
    assert await house.members(model) == {member}


async def test_a_cancel_between_slot_and_queue_frees_the_slot(house: House) -> None:
    model = await house.model()
    (task,) = await failed(house, model, 1)
    due = await house.sweeps.due_retries(10)

    async def canceled_meanwhile(limit: int) -> list[object]:
        await house.sql("DELETE FROM dispatch WHERE id = $1", task)
        return due

    retries = retries_of(house)
    retries._sweeps = type("Late", (), {"due_retries": staticmethod(canceled_meanwhile)})()
    for name in ("requeue", "absent_slots", "put_off"):
        setattr(retries._sweeps, name, getattr(house.sweeps, name))
    assert await retries.sweep() == 0
    assert await house.taken(model) == (0, 0)


async def test_the_loser_of_two_janitors_does_not_free_the_winners_slot(house: House, redis_url: str) -> None:
    model = await house.model()
    tasks = await failed(house, model, 3)
    async with open_house(house.database_url, redis_url) as other:
        due = await house.sweeps.due_retries(10)
        loser = retries_of(house)
        # takes the slots first, and loses the rows: the other janitor finds the slots held and goes on
        await house.gate.take_many([SlotRequest(r.lane, str(r.public_id), r.queue_limit, SLOT_MS) for r in due])
        assert await retries_of(other).sweep() == 3
        back = await house.sweeps.requeue(due)
        assert back == []
        await loser._give_back(due)
    assert await house.members(model) == set(await house.public(tasks))


@pytest.mark.parametrize("seed", range(3))
async def test_never_over_the_limit_with_two_janitors_and_callers(house: House, redis_url: str, seed: int) -> None:
    """Whatever the order: the gate is never over its limit, and afterwards slots = open tasks that own one."""
    rng = Random(seed)
    model = await house.model(queue_limit=5, max_concurrency=50)
    tasks = await failed(house, model, 12)
    most = 0
    async with open_house(house.database_url, redis_url) as other:
        sweeps = [retries_of(house), retries_of(other)]

        async def sweep() -> None:
            await rng.choice(sweeps).sweep()

        async def look_again() -> None:
            await house.sql("UPDATE dispatch SET due_at = now() WHERE state = 3")

        async def call_and_fail() -> None:
            rows = await house.lease(model, rng.randint(1, 3))
            for attempt in await house.start(model, await house.executor(), rows):
                await (house.finish(attempt) if rng.random() < 0.5 else house.fail(attempt))

        async def caller() -> None:
            await other.gate.take_many([SlotRequest(model.lane, f"new-{rng.random()}", 5, 50)])

        for _ in range(25):
            steps = [rng.choice([sweep, sweep, look_again, call_and_fail, caller])() for _ in range(rng.randint(1, 3))]
            await asyncio.gather(*steps)
            most = max(most, (await house.gate.depths([model.lane]))[0])
    assert most == 5
    owners = await house.sql("SELECT public_id FROM dispatch WHERE state <> 3")
    left = {member for member in await house.members(model) if not member.startswith("new-")}
    assert left == {str(row["public_id"]) for row in owners}
    assert set(await house.public(tasks)) >= left


async def test_dying_before_each_step_of_a_retry_loses_nothing(house: House) -> None:
    model = await house.model(queue_limit=1)
    tasks = await failed(house, model, 2)
    for name in ("janitor/before-requeue", "janitor/before-put-off"):
        failpoints.arm(f"{name}:1:raise")
        with pytest.raises(FailpointRaised):
            await retries_of(house).sweep()
        failpoints.arm("")
    await retries_of(house).sweep()
    assert sorted([(await house.state(task))["state"] for task in tasks]) == [0, 3]
    assert await house.taken(model) == (1, 0)


async def test_what_is_due_becomes_ready_and_a_draft_begins_to_wait(house: House) -> None:
    model = await house.model()
    draft, refused, later = await house.tasks(model, 3)
    await house.sql("UPDATE task SET created_at = now() - interval '9 days'")
    await house.sql("UPDATE dispatch SET entered_at = now() - interval '9 days'")
    await house.sql("UPDATE dispatch SET state = 2, due_at = now() + interval '1 h'")
    await house.sql("UPDATE dispatch SET sends = 1, leased_at = now() WHERE id = $1", refused)
    await house.make_overdue([draft, refused])
    promote = Promote(house.sweeps, house.wake)
    failpoints.arm("janitor/before-promote:1:raise")
    with pytest.raises(FailpointRaised):
        await promote.sweep()
    assert await promote.sweep() == 2
    assert await promote.sweep() == 0
    waited = "SELECT extract(epoch FROM now() - entered_at)::float8 FROM dispatch WHERE id = $1"
    assert await house.value(waited, draft) < 60
    assert await house.value(waited, refused) > 86_400
    assert (await house.state(later))["state"] == 2
    assert f"{model.lane} 1 0 {draft}" in house.hinted


async def test_pages_of_due_rows_follow_each_other(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.janitor.sweeps.promote._PAGE", 2)
    model = await house.model()
    tasks = await house.tasks(model, 5)
    await house.sql("UPDATE dispatch SET state = 2, due_at = now()")
    assert await Promote(house.sweeps, house.wake).sweep() == 5
    assert {(await house.state(task))["state"] for task in tasks} == {0}


async def test_rows_of_a_dispatcher_that_died_are_due_again(house: House) -> None:
    model = await house.model()
    await house.tasks(model, 3)
    rows = await house.lease(model, acknowledged=False)
    (started,) = await house.start(model, await house.executor(), rows[:1])
    republish = Republish(house.sweeps, house.wake, BeatWatch(), house.clock)
    assert await republish.heal_leases() == 0
    await house.sql("UPDATE lease SET taken_at = now() - interval '16 s'")
    failpoints.arm("janitor/before-heal:1:raise")
    with pytest.raises(FailpointRaised):
        await republish.heal_leases()
    assert await republish.heal_leases() == 2
    assert await republish.heal_leases() == 0
    assert (await house.state(started.id))["state"] == 1
    assert await house.value("SELECT count(*) FROM history WHERE kind = 'heal'") == 2
    assert await house.value("SELECT count(*) FROM lease") == 0


async def test_what_nobody_picked_up_is_published_again_once_somebody_reads(house: House) -> None:
    model, reader = await house.model(), await house.executor()
    await house.tasks(model, 3)
    rows = await house.lease(model)
    await house.hold(reader, rows[:1])
    await house.sql("UPDATE dispatch SET leased_at = now() - interval '31 s'")
    watch = BeatWatch()
    rescue = Rescue(house.sweeps, house.returns, house.wake, watch, house.clock)
    republish = Republish(house.sweeps, house.wake, watch, house.clock)
    for _ in range(30):
        assert await republish.republish_lost() == 0  # nobody has read long enough
        await house.beat(reader)
        await rescue.look()
        house.clock.now += 1.0
    failpoints.arm("janitor/before-republish:1:raise")
    with pytest.raises(FailpointRaised):
        await republish.republish_lost()
    assert await republish.republish_lost() == 2
    assert await republish.republish_lost() == 0
    (again, *_) = await house.lease(model)
    assert again.lease > rows[0].lease
    assert (await house.state(rows[0].id))["held_by"] == reader
