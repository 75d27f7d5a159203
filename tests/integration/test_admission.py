"""Permits, held rows and slots, on real stores."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from libs.common.adapters.postgres.attempts import PostgresAttempts
from libs.common.adapters.postgres.models import PostgresModels
from libs.common.adapters.redis import keys
from libs.common.domain.errors import DatabaseUnavailable, GateUnavailable, Unavailable
from libs.common.domain.model import Model
from libs.common.domain.task import Phase, TaskStatus
from libs.common.ports import PermitRequest
from libs.common.ports_attempts import Attempt, Claim
from libs.common.runtime import failpoints, metrics
from services.executor import uploads
from services.executor.admission import desk, waiting_room
from services.executor.admission.rotation import Arrival
from tests.support.executor_rig import Rig, Running, Through, answer_lost, until
from tests.support.locks import kept_by


def held(running: Running) -> int:
    return len(running.executor.desk.room)


async def test_never_more_calls_than_permits_and_the_others_are_held(rig: Rig) -> None:
    model = await rig.make_model(max_concurrency=2)
    running = await rig.executor()
    rig.model.held = asyncio.Event()
    ids = await rig.make_tasks(model, 6)
    await rig.dispatch(model)
    await until(lambda: rig.model.running == 2 and held(running) == 2, "two run, two wait")
    rows = await rig.sql("SELECT held_by FROM dispatch WHERE held_by IS NOT NULL")
    assert [row["held_by"] for row in rows] == [running.number] * 2
    rig.model.held.set()
    await rig.ended(ids[:4])  # not before: what runs or waits leaves no room for the last two
    await rig.dispatch(model)
    await rig.ended(ids)
    assert rig.model.most == 2
    assert len(rig.model.calls) == 6
    assert held(running) == 0
    await rig.nothing_taken(model)


async def test_the_wait_that_is_measured_begins_in_the_queue_and_not_on_the_road(rig: Rig) -> None:
    model = await rig.make_model()
    await rig.executor()
    ids = await rig.make_tasks(model)
    await rig.sql("UPDATE dispatch SET entered_at = now() - interval '1 h' WHERE id = $1", ids[0])
    await rig.dispatch(model)
    await rig.ended(ids)
    (told,) = (
        line for line in metrics.exposition().decode().splitlines()
        if line.startswith(f'sluiceway_task_wait_seconds_sum{{model="{model.id}"}}')
    )  # fmt: skip
    assert 3_600 <= float(told.rpartition(" ")[2]) < 3_700


async def test_rows_that_are_about_to_be_held_delay_no_other_lane_and_are_not_overtaken(rig: Rig) -> None:
    crowded, other = await rig.make_model(max_concurrency=1), await rig.make_model()
    door, waiting = asyncio.Event(), 0

    def slow(real: Any) -> Through:
        async def hold_many(rows: Any) -> Any:
            nonlocal waiting
            waiting += 1
            await door.wait()
            return await real.hold_many(rows)

        return Through(real, hold_many=hold_many)

    running = await rig.executor(attempts=slow)
    rig.model.held = asyncio.Event()
    ids = [await one_task(rig, crowded, number) for number in range(2)]
    await until(lambda: rig.model.running == 1 and waiting == 1, "one runs, one is about to be held")
    ids += await rig.make_tasks(other)
    await rig.dispatch(other)
    await until(lambda: rig.model.running == 2, "the other lane's task runs")
    rig.model.held.set()
    await rig.ended([ids[0], ids[2]])
    ids.append(await one_task(rig, crowded, 2))  # a permit is free: it could begin at once
    await asyncio.sleep(0.3)
    assert len(rig.model.calls) == 2
    door.set()
    await rig.ended(ids)
    assert [call for call in rig.model.calls if b"number" in call] == [b'{"number":%d}' % number for number in range(3)]
    assert held(running) == 0
    await rig.nothing_taken(crowded)


async def one_task(rig: Rig, model: Model, number: int) -> int:
    """A task that was dispatched."""
    (task,) = await rig.make_tasks(model, payload=b'{"number":%d}' % number)
    await rig.dispatch(model)
    return task


async def test_a_permit_that_goes_back_wakes_another_executor(rig: Rig) -> None:
    model = await rig.make_model(max_concurrency=1)
    first = await rig.executor()
    rig.model.held = asyncio.Event()
    await rig.make_tasks(model)
    await rig.dispatch(model)
    await until(lambda: rig.model.running == 1, "one runs")
    second = await rig.executor(stores=("another",))
    both = {first.number, second.number}
    await until(lambda: first.executor._ownership.view.readers() == both, "they see each other")
    # Whoever does not run it shall hold the next one.
    first.staging.full = True
    await until(lambda: second.executor._ownership.view.readers() == {second.number}, "the second one reads alone")
    more = await rig.make_tasks(model)
    await rig.dispatch(model)
    await until(lambda: held(second) == 1, "the second one waits")
    rig.model.held.set()
    await rig.ended(more, seconds=2)


async def test_a_task_that_begins_late_in_its_slots_life_keeps_its_slot(rig: Rig) -> None:
    model = await rig.make_model()
    await rig.executor()
    rig.model.held = asyncio.Event()
    (task,) = await rig.make_tasks(model)
    await rig.take_slots(model, [task])
    ((member,),) = await rig.sql("SELECT public_id::text FROM task WHERE id = $1", task)
    gate = keys.gate(model.lane)
    soon = int(time.time() * 1_000) + 1_200_000  # twenty minutes are less than half of a slot's hour
    await rig.redis.command_many([("ZADD", gate, "XX", soon, member)])
    await rig.sql("UPDATE task SET created_at = now() - interval '40 minutes' WHERE id = $1", task)
    await rig.dispatch(model)
    await until(lambda: rig.model.running == 1, "it runs")

    async def prolonged() -> bool:
        (ends,) = await rig.redis.command_many([("ZSCORE", gate, member)])
        return float(ends) > soon

    await until(prolonged, "the slot lives another hour, although no janitor is there")
    rig.model.held.set()
    await rig.ended([task])
    await rig.nothing_taken(model)


async def test_a_change_of_a_model_holds_for_what_waits_already(rig: Rig) -> None:
    model = await rig.make_model(max_concurrency=1, route="old")
    running = await rig.executor()
    rig.model.held = asyncio.Event()
    ids = await rig.make_tasks(model, 3)
    await rig.dispatch(model)
    await until(lambda: rig.model.running == 1 and held(running) == 2, "one runs, two wait")
    # No hint: an executor that misses it looks for changes by itself.
    assert await PostgresModels(rig.database).update(model, "", {"max_concurrency": 3, "route": "new"})
    await until(lambda: rig.model.running == 3, "as many run as may run now")
    assert rig.model.routes == ["old", "new", "new"]
    rig.model.held.set()
    await rig.ended(ids)


async def test_nothing_of_a_deleted_model_begins_and_what_runs_goes_on(rig: Rig) -> None:
    model = await rig.make_model(max_concurrency=1)
    running = await rig.executor()
    rig.model.held = asyncio.Event()
    ids = await rig.make_tasks(model, 3)
    await rig.dispatch(model)
    await until(lambda: rig.model.running == 1 and held(running) == 2, "one runs, two wait")
    late = await rig.make_tasks(model, 1)
    on_the_road = await rig.lease(model)
    assert await PostgresModels(rig.database).delete(model.tenant_id, model.id, "")
    newest = running.executor.desk._newest
    await until(lambda: (known := newest(model.id)) is not None and known.deleted, "the executor knows it")
    await rig.send(model, on_the_road)

    async def back() -> int:
        (row,) = await rig.sql("SELECT count(*) FROM dispatch WHERE state = 0 AND lane = $1", model.lane)
        return int(row["count"])

    async def given_back() -> bool:
        return held(running) == 0 and await back() == len(ids) + len(late) - 1

    await until(given_back, "what waited goes back, for the janitor to end")
    rig.model.held.set()
    await rig.ended(ids[:1])
    assert len(rig.model.calls) == 1


async def test_while_redis_is_away_rows_are_held_and_nothing_is_called(rig: Rig) -> None:
    model = await rig.make_model()
    away = True

    def change(real: Any) -> Through:
        async def acquire_many(requests: Sequence[PermitRequest]) -> list[bool]:
            if away:
                raise GateUnavailable("away")
            granted: list[bool] = await real.acquire_many(requests)
            return granted

        return Through(real, acquire_many=acquire_many)

    running = await rig.executor(permits=change)
    ids = await rig.make_tasks(model, 3)
    await rig.dispatch(model)
    await until(lambda: held(running) == 3, "all are held")
    assert rig.model.calls == []
    assert f'sluiceway_permit_refusals_total{{model="{model.id}"}}' not in metrics.exposition().decode()
    away = False
    await rig.ended(ids, seconds=3)


async def test_a_lane_that_redis_cannot_answer_for_holds_up_no_other(rig: Rig) -> None:
    broken, other = await rig.make_model(), await rig.make_model()
    running = await rig.executor()
    await rig.redis.command_many([("SET", keys.permits(broken.lane), "a string")])
    stuck, ids = await rig.make_tasks(broken, 2), await rig.make_tasks(other, 2)
    rows = [(row, model) for model in (broken, other) for row in await rig.lease(model)]
    await running.executor.desk.settle([Arrival(row.id, row.lease, 10, Phase.NONE, model) for row, model in rows])
    await rig.ended(ids, seconds=2)
    assert held(running) == 2
    await rig.redis.command_many([("DEL", keys.permits(broken.lane))])
    await rig.ended(stuck)


async def test_an_older_copy_of_what_is_held_takes_nobodys_place(rig: Rig) -> None:
    model = await rig.make_model(max_concurrency=1)
    running = await rig.executor()
    rig.model.held = asyncio.Event()
    ids = await rig.make_tasks(model, 2)
    rows = [Arrival(row.id, row.lease, 10, Phase.NONE, model) for row in await rig.lease(model)]
    await running.executor.desk.settle(rows[:1])
    # Of a topic that has grown meanwhile, so that the older one lies in another partition.
    older = Arrival(ids[1], rows[1].lease - 1, 10, Phase.NONE, model)
    await running.executor.desk.settle([rows[1], older])
    assert running.executor.desk.room.lease_of(ids[1]) == rows[1].lease
    rig.model.held.set()
    await rig.ended(ids)


async def test_a_lost_answer_to_a_hold_strands_nothing(rig: Rig) -> None:
    model = await rig.make_model(max_concurrency=1)
    running = await rig.executor(attempts=answer_lost("hold_many"))
    rig.model.held = asyncio.Event()
    ids = await rig.make_tasks(model, 3)
    await rig.dispatch(model)
    await until(lambda: held(running) == 2, "two are held")
    rig.model.held.set()
    await rig.ended(ids)


async def test_two_owners_of_one_partition_run_each_task_once(rig: Rig) -> None:
    model = await rig.make_model(max_concurrency=3)
    first, second = await rig.executor(), await rig.executor()
    for running in (first, second):
        ownership = running.executor._ownership
        ownership.mine = lambda *_: True  # type: ignore[method-assign]
        running.executor.steward.look()
    rig.model.held = asyncio.Event()
    ids = await rig.make_tasks(model, 6)
    await rig.dispatch(model)
    await until(lambda: rig.model.running == 3, "three run")
    # The losers of the start gave back their own permits only.
    await until(lambda: held(first) + held(second) == 3, "three wait")
    assert (await rig.taken(model))[1] == 3
    rig.model.held.set()
    await rig.ended(ids)
    assert len(rig.model.calls) == 6
    assert rig.model.most == 3
    await rig.nothing_taken(model)


async def test_a_full_executor_leaves_its_work_to_others(rig: Rig) -> None:
    model = await rig.make_model(max_concurrency=10)
    told: list[tuple[int, int]] = []
    first = await rig.executor(slots=2, hints=lambda hints: Through(hints, changed=told.extend))
    rig.model.held = asyncio.Event()
    ids = await rig.make_tasks(model, 5)
    await rig.dispatch(model)
    await until(lambda: rig.model.running == 2 and held(first) == 3, "two run, three wait for slots")
    told.clear()
    # Alone it reads on, so that its tenants take turns; with somebody there who has room it lets go.
    await until(first.executor.desk.crowded, "they wait for long")
    first.executor._take_posture()
    assert first.executor.posture() == "reading"
    assert held(first) == 3
    await rig.executor(slots=10)
    await until(lambda: first.executor.posture() != "reading", "it leaves the hash")
    assert first.executor.steward._reading, "it reads on until the other one has taken over"

    async def ready() -> bool:
        return len(await rig.sql("SELECT 1 FROM dispatch WHERE state = 0")) == 3

    await until(ready, "they are given back", 6)
    waiting = await rig.sql("SELECT id FROM dispatch WHERE state = 0")
    await until(lambda: set(told) == {(model.tenant_id, row["id"]) for row in waiting}, "listeners hear of it")
    await rig.dispatch(model)
    await until(lambda: rig.model.running == 5, "the other one runs them")
    rig.model.held.set()
    await rig.ended(ids)
    await until(lambda: first.executor.posture() == "reading", "it reads again")


async def test_freed_slots_go_to_tenants_in_turn(rig: Rig) -> None:
    flood = await rig.make_model(max_concurrency=60)
    quiet = await rig.make_model(max_concurrency=60)
    running = await rig.executor(slots=1)
    rig.model.held = asyncio.Event()
    many = await rig.make_tasks(flood, 12, b'"flood"')
    await rig.dispatch(flood)
    await until(lambda: held(running) == 11, "one runs, the others wait")
    few = await rig.make_tasks(quiet, 1, b'"quiet"')
    await rig.dispatch(quiet)
    await until(lambda: held(running) == 12, "the other tenant waits, too")
    rig.model.held.set()
    await rig.ended([*many, *few])
    assert rig.model.calls.index(b'"quiet"') <= 2


async def test_another_tenant_finds_a_slot_however_much_one_has_to_run(rig: Rig) -> None:
    flood = await rig.make_model(max_concurrency=60)
    quiet = await rig.make_model(max_concurrency=60)
    running = await rig.executor(slots=40)
    rig.model.held = asyncio.Event()
    many = await rig.make_tasks(flood, 60, b'"flood"')
    await rig.dispatch(flood)
    await until(lambda: rig.model.running == 38 and held(running) == 22, "the flood runs as far as it may")
    few = await rig.make_tasks(quiet, 2, b'"quiet"')
    await rig.dispatch(quiet)
    await until(lambda: rig.model.calls.count(b'"quiet"') == 2, "the other tenant's run while nothing ends")
    rig.model.held.set()
    await rig.ended([*many, *few])
    assert rig.model.most == 40
    assert running.executor._slots.used == 0
    await rig.nothing_taken(flood)


async def test_what_is_late_because_of_stale_messages_begins_when_their_slots_are_free(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_room, "SHORTEST_POLL_SECONDS", 3_600.0)  # nobody looks who is not told to
    model = await rig.make_model()
    running = await rig.executor(slots=2)
    running.executor._ownership.mine = lambda *_: False  # type: ignore[method-assign]
    (task,) = await rig.make_tasks(model, 1)
    await rig.dispatch(model)
    (row,) = await rig.sql("SELECT id, lease FROM dispatch")
    # Uploads, which give back no permit that would wake their lane.
    stale = [Arrival(10**15 + n, row["lease"], 10, Phase.GENERATED, model) for n in range(2)]
    await running.executor.desk.settle([*stale, Arrival(row["id"], row["lease"], 10, Phase.NONE, model)])
    await rig.ended([task])
    assert running.executor._slots.used == 0


async def test_who_waits_for_a_permit_is_not_woken_by_the_slot_that_it_gave_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_room, "SHORTEST_POLL_SECONDS", 3_600.0)
    model = await rig.make_model(max_concurrency=2)
    running = await rig.executor(slots=3)
    desk, asked = running.executor.desk, 0
    permits = desk._permits

    async def counted(requests: Sequence[PermitRequest]) -> Any:
        nonlocal asked
        asked += 1
        return await permits.acquire_many(requests)

    rig.model.held = asyncio.Event()
    ids = await rig.make_tasks(model, 4)
    await rig.dispatch(model)
    await until(lambda: rig.model.running == 2 and held(running) == 2, "two run, two wait")
    desk._permits = Through(permits, acquire_many=counted)
    desk.look_at_all()  # one slot is free: the first of the two asks for a permit, the second is late
    await until(lambda: asked, "a permit is asked for")
    await asyncio.sleep(0.2)
    assert asked == 1
    rig.model.held.set()
    await rig.ended(ids)


async def test_who_takes_a_partition_over_asks_no_permits_for_what_was_done(rig: Rig) -> None:
    model = await rig.make_model(max_concurrency=30)
    first = await rig.executor()
    done = await rig.make_tasks(model, 20)
    await rig.dispatch(model)
    await rig.ended(done)
    await asyncio.sleep(1.1)  # the age from which on records are doubted
    first.executor._ownership.mine = lambda *_: False  # type: ignore[method-assign]

    asked: list[str] = []

    def counted(real: Any) -> Through:
        async def acquire_many(requests: Sequence[PermitRequest]) -> Any:
            asked.extend(request.token for request in requests)
            return await real.acquire_many(requests)

        return Through(real, acquire_many=acquire_many)

    second = await rig.executor(permits=counted)
    second.executor._ownership.mine = lambda *_: True  # type: ignore[method-assign]
    await until(lambda: not list(first.executor.steward._places.assigned()), "the first one lets go")
    ids = await rig.make_tasks(model, 3)
    await rig.dispatch(model)
    await rig.ended(ids)
    (place,) = second.executor.steward._places.assigned()
    assert place.settled > 20, "it read what the first one had done"
    assert len(asked) == 3
    await rig.nothing_taken(model)


@pytest.mark.parametrize("hours", [2, -2])
async def test_a_wrong_clock_makes_no_message_look_older_or_younger(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + hours * 3_600)
    model = await rig.make_model()
    running = await rig.executor()
    began = await rig.sql("SELECT extract(epoch FROM now()) * 1000 AS ms")
    ids = await rig.make_tasks(model, 1)
    await rig.dispatch(model)
    await rig.ended(ids)
    (place,) = running.executor.steward._places.assigned()
    assert -60_000 < place.doubtful_ms - int(began[0]["ms"]) < 60_000


async def test_a_doubtful_message_that_nobody_has_is_started_in_its_turn(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_room, "SHORTEST_POLL_SECONDS", 3_600.0)
    model = await rig.make_model(max_concurrency=3)
    running = await rig.executor()
    running.executor._ownership.mine = lambda *_: False  # type: ignore[method-assign]
    ids = await rig.make_tasks(model, 3)
    await rig.dispatch(model)
    rows = await rig.sql("SELECT id, lease FROM dispatch ORDER BY id")
    doubted = (True, False, True)
    await running.executor.desk.settle(
        [
            Arrival(row["id"], row["lease"], 10, Phase.NONE, model, doubtful)
            for row, doubtful in zip(rows, doubted, strict=True)
        ]
    )
    await rig.ended(ids)
    started = await rig.sql("SELECT task_id FROM attempt ORDER BY started_at, task_id")
    assert [row["task_id"] for row in started] == ids


async def test_what_is_kept_for_others_is_no_room_to_leave_work_to(rig: Rig) -> None:
    model = await rig.make_model(partitions=2, max_concurrency=200)
    both = [await rig.executor(slots=40), await rig.executor(slots=40)]
    for number, running in enumerate(both):
        running.executor._ownership.mine = (  # type: ignore[method-assign]
            lambda _, partition, number=number: partition == number
        )
        running.executor.steward.look()
    rig.model.held = asyncio.Event()
    ids = await rig.make_tasks(model, 120)
    await rig.dispatch(model)
    await until(lambda: rig.model.running == 76, "both run what one tenant may have")
    await until(lambda: all(running.executor.desk.crowded() for running in both), "both hold for long")
    for running in both:
        running.executor._take_posture()
        assert running.executor.posture() == "reading"
    assert held(both[0]) + held(both[1]) == 44
    rig.model.held.set()
    await rig.ended(ids)


async def test_what_waits_for_a_permit_stays_where_others_wait_for_slots(rig: Rig) -> None:
    narrow = await rig.make_model(max_concurrency=1)
    flood = await rig.make_model(max_concurrency=60)
    first = await rig.executor(slots=40)
    rig.model.held = asyncio.Event()
    ids = await rig.make_tasks(narrow, 2, b'"narrow"')
    await rig.dispatch(narrow)
    await until(lambda: rig.model.running == 1 and held(first) == 1, "one waits for a permit")
    ids += await rig.make_tasks(flood, 60)
    await rig.dispatch(flood)
    await until(lambda: rig.model.running == 39 and held(first) == 23, "others wait for slots")
    await rig.executor(slots=80)
    await until(lambda: held(first) == 1, "what waits for a slot goes to who has room")
    rows = await rig.sql("SELECT lane FROM dispatch WHERE held_by = $1", first.number)
    assert [row["lane"] for row in rows] == [narrow.lane]
    await rig.dispatch(flood)
    rig.model.held.set()
    await rig.ended(ids)


async def test_large_payloads_are_started_in_slices(rig: Rig) -> None:
    model = await rig.make_model(max_concurrency=40)
    sizes: list[int] = []

    def change(real: Any) -> Through:
        async def start_many(claims: Sequence[Any]) -> Any:
            started = await real.start_many(claims)
            sizes.append(sum(len(attempt.payload) for attempt in started))
            return started

        return Through(real, start_many=start_many)

    await rig.executor(attempts=change)
    ids = await rig.make_tasks(model, 20, b'"' + b"x" * 1_000_000 + b'"')
    await rig.dispatch(model)
    await rig.ended(ids, seconds=20)
    assert max(sizes) <= 8 * 2**20
    assert len(sizes) >= 3


@pytest.mark.parametrize("error", [DatabaseUnavailable("refused"), RuntimeError("a surprise")])
async def test_one_start_of_several_that_fails_strands_nothing(rig: Rig, error: Exception) -> None:
    model = await rig.make_model(max_concurrency=40)
    asked, first = 0, asyncio.Event()

    def change(real: Any) -> Through:
        async def start_many(claims: Sequence[Any]) -> Any:
            nonlocal asked
            asked += 1
            if asked == 2:
                await first.wait()
                raise error
            started = await real.start_many(claims)
            first.set()
            return started

        return Through(real, start_many=start_many)

    running = await rig.executor(attempts=change)
    ids = await rig.make_tasks(model, 12, b'"' + b"x" * 1_000_000 + b'"')

    async def over() -> bool:
        await rig.dispatch(model)
        return set((await rig.statuses(ids)).values()) == {TaskStatus.SUCCESS}

    await until(over, "all end", 20)
    assert asked >= 3
    assert len(rig.model.calls) == 12
    [counted] = await rig.sql("SELECT sum(calls) AS calls FROM stat_delta")
    assert counted["calls"] == 12
    assert running.executor._slots.used == 0
    await rig.nothing_taken(model)


@pytest.mark.parametrize(
    ("point", "action"),
    [
        ("before-permit", "raise"),
        ("before-claim", "raise"),
        ("after-claim", "raise"),
        ("before-hold", "raise"),
        ("before-claim", "cancel"),
        ("after-claim", "cancel"),
    ],
)
async def test_a_surprise_at_the_desk_loses_nothing(rig: Rig, point: str, action: str) -> None:
    model = await rig.make_model(max_concurrency=1)
    running = await rig.executor()
    failpoints.arm(f"executor/{point}:1:{action}")
    ids = await rig.make_tasks(model, 3)

    async def over() -> bool:
        await rig.dispatch(model)
        return set((await rig.statuses(ids)).values()) == {TaskStatus.SUCCESS}

    if action == "cancel":
        # A loop that is cancelled from within ends the process, in good order; another one goes on.
        await rig.dispatch(model)
        with pytest.raises(RuntimeError):
            await asyncio.wait_for(running.pending, 10)
        await rig.executor()
    await until(over, "all end", 12)
    assert len(rig.model.calls) == 3
    assert running.executor._slots.used == 0
    await rig.nothing_taken(model)


async def test_a_start_that_was_answered_after_its_permit_lapsed_is_none(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL was away for longer than the permit lives: somebody else has it by now."""
    monkeypatch.setattr(desk, "CLAIM_SECONDS", 0.5)
    away, asked = True, 0

    def cut_off(real: PostgresAttempts) -> Through:
        async def start_many(claims: Sequence[Claim]) -> list[Attempt]:
            nonlocal asked
            asked += 1
            if away:
                raise Unavailable("away")
            return await real.start_many(claims)

        return Through(real, start_many=start_many)

    model = await rig.make_model(max_concurrency=1)
    await rig.executor(attempts=cut_off)
    tasks = await rig.make_tasks(model)
    await rig.dispatch(model)
    await until(lambda: asked > 3, "it has a permit, and cannot start")
    await rig.redis.command_many([("DEL", keys.permits(model.lane))])
    assert await rig.permits.acquire_many([PermitRequest(model.lane, "somebody else's", 1, 60_000)]) == [True]
    away = False

    async def given_back() -> bool:
        return bool(await rig.sql("SELECT 1 FROM history WHERE detail = 'not run'"))

    await until(given_back, "it is as if never started")
    assert rig.model.calls == []
    await rig.permits.release_many([(model.lane, "somebody else's")])
    await rig.dispatch(model)
    await rig.ended(tasks)
    assert [tuple(row) for row in await rig.sql("SELECT attempt FROM task")] == [(1,)]
    await rig.nothing_taken(model)


