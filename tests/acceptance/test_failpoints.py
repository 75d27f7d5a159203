"""Each failpoint: the process dies there, another takes over, every accepted task ends once, and the audit is clean.

The registry is the list of cases: a name without a scenario fails, and so does one that its scenario does not strike.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

import httpx
import pytest
from aiokafka import AIOKafkaProducer

from libs.common.domain.task import Phase
from libs.common.embedded.service import ServiceProcess
from libs.common.runtime.failpoints import FAILPOINTS
from tests.support.cog_provider import cog_provider
from tests.support.processes import send
from tests.support.road import Road, until

#: Bytes of an output that is staged as a file: a small one lies in PostgreSQL, where any executor finds it.
_A_FILE: Final = 100_000

Scenario: TypeAlias = Callable[[Road, ServiceProcess], Awaitable[Sequence[str]]]


async def plain(road: Road, _: ServiceProcess) -> Sequence[str]:
    """Some tasks of a new model."""
    tenant = await road.tenant()
    await road.model(tenant, max_concurrency=4)
    return await road.submit(tenant, 8, seconds=0.1)


async def hooked(road: Road, _: ServiceProcess) -> Sequence[str]:
    """A webhook is told of every end; the model's own server takes what is sent."""
    tenant = await road.tenant()
    await road.model(tenant)
    answer = await road.call(tenant, "POST", "/v1/webhooks", json={"url": f"{road.mock.url}/hook"})
    assert answer.status_code == 201, answer.text
    return await road.submit(tenant, 3)


async def narrow(road: Road, _: ServiceProcess) -> Sequence[str]:
    """More tasks than permits: some are held."""
    tenant = await road.tenant()
    await road.model(tenant, max_concurrency=1)
    return await road.submit(tenant, 4, seconds=0.5)


async def failing_once(road: Road, _: ServiceProcess) -> Sequence[str]:
    """The first call fails, a retry follows."""
    tenant = await road.tenant()
    await road.model(tenant, retry_times=2)
    return await road.submit(tenant, 3, fail=1)


async def retry_finds_the_gate_full(road: Road, _: ServiceProcess) -> Sequence[str]:
    """While a failed task waits for its retry, another one takes the only slot."""
    tenant = await road.tenant()
    await road.model(tenant, queue_limit=1, retry_times=5)
    first = await road.submit(tenant, 1, fail=1)
    failed = "SELECT count(*) FROM dispatch WHERE state = 3"
    await until(lambda: _counted(road, failed), 15, "it fails")
    await road.sql("UPDATE dispatch SET due_at = now() + interval '3 s'")
    return [*first, *await road.submit(tenant, 1, seconds=6)]


async def scheduled(road: Road, _: ServiceProcess) -> Sequence[str]:
    """Tasks whose time is yet to come."""
    tenant = await road.tenant()
    await road.model(tenant)
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    body = {"model": "m", "payload": {"name": "later"}, "not_before": tomorrow}
    task = (await road.call(tenant, "POST", "/v1/tasks", json=body)).json()["id"]
    await road.sql("UPDATE dispatch SET due_at = now() WHERE public_id = $1::uuid", task)
    return [task]


async def poison(road: Road, _: ServiceProcess) -> Sequence[str]:
    """Bytes that are no message of ours, between good tasks."""
    ids = list(await plain(road, _))
    await road.ended(ids)
    (model,) = await road.sql("SELECT id FROM model")
    producer = AIOKafkaProducer(bootstrap_servers=road.servers.broker.address, acks="all")
    await producer.start()
    try:
        await producer.send_and_wait(f"{road.prefix}.model.{model['id']}-m", b"not ours", partition=0)
    finally:
        await producer.stop()
    tenant = next(iter(road.keys))
    return [*ids, *await road.submit(tenant, 3)]


