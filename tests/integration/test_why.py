"""`why`: each limit that can hold a task is named, with its value and its limit, and the one that binds comes first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from libs.common.adapters.postgres.insight import PostgresInsight
from libs.common.adapters.redis.connection import open_redis
from libs.common.adapters.redis.permits import RedisPermits
from libs.common.adapters.redis.queue_gate import RedisQueueGate
from libs.common.adapters.redis.rebuild import open_rebuilder
from libs.common.domain.errors import NotFound
from libs.common.embedded.ports import free_port
from libs.common.operations.sight import Sight
from libs.common.operations.why import Why
from libs.common.ports import PermitRequest
from libs.common.ports_insight import Hold, TaskWhy
from tests.support.house import House
from tests.support.sights import alive, controls_of, documented_codes, sight_of, why_model, why_task


def codes(said: TaskWhy) -> list[str]:
    assert {hold.code for hold in said.holds} <= documented_codes()
    return [hold.code for hold in said.holds]


def hold(said: TaskWhy, code: str) -> Hold:
    return next(hold for hold in said.holds if hold.code == code)


async def test_a_task_behind_a_full_window_knows_the_limit_its_place_and_when_it_may_start(house: House) -> None:
    model, executor = await house.model(max_concurrency=2), await house.executor()
    await alive(house)
    await house.sql("UPDATE tenant SET weight = 3 WHERE id = $1", model.tenant_id)
    tasks = [*await house.tasks(model, 11), *await house.tasks(model, priority=5)]
    rows = await house.lease(model)
    assert len(rows) == 4
    attempts = await house.start(model, executor, rows[:2])
    await house.hold(executor, rows[2:])
    said = await why_task(house, tasks[-1])
    assert codes(said) == ["window_full", "no_permit", "queue"]
    assert (hold(said, "window_full").value, hold(said, "window_full").limit) == (4, 4)
    assert (hold(said, "no_permit").value, hold(said, "no_permit").limit) == (2, 2)
    assert said.place is not None
    assert said.place.ahead == 7
    assert said.estimate is None, "nothing has ended yet, so nobody knows the lane's pace"
    assert "7 tasks" in hold(said, "queue").message
    assert "priority is 5" in hold(said, "queue").message
    assert (said.facts.priority, said.facts.weight) == (5, 3)
    for attempt in attempts:
        await house.finish(attempt)
    said = await why_task(house, tasks[-1])
    assert said.estimate is not None
    assert said.estimate.seconds > 0
    assert said.estimate.at > said.facts.now


async def test_a_task_that_is_held_waits_for_a_permit(house: House) -> None:
    model, executor = await house.model(max_concurrency=1), await house.executor()
    await alive(house)
    await house.tasks(model, 2)
    rows = await house.lease(model)
    await house.start(model, executor, rows[:1])
    await house.hold(executor, rows[1:])
    said = await why_task(house, rows[1].id)
    assert codes(said) == ["no_permit"]
    assert (said.holds[0].value, said.holds[0].limit) == (1, 1)
    running = await why_task(house, rows[0].id)
    assert (running.code, running.place) == ("running", None)


async def test_what_is_published_knows_how_many_go_before_it(house: House) -> None:
    model, executor = await house.model(max_concurrency=2), await house.executor()
    await alive(house)
    await house.tasks(model, 4)
    first = await house.lease(model)
    assert len(first) == 4
    (attempt,) = await house.start(model, executor, first[:1])
    await house.hold(executor, first[1:])
    assert [(await why_task(house, row.id)).place for row in first] == [None, (0, True), (1, True), (2, True)]
    await house.finish(attempt)
    await house.tasks(model)
    (later,) = await house.lease(model)
    said = await why_task(house, later.id)
    assert said.place == (3, True)
    assert said.estimate is not None
    assert said.estimate.seconds * said.estimate.starts_per_second == pytest.approx(3)


async def test_every_kind_of_pause_is_said_with_its_reason_and_gone_after_resuming(house: House) -> None:
    model, controls = await house.model(), controls_of(house)
    await alive(house)
    await house.executor()
    (task,) = await house.tasks(model)
    await controls.pause_all("op", "move of the broker")
    await controls.pause_tenant(model.tenant_id, "op", "unpaid")
    await controls.pause_model(model.tenant_id, model.name, "op", "wrong answers")
    said = await why_task(house, task)
    assert codes(said) == ["all_paused", "tenant_paused", "model_paused"], "no turn takes it"
    assert ["move of the broker" in said.holds[0].message, "unpaid" in said.holds[1].message] == [True, True]
    assert said.estimate is None
    assert await house.lease(model) == []
    await controls.resume_all("op")
    await controls.resume_tenant(model.tenant_id, "op")
    assert await house.lease(model) == []
    await controls.resume_model(model.tenant_id, model.name, "op")
    assert codes(await why_task(house, task)) == ["next_turn"]
    assert len(await house.lease(model)) == 1


async def test_who_is_missing_is_said(house: House) -> None:
    model = await house.model()
    (task,) = await house.tasks(model)
    assert codes(await why_task(house, task)) == ["no_dispatcher", "next_turn"]
    await alive(house, broker=False, error="connection refused")
    said = await why_task(house, task)
    assert said.code == "broker_unreachable"
    assert "connection refused" in said.message
    (row,) = await house.lease(model, acknowledged=False)
    assert codes(await why_task(house, task)) == ["broker_unreachable", "publishing"]
    await house.sql("DELETE FROM process")
    assert codes(await why_task(house, task)) == ["no_dispatcher", "publishing"], "who took it is gone"
    await alive(house)
    assert codes(await why_task(house, task)) == ["publishing"]
    await house.queue.close_leases([row.lease])
    assert codes(await why_task(house, task)) == ["no_executor", "on_the_road"]
    executor = await house.executor()
    assert codes(await why_task(house, task)) == ["on_the_road"]
    await house.sql("UPDATE executor SET posture = 'staging_full', reading = false WHERE id = $1", executor)
    assert codes(await why_task(house, task)) == ["staging_full", "on_the_road"]
    await house.sql("UPDATE executor SET posture = 'redis_unreachable' WHERE id = $1", executor)
    assert codes(await why_task(house, task)) == ["redis_unreachable", "on_the_road"]
    await house.sql("UPDATE executor SET posture = 'hangs' WHERE id = $1", executor)
    said = await why_task(house, task)
    assert codes(said) == ["no_executor", "on_the_road"]
    assert "broker" in said.message
    await house.sql("UPDATE executor SET posture = 'crowded', running = 100 WHERE id = $1", executor)
    said = await why_task(house, task)
    assert codes(said) == ["executors_full", "on_the_road"]
    assert (said.holds[0].value, said.holds[0].limit) == (100, 100)


async def test_an_executor_is_full_before_its_last_slot_is_taken(house: House) -> None:
    model, executor = await house.model(), await house.executor()
    await alive(house)
    (task,) = await house.tasks(model)
    await house.lease(model)
    await house.sql("UPDATE dispatch SET held_by = $2 WHERE id = $1", task, executor)
    assert codes(await why_task(house, task)) == ["next_turn"]
    assert (await why_model(house, model)).code == "flowing"
    await house.sql("UPDATE executor SET running = 95 WHERE id = $1", executor)  # of 100: the rest is kept for others
    assert codes(await why_task(house, task)) == ["executors_full"]
    assert (await why_model(house, model)).code == "executors_full"


async def test_what_calls_nobody_waits_for_no_permit(house: House) -> None:
    model, executor = await house.model(max_concurrency=1), await house.executor()
    await alive(house)
    (attempt,) = await house.running(model, executor)
    await house.stage(attempt)
    await house.sql(
        "UPDATE dispatch SET token = NULL, executor = NULL, held_by = $2 WHERE id = $1", attempt.id, executor
    )
    assert (await why_model(house, model)).code == "no_permit"
    assert codes(await why_task(house, attempt.id)) == ["next_turn"]


async def test_a_model_whose_tasks_wait_for_their_time_is_not_idle(house: House) -> None:
    model = await house.model()
    await alive(house)
    await house.tasks(model, 3, not_before=datetime.now(UTC) + timedelta(hours=2))
    said = await why_model(house, model)
    assert [(hold.code, hold.value) for hold in said.holds] == [("not_before", 3)]
    assert said.holds[0].until is not None
    assert said.holds[0].until > said.lane.facts.now
    await house.sql("DELETE FROM process")
    assert [hold.code for hold in (await why_model(house, model)).holds] == ["not_before", "no_janitor"]


async def test_a_model_says_what_each_of_its_tasks_waits_for_the_first_due_first(house: House) -> None:
    model, executor = await house.model(retry_times=3), await house.executor()
    await alive(house)
    failed = await house.running(model, executor, 2)
    for attempt, delay in zip(failed, (60, 7_200), strict=True):
        await house.fail(attempt, delay=delay)
    said = await why_model(house, model)
    assert [(hold.code, hold.value) for hold in said.holds] == [("retry_due_later", 2)]
    assert "2 of its tasks failed and wait for their retry" in said.message
    (parked,) = await house.running(model, executor)
    await house.park(parked)
    (refused,) = (await house.tasks(model), await house.lease(model, acknowledged=False))[1]
    await house.queue.postpone_refused([(refused.id, refused.lease, 1_000.0, "topic not authorized")])
    await house.tasks(model, not_before=datetime.now(UTC) + timedelta(hours=1))
    await house.sql("UPDATE dispatch SET due_at = now() + interval '1 s' WHERE id = $1", parked.id)
    said = await why_model(house, model)
    waits = ["upload_parked", "retry_due_later", "publish_refused", "not_before"]
    assert [hold.code for hold in said.holds] == waits
    await controls_of(house).pause_model(model.tenant_id, model.name, "op", "")
    assert [hold.code for hold in (await why_model(house, model)).holds] == ["model_paused", *waits]
    await controls_of(house).resume_model(model.tenant_id, model.name, "op")
    await house.tasks(model)
    assert (await why_model(house, model)).code == "flowing"


async def test_a_topic_that_the_broker_refuses_is_said_with_its_words(house: House) -> None:
    model, other = await house.model(), await house.model()
    await house.executor()
    await alive(house, refused={model.lane: "InvalidReplicationFactorError: 3 > 1"})
    (task,), (fine,) = await house.tasks(model), await house.tasks(other)
    said = await why_task(house, task)
    assert said.code == "topic_unusable"
    assert "InvalidReplicationFactorError: 3 > 1" in said.message
    assert "SLUICEWAY_TOPIC_REPLICATION" in said.message
    assert said.estimate is None
    assert (await why_model(house, model)).code == "topic_unusable"
    assert codes(await why_task(house, fine)) == ["next_turn"]
    await house.lease(model, acknowledged=False)
    assert codes(await why_task(house, task)) == ["topic_unusable", "publishing"]
    await house.sql("UPDATE process SET beat_at = now() - interval '20 s' WHERE role = 'dispatcher'")
    assert codes(await why_task(house, task)) == ["no_dispatcher", "publishing"], "nobody who lives says so"


async def test_an_executor_that_fell_silent_is_named(house: House) -> None:
    model, executor = await house.model(), await house.executor()
    await alive(house)
    (attempt,) = await house.running(model, executor)
    await house.sql("UPDATE executor SET beat_at = now() - interval '8 s'")
    said = await why_task(house, attempt.id)
    assert codes(said) == ["executor_silent", "running"]
    assert said.holds[0].value is not None
    assert 8 <= said.holds[0].value < 10


async def test_what_waits_for_its_time_says_until_when(house: House) -> None:
    model, executor = await house.model(retry_times=3, queue_limit=1), await house.executor()
    await alive(house)
    (draft,) = await house.tasks(model, not_before=datetime.now(UTC) + timedelta(hours=2))
    said = await why_task(house, draft)
    assert codes(said) == ["not_before"]
    assert said.holds[0].until is not None
    assert said.holds[0].until > said.facts.now
    parked, failed = await house.running(model, executor, 2)
    await house.park(parked)
    assert codes(await why_task(house, parked.id)) == ["upload_parked"]
    await house.fail(failed, delay=3_600)
    said = await why_task(house, failed.id)
    assert codes(said) == ["retry_due_later", "gate_full"]
    assert (hold(said, "retry_due_later").value, hold(said, "retry_due_later").limit) == (1, 3)
    await house.make_overdue([failed.id])
    said = await why_task(house, failed.id)
    assert codes(said) == ["gate_full"]
    assert (said.holds[0].value, said.holds[0].limit) == (2, 1)
    await house.sql("DELETE FROM process")
    assert "no_janitor" in codes(await why_task(house, failed.id))


async def test_a_retry_that_redis_gives_no_place_says_so(house: House) -> None:
    model = await house.model(retry_times=3)
    await alive(house)
    (failed,) = await house.running(model, await house.executor())
    await house.fail(failed, delay=3_600)
    async with open_redis(f"redis://127.0.0.1:{free_port()}/0") as away, open_rebuilder(away, house.source) as rebuild:
        insight = PostgresInsight(house.database)
        why = Why(insight, Sight(insight, RedisQueueGate(away, rebuild), RedisPermits(away, rebuild)))
        public = UUID((await house.public([failed.id]))[0])
        assert codes(await why.task(None, public)) == ["retry_due_later", "redis_unreachable"]
        await house.make_overdue([failed.id])
        assert codes(await why.task(None, public)) == ["redis_unreachable"]
        said = await why.model(model.tenant_id, model.name)
        assert [hold.code for hold in said.holds] == ["retry_due_later", "redis_unreachable"]
    assert codes(await why_task(house, failed.id)) == ["retry_due_later"]


async def test_how_long_a_task_may_wait_comes_last(house: House) -> None:
    model = await house.model()
    await house.executor()
    await alive(house)
    soon = datetime.now(UTC) + timedelta(minutes=5)
    (task,) = await house.tasks(model, start_by=soon, deadline=soon + timedelta(minutes=5))
    said = await why_task(house, task)
    assert codes(said) == ["next_turn", "start_by", "deadline"]
    assert said.holds[1].until == soon


async def test_a_provider_job_and_an_end_are_told(house: House) -> None:
    model, executor = await house.model(), await house.executor()
    await alive(house)
    (attempt,) = await house.running(model, executor)
    await house.sql(
        "INSERT INTO provider_job (task_id, attempt, lane, intent_key, adapter, polls, provider_id, permit_token,"
        " status, unit_progress, deadline)"
        " VALUES ($1, 1, $2, gen_random_uuid(), 'replicate', true, 'p-17', gen_random_uuid(),"
        " 'processing', 40, now() + interval '1 h')",
        attempt.id,
        model.lane,
    )
    said = await why_task(house, attempt.id)
    assert codes(said) == ["provider"]
    assert ["p-17" in said.message, "40 %" in said.message] == [True, True]
    await house.bury(attempt)
    said = await why_task(house, attempt.id)
    assert codes(said) == ["ended"]
    assert "http_400" in said.message


async def test_a_place_is_counted_up_to_a_thousand(house: House) -> None:
    model = await house.model(queue_limit=5_000)
    tasks = await house.tasks(model, 1_102, slots=False)
    await alive(house)
    said = await why_task(house, tasks[-1])
    assert said.place == (1_000, False)
    assert "more than 1000" in hold(said, "queue").message


async def test_a_tenant_asks_for_its_own_tasks_alone(house: House) -> None:
    model, other = await house.model(), await house.model()
    (task,) = await house.tasks(model)
    assert (await why_task(house, task, tenant=model.tenant_id)).facts.model == model.name
    with pytest.raises(NotFound):
        await why_task(house, task, tenant=other.tenant_id)


async def test_a_model_says_what_holds_it(house: House) -> None:
    model = await house.model(max_concurrency=1, queue_limit=4)
    await house.executor()
    await alive(house)
    assert (await why_model(house, model)).code == "idle"
    await house.tasks(model, 4)
    rows = await house.lease(model)
    await house.permits.acquire_many([PermitRequest(model.lane, "somebody", 1, 60_000)])
    said = await why_model(house, model)
    assert [hold.code for hold in said.holds] == ["window_full", "no_permit", "gate_full"]
    assert (said.lane.permits, said.lane.open, said.lane.facts.in_flight) == (1, 4, 3)
    assert len(rows) == 3
    await house.permits.release_many([(model.lane, "somebody")])
    assert "no_permit" not in [hold.code for hold in (await why_model(house, model)).holds]


async def test_the_overview_and_the_lanes_add_up(house: House) -> None:
    model, executor = await house.model(max_concurrency=2), await house.executor()
    await alive(house)
    await house.tasks(model, 6)
    await house.tasks(model, 1, not_before=datetime.now(UTC) + timedelta(hours=2))
    rows = await house.lease(model)
    (attempt, buried) = await house.start(model, executor, rows[:2])
    await house.bury(buried)
    await house.fail(attempt, delay=60)
    sight = sight_of(house)
    seen = await sight.overview()
    assert (seen.ready.value, seen.in_flight.value, seen.later.value, seen.retrying.value) == (2, 2, 1, 1)
    assert (seen.dead.value, seen.events.value, seen.executors, seen.dispatchers, seen.janitors) == (1, 1, 1, 1, 1)
    assert seen.broker_reachable
    await house.sql("UPDATE process SET broker_reachable = NULL WHERE role = 'dispatcher'")
    assert (await sight_of(house).overview()).broker_reachable is None
    (lane,), following = await sight.lanes(model.tenant_id)
    assert following is None
    assert (lane.waiting.value, lane.facts.in_flight, lane.open, lane.permits) == (2, 2, 5, 0)
    assert lane.facts.oldest_seconds is not None
    assert await sight.lanes(model.tenant_id + 1) == ([], None)
    channels = {channel.channel: channel for channel in await sight.outbox()}
    assert channels["event"].waiting.value == 1
    assert channels["webhook"].waiting.value == 0
    (worker,) = await sight.executors()
    assert (worker.id, worker.alive, worker.reading) == (executor, True, True)


async def test_what_the_broker_refuses_is_told_with_its_reason(house: House) -> None:
    model = await house.model()
    await house.tasks(model, 2)
    await house.tasks(model, 1, not_before=datetime.now(UTC) + timedelta(hours=2))
    rows = await house.lease(model, acknowledged=False)
    await house.queue.postpone_refused([(row.id, row.lease, 5.0, "topic not authorized") for row in rows])
    (channel,) = [channel for channel in await sight_of(house).outbox() if channel.channel == "dispatch"]
    assert (channel.retrying.value, channel.last_error) == (2, "topic not authorized")
    await alive(house, broker=False, error="connection refused")
    (channel,) = [channel for channel in await sight_of(house).outbox() if channel.channel == "dispatch"]
    assert channel.last_error == "connection refused"
    await house.sql("UPDATE process SET beat_at = now() - interval '1 hour'")
    (channel,) = [channel for channel in await sight_of(house).outbox() if channel.channel == "dispatch"]
    assert channel.last_error == "topic not authorized", "that dispatcher is gone"


async def test_the_outbox_says_why_events_do_not_leave(house: House) -> None:
    async def said() -> str:
        (channel,) = [channel for channel in await sight_of(house).outbox() if channel.channel == "event"]
        return channel.last_error

    await alive(house)
    assert await said() == ""
    await alive(house, events="InvalidReplicationFactorError: 3 > 1")
    assert await said() == "the broker refuses their topic: InvalidReplicationFactorError: 3 > 1"
    await house.sql("UPDATE process SET beat_at = now() - interval '1 hour'")
    assert await said() == "", "that dispatcher is gone"
    await alive(house, broker=False, error="connection refused")
    assert await said() == "connection refused"


async def test_deliveries_are_a_channel_of_their_own(house: House) -> None:
    await house.sql(
        "INSERT INTO delivery (tenant_id, webhook_id, line, url, task_id, message_id, type, body, attempts, last_error,"
        " next_at, created_at)"
        " SELECT 1, 1, 'l', 'http://x', gen_random_uuid(), 'm' || g, 't', '{}', g, 'answered 50' || g,"
        " now() + make_interval(secs => g), now() - interval '1 min' FROM generate_series(0, 2) g"
    )
    (seen,) = [channel for channel in await sight_of(house).outbox() if channel.channel == "webhook"]
    assert (seen.waiting.value, seen.retrying.value, seen.dead.value, seen.last_error) == (3, 2, 0, "answered 502")
    assert 59 <= seen.age < 120


async def test_lanes_are_paged_busy_or_all(house: House) -> None:
    models = [await house.model() for _ in range(5)]
    for model in models[1:4]:
        await house.tasks(model)
    sight = sight_of(house)
    first, following = await sight.lanes(None, limit=2)
    assert following is not None
    second, end = await sight.lanes(None, after=following, limit=2)
    assert [lane.facts.lane for lane in first + second] == [model.lane for model in models[1:4]]
    assert end is None
    everything, _ = await sight.lanes(None, busy=False)
    assert [lane.facts.lane for lane in everything] == [model.lane for model in models]