async def test_a_start_that_is_none_goes_back_also_if_that_is_not_answered_at_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "CLAIM_SECONDS", 0.0)
    refused = 0

    def flapping(real: PostgresAttempts) -> Through:
        async def release_many(rows: Any) -> Any:
            nonlocal refused
            refused += 1
            if refused <= 2:
                raise Unavailable("away again")
            return await real.release_many(rows)

        return Through(real, release_many=release_many)

    model = await rig.make_model(max_concurrency=1)
    await rig.executor(attempts=flapping)
    tasks = await rig.make_tasks(model)
    await rig.dispatch(model)

    async def given_back() -> bool:
        return bool(await rig.sql("SELECT 1 FROM history WHERE detail = 'not run'"))

    await until(given_back, "it is as if never started")
    monkeypatch.setattr(desk, "CLAIM_SECONDS", 30.0)
    await rig.dispatch(model)
    await rig.ended(tasks)
    assert [tuple(row) for row in await rig.sql("SELECT attempt, outcome FROM attempt")] == [(1, "success")]
    assert (await rig.sql("SELECT sum(calls)::int AS calls FROM stat_delta"))[0]["calls"] == 1
    await rig.nothing_taken(model)


async def test_a_start_that_cannot_go_back_holds_up_no_stop(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "CLAIM_SECONDS", 0.0)
    refused = 0

    def away(real: PostgresAttempts) -> Through:
        async def release_many(rows: Any) -> Any:
            nonlocal refused
            refused += 1
            raise Unavailable("away for good")

        return Through(real, release_many=release_many)

    model = await rig.make_model(max_concurrency=1)
    running = await rig.executor(attempts=away)
    await rig.make_tasks(model)
    await rig.dispatch(model)
    await until(lambda: refused > 2, "it is asked again")
    running.executor.stop()
    await asyncio.wait_for(running.pending, 8)