async def executor_dies(road: Road, _: ServiceProcess) -> Sequence[str]:
    """Work of a killed executor has to be rescued."""
    tenant = await road.tenant()
    await road.model(tenant)
    ids = await road.submit(tenant, 4, seconds=1)
    await until(lambda: road.mock.calls, 15, "calls run")
    await road.kill(road.processes["executor"][0])
    await road.start("executor")
    return ids


async def executor_stops(road: Road, process: ServiceProcess) -> Sequence[str]:
    """An executor is told to stop while a call outlasts its drain."""
    tenant = await road.tenant()
    await road.model(tenant)
    ids = await road.submit(tenant, 2, seconds=8)
    await until(lambda: road.mock.calls, 15, "calls run")
    send(process, signal.SIGTERM)
    return ids


async def died_before_its_entries(road: Road, process: ServiceProcess) -> Sequence[str]:
    """Tasks are accepted, and the process dies before it has written down who asked for them."""
    tenant = await road.tenant()
    await road.model(tenant)
    ids = await road.submit(tenant, 3)
    await road.died(process)
    await road.start("api")
    entries = "SELECT count(*) = 3 AS count FROM op_log WHERE task_id IS NOT NULL AND cost_ms IS NULL"
    await until(lambda: _counted(road, entries), 30, "the janitor writes the entries")
    return ids


async def canceled(road: Road, process: ServiceProcess) -> Sequence[str]:
    """A waiting task is canceled; the caller whose connection broke asks again."""
    tenant = await road.tenant()
    await road.model(tenant, max_concurrency=1)
    first, second = await road.submit(tenant, 2, seconds=2)
    with pytest.raises(httpx.TransportError):
        await road.call(tenant, "POST", f"/v1/tasks/{second}/cancel")
    await road.died(process)
    await road.start("api")
    await road.call(tenant, "POST", f"/v1/tasks/{second}/cancel")
    return [first, second]


async def first_read(road: Road, process: ServiceProcess) -> Sequence[str]:
    """A result is read for the first time; the caller whose connection broke reads again."""
    tenant = await road.tenant()
    await road.model(tenant)
    ids = await road.submit(tenant)
    await road.ended(ids)
    with pytest.raises(httpx.TransportError):
        await road.call(tenant, "GET", f"/v1/tasks/{ids[0]}")
    await road.died(process)
    await road.start("api")
    answer = await road.call(tenant, "GET", f"/v1/tasks/{ids[0]}")
    assert answer.json()["status"] == "success"
    assert await _counted(road, "SELECT count(*) FROM task WHERE fetched_at IS NOT NULL")
    return ids