async def test_the_end_of_a_stale_claim_takes_no_newer_one_out_of_the_waiting_room(rig: Rig) -> None:
    """Its executor was taken for dead while it asked for a start, and holds the row again when it is answered."""
    asked, go_on = asyncio.Event(), asyncio.Event()

    def slow(real: PostgresAttempts) -> Through:
        async def start_many(claims: Sequence[Claim]) -> list[Attempt]:
            asked.set()
            await go_on.wait()
            return await real.start_many(claims)

        return Through(real, start_many=start_many)

    model = await rig.make_model(max_concurrency=1)
    running = await rig.executor(attempts=slow)
    others = [(model.lane, "somebody else's")]
    await rig.permits.acquire_many([PermitRequest(*others[0], 1, 60_000)])
    (task,) = await rig.make_tasks(model)
    await rig.dispatch(model)
    await until(lambda: held(running) == 1, "it waits for a permit")
    await rig.permits.release_many(others)
    await until(asked.is_set, "it is about to be started")
    await rig.sweeps.rescue([running.number], 3)
    (row,) = await rig.dispatch(model)
    await until(lambda: running.executor.desk.room.lease_of(task) == row.lease, "it waits here once more")
    go_on.set()
    await rig.ended([task])


async def test_a_lane_that_never_runs_dry_is_looked_at_for_ever(rig: Rig) -> None:
    """Every look grants all that waits, and one more comes meanwhile."""
    model = await rig.make_model(max_concurrency=100)
    feeding = True

    def busy(real: Any) -> Through:
        async def start_many(claims: Sequence[Claim]) -> list[Attempt]:
            await until(lambda: held(running) > len(claims) or not feeding, "another one waits")
            return list(await real.start_many(claims))

        return Through(real, start_many=start_many)

    running = await rig.executor(attempts=busy)
    full = [PermitRequest(model.lane, str(number), 100, 60_000) for number in range(100)]
    assert all(await rig.permits.acquire_many(full))
    ids = [await one_task(rig, model, 0)]
    await until(lambda: held(running) == 1, "it waits for a permit")
    await rig.permits.release_many([(model.lane, permit.token) for permit in full])
    for number in range(1, 80):
        ids.append(await one_task(rig, model, number))
        await asyncio.sleep(0.02)
    feeding = False
    await rig.ended(ids)


async def test_whose_rows_somebody_keeps_locked_keeps_no_slot_from_others(rig: Rig) -> None:
    model = await rig.make_model()
    await rig.executor(slots=1)
    rig.model.held = asyncio.Event()
    (stuck,) = await rig.make_tasks(model)
    await rig.dispatch(model)
    await until(lambda: rig.model.running, "the call")
    await _others_end_beside(rig, model, stuck, rig.model.held)


async def test_what_goes_back_unrun_does_not_wait_for_one_that_somebody_keeps_locked(rig: Rig) -> None:
    model = await rig.make_model()
    running = await rig.executor(stores=("another",))
    await rig.make_tasks(model, 3)
    attempts = PostgresAttempts(rig.database, running.number, "UTC")
    started = await attempts.start_many([Claim(row.id, row.lease, uuid4(), 60) for row in await rig.lease(model)])
    stuck, *others = sorted(one.id for one in started)
    async with kept_by(rig, f"dispatch SET version = version WHERE id = {stuck}"):
        await asyncio.wait_for(running.executor.desk._return(started), 10)
        rows = await rig.sql("SELECT task_id FROM history WHERE detail = 'not run' ORDER BY 1")
        assert [row["task_id"] for row in rows] == others
    assert {row.id for row in await attempts.named()} == {stuck}