async def created_with_key(road: Road, process: ServiceProcess) -> Sequence[str]:
    """A create whose connection breaks is repeated with its Idempotency-Key."""
    tenant = await road.tenant()
    await road.model(tenant)
    body, headers = {"model": "m", "payload": {"name": "once"}}, {"Idempotency-Key": uuid.uuid4().hex}
    with pytest.raises(httpx.TransportError):
        await road.call(tenant, "POST", "/v1/tasks", json=body, headers=headers)
    await road.died(process)
    await road.start("api")
    answer = await road.call(tenant, "POST", "/v1/tasks", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    (rows,) = await road.sql("SELECT count(*) FROM task")
    assert rows["count"] == 1
    return [answer.json()["id"]]


async def broker_away(road: Road, process: ServiceProcess) -> Sequence[str]:
    """The broker goes while rows are due."""
    tenant = await road.tenant()
    await road.model(tenant)
    first = await road.submit(tenant)
    await road.ended(first)
    await road.servers.broker.stop()
    second = await road.submit(tenant, 3)
    await until(lambda: process.pid is None, 30, "the dispatcher gives up a send")
    await road.servers.broker.start()
    return [*first, *second]


async def refused_by_the_broker(road: Road, process: ServiceProcess) -> Sequence[str]:
    """The broker takes no message of this topic, for the message's own sake, until it is told better."""
    tenant = await road.tenant()
    await road.model(tenant)
    first = await road.submit(tenant)
    await road.ended(first)
    (model,) = await road.sql("SELECT id FROM model")
    topic = f"{road.prefix}.model.{model['id']}-m"
    await road.topic_setting(topic, "max.message.bytes", "10")
    second = await road.submit(tenant, 2)
    refused = "SELECT count(*) FROM dispatch WHERE sends > 0"
    await until(lambda: process.pid is None or _counted(road, refused), 15, "the broker refuses")
    if process.pid is None:
        await road.died(process)
        await road.start("dispatcher")
        await until(lambda: _counted(road, refused), 40, "the broker refuses")
    await road.sql("UPDATE dispatch SET sends = 19, due_at = now()")
    return [*first, *second]


async def events_refused(road: Road, process: ServiceProcess) -> Sequence[str]:
    """The broker takes no completion event, for the event's own sake, until it is told better."""
    tenant = await road.tenant()
    await road.model(tenant)
    first = await road.submit(tenant)
    await road.ended(first)
    await road.announced(first)
    topic = f"{road.prefix}.task.events"
    await road.topic_setting(topic, "max.message.bytes", "10")
    second = await road.submit(tenant, 3)
    await road.died(process, 30)
    await road.topic_setting(topic, "max.message.bytes", "1048588")
    return [*first, *second]


async def _counted(road: Road, query: str) -> bool:
    return bool((await road.sql(query))[0]["count"])


async def staging_lost(road: Road, process: ServiceProcess) -> Sequence[str]:
    """An executor dies with a staged output, and the output is lost with it."""
    tenant = await road.tenant()
    await road.model(tenant)
    await road.kill(process)
    (first,) = await road.start("executor", failpoints="executor/after-generated:1:exit")
    ids = await road.submit(tenant, size=_A_FILE)
    await road.died(first)
    shutil.rmtree(road.folder / "staging")
    (road.folder / "staging").mkdir()
    await process.launch()
    road.processes["executor"].append(process)
    return ids


async def another_staging_store(road: Road, process: ServiceProcess) -> Sequence[str]:
    """Outputs staged in a store that only the other executor has."""
    tenant = await road.tenant()
    for number in range(6):
        await road.model(tenant, f"s{number}")
    await road.kill(process)
    other = {"staging_store": "other", "staging_dir": str(road.folder / "other")}
    (first,) = await road.start("executor", failpoints="executor/after-generated:*:delay=60000", **other)
    road.mock.hold()
    ids = [task for number in range(6) for task in await road.submit(tenant, 1, f"s{number}", size=_A_FILE)]
    await until(lambda: len(road.mock.calls) == len(ids), 15, "all calls run")
    road.mock.let_go()
    staged = f"SELECT count(*) = {len(ids)} AS count FROM dispatch WHERE phase = {Phase.GENERATED.value}"
    await until(lambda: _counted(road, staged), 15, "all outputs are staged")
    await road.kill(first)  # of so many, one is read by the executor without the store
    await process.launch()
    road.processes["executor"].append(process)
    await road.start("executor", **other)
    return ids


async def overdue(road: Road, _: ServiceProcess) -> Sequence[str]:
    """An attempt runs far past its deadline, and its executor does not notice."""
    tenant = await road.tenant()
    await road.model(tenant)
    road.mock.hold()
    ids = await road.submit(tenant)
    await until(lambda: road.mock.calls, 15, "the call runs")
    await road.sql("UPDATE dispatch SET until = now() - interval '1 hour'")
    return ids


async def waiting_too_long(road: Road, _: ServiceProcess) -> Sequence[str]:
    """A task waits longer than anybody wants."""
    tenant = await road.tenant()
    await road.model(tenant, max_concurrency=1)
    ids = await road.submit(tenant, 5, seconds=3)
    await road.sql("UPDATE dispatch SET entered_at = now() - interval '2 days' WHERE token IS NULL")
    return ids


async def dispatcher_dies(road: Road, _: ServiceProcess) -> Sequence[str]:
    """A dispatcher died between taking and sending."""
    await road.kill(road.processes["dispatcher"][0])
    tenant = await road.tenant()
    await road.model(tenant)
    ids = await road.submit(tenant, 3)
    victim = await road.launch("dispatcher", failpoints="dispatcher/after-lease:1:exit")
    await road.died(victim)
    await road.sql("UPDATE lease SET taken_at = now() - interval '1 minute'")
    await road.start("dispatcher")
    return ids


async def lost_on_the_road(road: Road, _: ServiceProcess) -> Sequence[str]:
    """Messages that the log does not hold: their lease numbers are of no record."""
    tenant = await road.tenant()
    await road.model(tenant)
    executors = list(road.processes["executor"])
    for executor in executors:
        await road.stop(executor)
    ids = await road.submit(tenant, 3)
    published = "SELECT count(*) FROM dispatch WHERE state = 1 AND NOT EXISTS (SELECT 1 FROM lease)"
    await until(lambda: _counted(road, published), 15, "the messages are published")
    await road.sql("UPDATE dispatch SET lease = lease + 1000000, leased_at = now() - interval '1 minute'")
    await road.sql("SELECT setval('lease_ids', 2000000)")
    await road.start("executor")
    return ids


async def expired(road: Road, _: ServiceProcess) -> Sequence[str]:
    """A fetched task whose time is over goes; another stays."""
    tenant = await road.tenant()
    await road.model(tenant)
    gone, stays = await road.submit(tenant, 2)
    await road.ended([gone, stays])
    await road.announced([gone, stays])
    await road.views(tenant, [gone])
    await road.sql("UPDATE task SET expire_at = now() - interval '1 s' WHERE expire_at IS NOT NULL")
    return [stays]


async def provider_job(road: Road, _: ServiceProcess) -> Sequence[str]:
    """Jobs of a provider."""
    tenant = await road.tenant()
    await road.job_model(tenant)
    return await road.submit(tenant, 3)


async def job_of_several_files(road: Road, _: ServiceProcess) -> Sequence[str]:
    """Jobs that put out links to several files."""
    tenant = await road.tenant()
    await road.job_model(tenant, plan={"output": None, "files": 3})
    return await road.submit(tenant, 2)


async def job_of_a_dead_executor(road: Road, process: ServiceProcess) -> Sequence[str]:
    """An executor dies while its job is at the provider, and so does the next one that wants to go on with it."""
    tenant = await road.tenant()
    await road.job_model(tenant, plan={"hold_at": "processing"})
    await road.kill(process)
    (first,) = await road.start("executor")
    ids = await road.submit(tenant)
    shown = "SELECT count(*) FROM task_face WHERE provider_job_id IS NOT NULL"
    await until(lambda: _counted(road, shown), 15, "the job is known")
    await road.kill(first)
    await process.launch()
    road.processes["executor"].append(process)
    await road.died(process, 60)
    road.provider.let_go()
    return ids


async def job_that_nobody_wants(road: Road, process: ServiceProcess) -> Sequence[str]:
    """A running job is canceled, and its executor dies when it wants to tell the provider."""
    tenant = await road.tenant()
    await road.job_model(tenant, plan={"hold_at": "processing"})
    ids = await road.submit(tenant)
    shown = "SELECT count(*) FROM task_face WHERE provider_job_id IS NOT NULL AND status = 3"
    await until(lambda: _counted(road, shown), 15, "the job runs")
    await road.call(tenant, "POST", f"/v1/tasks/{ids[0]}/cancel")
    await road.died(process, 30)
    await road.sql("UPDATE provider_job SET cancel_at = now() WHERE cancel_at IS NOT NULL")
    await road.start("executor")
    told = "SELECT count(*) FROM provider_job WHERE cancel_at IS NULL"
    await until(lambda: _counted(road, told), 30, "somebody else tells it")
    (job,) = (job for job in road.provider.jobs.values() if job.id != "before")
    assert job.canceled
    return ids


async def called_back(road: Road, process: ServiceProcess) -> Sequence[str]:
    """The provider calls back, and the API dies before it has said anything."""
    await road.kill(road.processes["executor"][0])
    await road.start("executor", public_url=process.address)
    road.provider.call_back = "over"
    tenant = await road.tenant()
    await road.job_model(tenant)
    return await road.submit(tenant)


async def called_back_before_its_end(road: Road, process: ServiceProcess) -> Sequence[str]:
    """A provider that cannot be asked says that its job goes on, and the executor dies that has read it."""
    await road.kill(process)
    ours = {"public_url": road.api}
    (first,) = await road.start("executor", failpoints="executor/before-drop-callbacks:1:exit", **ours)
    async with cog_provider() as cog:
        tenant = await road.tenant()
        told = {"adapter": "cog", "adapter_config": {"answer": "callback"}}
        await road.model(tenant, base_url=cog.url, route="predictions", **told)
        ids = await road.submit(tenant)
        await until(lambda: cog.running, 15, "it runs")
        (job,) = cog.running.values()
        await say(job, status="processing")
        await road.died(first)
        await road.start("executor", **ours)
        await say(job, status="succeeded", output="data:text/plain;base64,ZG9uZQ==")
        await road.ended(ids, 60)
        assert len(cog.runs) == 1
    return ids


async def say(job: dict[str, str], **changes: str) -> None:
    """What a provider does that calls back."""
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(job["webhook"], json={"id": job["id"], **changes})
    assert answer.is_success, answer.text


async def canceled_while_it_is_submitted(road: Road, process: ServiceProcess) -> Sequence[str]:
    """A task is canceled before the provider has answered; the answer comes, and the executor dies that has it."""
    tenant = await road.tenant()
    await road.job_model(tenant, plan={"hold_at": "processing"}, adapter_config={"settle_seconds": 10})
    road.provider.creates.append(6.0)
    ids = await road.submit(tenant)
    await until(lambda: road.provider.submits, 15, "it is submitted")
    await road.call(tenant, "POST", f"/v1/tasks/{ids[0]}/cancel")
    await road.died(process, 30)
    await road.sql("UPDATE provider_job SET cancel_at = now() WHERE cancel_at IS NOT NULL")
    await road.start("executor")
    (job,) = (job for job in road.provider.jobs.values() if job.id != "before")
    await until(lambda: job.canceled, 30, "the job is found by its key, and ended")
    return ids


async def dead(road: Road, count: int = 3, **fields: int) -> tuple[int, list[str]]:
    """Tasks whose only attempt failed; the next one would succeed."""
    tenant = await road.tenant()
    await road.model(tenant, **fields)
    ids = await road.submit(tenant, count, fail=1)
    await road.ended(ids, status="failed")
    await road.announced(ids)
    return tenant, list(ids)


async def order(road: Road, tenant: int, **fields: object) -> dict[str, str]:
    """A replay job."""
    answer = await road.call(tenant, "POST", "/v1/replays", json={"reason": "test", **fields})
    assert answer.status_code == 202, answer.text
    job: dict[str, str] = answer.json()
    return job


async def replayed(road: Road, _: ServiceProcess) -> Sequence[str]:
    """Dead tasks are replayed."""
    tenant, ids = await dead(road)
    await order(road, tenant)
    return ids


async def replay_ordered_twice(road: Road, process: ServiceProcess) -> Sequence[str]:
    """The order of a replay breaks, and is given again."""
    tenant, ids = await dead(road)
    with pytest.raises(httpx.TransportError):
        await order(road, tenant)
    await road.died(process)
    await road.start("api")
    await order(road, tenant)
    await order(road, tenant)
    return ids


async def replay_steered(road: Road, process: ServiceProcess) -> Sequence[str]:
    """A job is paused; the operator whose connection broke asks again."""
    tenant, ids = await dead(road)
    job = await order(road, tenant, rate=0.1)
    with pytest.raises(httpx.TransportError):
        await road.call(tenant, "POST", f"/v1/replays/{job['id']}/pause")
    await road.died(process)
    await road.start("api")
    assert (await road.call(tenant, "POST", f"/v1/replays/{job['id']}/stop")).status_code == 200
    await order(road, tenant)
    return ids


async def replay_finds_the_gate_full(road: Road, _: ServiceProcess) -> Sequence[str]:
    """While the dead wait for their replay, another task has the only slot."""
    tenant, ids = await dead(road, 1, queue_limit=1)
    other = await road.submit(tenant, 1, seconds=4)
    await order(road, tenant)
    await road.ended(other)
    return ids


async def replay_of_who_has_no_points_left(road: Road, process: ServiceProcess) -> Sequence[str]:
    """A priced task is replayed on a day on which its user cannot pay; then the limit is gone."""
    tenant, ids = await dead(road, 1, price=4)
    await road.sql("INSERT INTO quota_limit (tenant_id, user_name, points_per_day) VALUES ($1, '', 3)", tenant)
    await order(road, tenant)
    await road.died(process, 60)
    await road.sql("DELETE FROM quota_limit")
    await road.sql("UPDATE replay_item SET due_at = now()")
    return ids


async def event_replayed(road: Road, process: ServiceProcess) -> Sequence[str]:
    """An event that the broker had refused for good is sent once more, under its id."""
    ids = list(await plain(road, process))
    await road.ended(ids)
    await road.announced(ids)
    await road.sql(
        "INSERT INTO dead_event (id, task_id, tenant_id, model_id, version, status, attempt, started_at, finished_at,"
        " oss_file, file_type, file_size, files, sends, last_error) SELECT nextval('event_ids'), id, tenant_id,"
        " model_id, version, status, attempt, started_at, finished_at, oss_file, file_type, file_size, files, 20,"
        " 'refused' FROM task"
    )
    await order(road, next(iter(road.keys)), kind="event")
    return ids


async def replay_that_postgres_does_not_take(road: Road, process: ServiceProcess) -> Sequence[str]:
    """One of the dead has a number that cannot grow; it is mended, and replayed after all."""
    tenant, ids = await dead(road, 2)
    (one,) = await road.sql("SELECT task_id, version FROM dead_task ORDER BY task_id LIMIT 1")
    await numbered(road, one["task_id"], 2**31 - 1)
    await order(road, tenant)
    await road.died(process, 60)
    await road.start("janitor")
    refused = "SELECT count(*) FROM replay_item WHERE result = 'refused'"
    await until(lambda: _counted(road, refused), 30, "it is refused")
    await numbered(road, one["task_id"], one["version"])
    await order(road, tenant)
    return ids


async def numbered(road: Road, task: int, version: int) -> None:
    for table, key in (("task", "id"), ("dead_task", "task_id")):
        await road.sql(f"UPDATE {table} SET version = $2 WHERE {key} = $1", task, version)


async def dropped(road: Road, _: ServiceProcess) -> Sequence[str]:
    """Dead tasks are dropped: they stay as they ended."""
    tenant, ids = await dead(road)
    await order(road, tenant, action="drop")
    gone = "SELECT count(*) FROM dead_task WHERE dropped_at IS NOT NULL"
    await until(lambda: process_died_or(road, gone), 30, "they are dropped, or the janitor died")
    return ids


async def process_died_or(road: Road, query: str) -> bool:
    return any(process.pid is None for process in road.processes["janitor"]) or await _counted(road, query)


async def poison_replayed(road: Road, process: ServiceProcess) -> Sequence[str]:
    """Bytes that nobody understands go back to their topic, and die again."""
    ids = await poison(road, process)
    await until(lambda: _counted(road, "SELECT count(*) FROM dead_message"), 15, "they are kept")
    await order(road, next(iter(road.keys)), kind="message")
    return ids


async def letter_missing(road: Road, process: ServiceProcess) -> Sequence[str]:
    """Whoever kept a message died before its letter was sent."""
    ids = await poison(road, process)
    await until(lambda: _counted(road, "SELECT count(*) FROM dead_message"), 15, "they are kept")
    await road.sql("UPDATE dead_message SET lettered_at = NULL, died_at = now() - interval '1 min'")
    return ids


AWAY = {"oss_url": "http://127.0.0.1:9"}  # a file service that is not there
SCENARIOS: dict[str, tuple[Scenario, dict[str, str]]] = {
    "api/gate-taken": (created_with_key, {}),
    "api/before-commit": (created_with_key, {}),
    "api/after-commit": (created_with_key, {}),
    "api/before-cancel": (canceled, {}),
    "api/after-cancel": (canceled, {}),
    "api/before-fetched": (first_read, {}),
    "api/before-callback": (called_back, {}),
    "api/after-callback": (called_back, {}),
    "api/before-operations": (died_before_its_entries, {}),
    "api/before-replay-job": (replay_ordered_twice, {}),
    "api/before-steer": (replay_steered, {}),
    "dispatcher/before-lease": (plain, {}),
    "dispatcher/after-lease": (plain, {}),
    "dispatcher/after-publish": (plain, {}),
    "dispatcher/before-close-leases": (plain, {}),
    "dispatcher/before-give-back": (broker_away, {}),
    "dispatcher/before-postpone": (refused_by_the_broker, {}),
    "dispatcher/before-bury": (refused_by_the_broker, {}),
    "dispatcher/before-event-publish": (plain, {}),
    "dispatcher/before-event-delete": (plain, {}),
    "dispatcher/before-event-put-off": (events_refused, {}),
    "dispatcher/before-topic": (plain, {}),
    "dispatcher/before-replay-send": (poison_replayed, {}),
    "dispatcher/after-replay-send": (poison_replayed, {}),
    "dispatcher/before-dead-letters": (letter_missing, {}),
    "dispatcher/before-hand-to-webhooks": (hooked, {}),
    "dispatcher/before-webhook-bury": (hooked, {}),
    "dispatcher/before-webhook": (hooked, {}),
    "dispatcher/after-webhook": (hooked, {}),
    "executor/before-permit": (plain, {}),
    "executor/before-claim": (plain, {}),
    "executor/after-claim": (plain, {}),
    "executor/before-hold": (narrow, {}),
    "executor/before-call": (plain, {}),
    "executor/before-intent": (provider_job, {}),
    "executor/after-intent": (provider_job, {}),
    "executor/after-submit": (provider_job, {}),
    "executor/before-job-news": (provider_job, {}),
    "executor/after-provider-id": (provider_job, {}),
    "executor/before-late-name": (canceled_while_it_is_submitted, {}),
    "executor/before-drop-callbacks": (called_back_before_its_end, {}),
    "executor/before-resume": (job_of_a_dead_executor, {}),
    "executor/before-own-permit": (job_of_a_dead_executor, {}),
    "executor/before-collect": (provider_job, {}),
    "executor/after-one-collect": (job_of_several_files, {}),
    "executor/after-one-upload": (job_of_several_files, {}),
    "executor/before-unwanted": (provider_job, {}),
    "executor/before-provider-cancel": (job_that_nobody_wants, {}),
    "executor/after-provider-cancel": (job_that_nobody_wants, {}),
    "executor/after-call": (plain, {}),
    "executor/before-generated": (plain, {}),
    "executor/after-generated": (plain, {}),
    "executor/after-upload": (plain, {}),
    "executor/before-finish": (plain, {}),
    "executor/after-finish": (plain, {}),
    "executor/before-retry": (failing_once, {}),
    "executor/before-park": (plain, AWAY),
    "executor/before-migrating": (plain, AWAY),
    "executor/before-call-again": (staging_lost, {}),
    "executor/before-hand-over": (another_staging_store, {}),
    "executor/before-join": (plain, {}),
    "executor/before-leave": (executor_stops, {}),
    "executor/before-hand-back": (executor_stops, {}),
    "executor/before-dead-message": (poison, {}),
    "executor/before-dead-letter": (poison, {}),
    "executor/after-dead-letter": (poison, {}),
    "executor/before-beat": (plain, {}),
    "janitor/before-promote": (scheduled, {}),
    "janitor/before-requeue": (failing_once, {}),
    "janitor/before-put-off": (retry_finds_the_gate_full, {}),
    "janitor/before-rescue": (executor_dies, {}),
    "janitor/before-end-overdue": (overdue, {}),
    "janitor/before-end-waiting": (waiting_too_long, {}),
    "janitor/before-heal": (dispatcher_dies, {}),
    "janitor/before-republish": (lost_on_the_road, {}),
    "janitor/before-reconcile": (plain, {}),
    "janitor/before-delete": (expired, {}),
    "janitor/before-prune": (plain, {}),
    "janitor/before-operations": (plain, {}),
    "janitor/before-series": (plain, {}),
    "janitor/before-replay-turn": (replayed, {}),
    "janitor/before-replay-finish": (replayed, {}),
    "janitor/before-replay": (replayed, {}),
    "janitor/after-replay": (replayed, {}),
    "janitor/before-replay-hold-up": (replay_finds_the_gate_full, {}),
    "janitor/before-replay-put-off": (replay_of_who_has_no_points_left, {}),
    "janitor/before-replay-refuse": (replay_that_postgres_does_not_take, {}),
    "janitor/before-replay-events": (event_replayed, {}),
    "janitor/before-drop": (dropped, {}),
    "janitor/before-statistics": (plain, {}),
}
#: Ends that are no success are the point of these.
OTHER_ENDS = {
    dropped,
    job_that_nobody_wants,
    canceled_while_it_is_submitted,
    overdue,
    waiting_too_long,
    refused_by_the_broker,
    canceled,
}
#: Those whose tasks end twice: dead, and well after their replay.
TWICE = {
    replayed,
    replay_ordered_twice,
    replay_steered,
    replay_finds_the_gate_full,
    replay_of_who_has_no_points_left,
    replay_that_postgres_does_not_take,
}
#: Struck in every run; the others belong to the long tier.
SHORT = {
    "api/after-commit",
    "dispatcher/after-publish",
    "dispatcher/before-event-delete",
    "executor/after-claim",
    "executor/after-upload",
    "janitor/before-requeue",
}


def test_every_failpoint_of_the_registry_has_a_scenario() -> None:
    # Those of commands are struck where the commands are tested: test_import_legacy.py, test_secrets_rotate.py.
    assert set(SCENARIOS) == {name for name in FAILPOINTS if not name.startswith("cli/")}


async def succeeded(road: Road, ids: Sequence[str]) -> bool:
    return await road.statuses(ids) == {"success": len(ids)}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in SHORT else [pytest.mark.long]) for n in SCENARIOS])
async def test_a_process_dies_at(name: str, road: Road) -> None:
    scenario, settings = SCENARIOS[name]
    role = name.partition("/")[0]
    await asyncio.gather(
        *(road.start(other) for other in ("api", "dispatcher", "executor", "janitor") if other != role)
    )
    victim = await road.launch(role, failpoints=f"{name}:1:exit", **settings)
    if role == "api":
        await victim.until_ready()
    ids = await scenario(road, victim)
    if victim in road.processes[role]:
        await road.died(victim, 60)
    if not road.processes[role]:
        await road.start(role)
    road.mock.let_go()
    if scenario in TWICE:
        await until(lambda: succeeded(road, ids), 60, "the replayed ones succeed")
    await road.ended(ids, 90, status=None if scenario in OTHER_ENDS else "success")
    await road.assert_whole(ids, 60, ends=2 if scenario in TWICE else 1)
    assert road.provider.twice() == []
    assert f"{name} 1 exit" in (road.folder / "failpoints.log").read_text()