@pytest.mark.parametrize(("step", "shown_after"), [("migrating_many", 0.0), ("finish_many", 60.0)])
async def test_nor_does_whose_output_is_staged_which_keeps_no_permit_either(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, step: str, shown_after: float
) -> None:
    monkeypatch.setattr(uploads, "SHOWN_AFTER_SECONDS", shown_after)
    writes, door = asyncio.Event(), asyncio.Event()

    def slow(real: Any) -> Through:
        async def write(rows: Any) -> Any:
            writes.set()
            await door.wait()
            return await getattr(real, step)(rows)

        return Through(real, **{step: write})

    model = await rig.make_model(max_concurrency=1)
    running = await rig.executor(slots=1, attempts=slow)
    running.results.seconds = 0.1
    (stuck,) = await rig.make_tasks(model)
    await rig.dispatch(model)
    await asyncio.wait_for(writes.wait(), 10)
    await _others_end_beside(rig, model, stuck, door)


async def _others_end_beside(rig: Rig, model: Model, stuck: int, door: asyncio.Event) -> None:
    """Somebody keeps the row of a task locked that goes on when the door opens: others end, and it does behind that."""
    somebody = await asyncpg.connect(rig.database_url)
    try:
        await somebody.execute(f"BEGIN; UPDATE dispatch SET version = version WHERE id = {stuck}")
        door.set()
        others = await rig.make_tasks(model, 2)
        await rig.dispatch(model)
        await rig.ended(others)
        assert (await rig.statuses([stuck]))[stuck] < 6
    finally:
        await somebody.close()
    await rig.ended([stuck])
