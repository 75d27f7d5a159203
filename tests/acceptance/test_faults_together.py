"""Faults that come together: processes and stores die, freeze and forget while callers and operators go on."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import httpx
import pytest
import redis.asyncio

from libs.common.embedded.service import ServiceProcess
from tests.support.receiver import Receiver, open_receiver
from tests.support.road import NO_TLS, Road, until

FAULTS_SECONDS = 90
SEED = 20_261_127
ROLES = {"api": 2, "dispatcher": 2, "executor": 3, "janitor": 2}
MODELS = {"m": 8, "n": 3, "jobs": 10}


class Callers:
    """Each hands in one task after the other, with a key, and again with that key until it is accepted."""

    def __init__(self, road: Road, rng: random.Random) -> None:
        self.accepted: list[str] = []
        self._road = road
        self._rng = rng
        self._over = asyncio.Event()

    def end(self) -> None:
        self._over.set()

    async def call(self, tenant: int, model: str) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            key = f"{tenant}-{model}-{number}"
            payload = {"name": key, "seconds": self._rng.choice([0, 0.1, 1]), "fail": self._rng.choice([0, 0, 0, 1])}
            while (task := await self._accepted(tenant, key, {"model": model, "payload": payload})) is None:
                await asyncio.sleep(0.3)
            self.accepted.append(task)
            await asyncio.sleep(0.2)

    async def _accepted(self, tenant: int, key: str, body: dict[str, object]) -> str | None:
        headers = {"Authorization": f"Bearer {self._road.keys[tenant]}", "Idempotency-Key": key}
        try:
            async with httpx.AsyncClient(trust_env=False, verify=NO_TLS, timeout=10) as client:
                api = self._rng.choice(self._road.processes["api"]).address
                answer = await client.post(f"{api}/v1/tasks", json=body, headers=headers)
        except httpx.HTTPError:
            return None
        if answer.is_success:
            return str(answer.json()["id"])
        assert answer.status_code in (429, 503), answer.text
        return None


class Operators:
    """What people do to a tenant's tasks meanwhile: cancel, replay, pause, change, delete; and hand in what fails."""

    def __init__(self, road: Road, rng: random.Random, callers: Callers, tenant: int) -> None:
        self.answers: Counter[int] = Counter()
        self._road = road
        self._rng = rng
        self._callers = callers
        self._tenant = tenant
        self._over = False
        self._wishes = [self._cancel, self._replay, self._pause, self._change, self._batch, self._old, self._delete]

    def end(self) -> None:
        self._over = True

    async def work(self) -> None:
        while not self._over:
            await self._rng.choice(self._wishes)()
            await asyncio.sleep(self._rng.uniform(0, 0.5))

    async def _cancel(self) -> None:
        for task in self._rng.sample(self._callers.accepted[-40:], min(5, len(self._callers.accepted))):
            await self._ask("POST", f"/v1/tasks/{task}/cancel")

    async def _replay(self) -> None:
        order = {"kind": "task", "filter": {"tenant": str(self._tenant)}, "limit": 50, "rate": 50.0, "reason": "test"}
        await self._ask("POST", "/v1/replays", json=order)

    async def _pause(self) -> None:
        place = self._rng.choice(["/v1/models/m", "/v1/models/jobs", f"/v1/tenants/{self._tenant}"])
        await self._ask("POST", f"{place}/pause", json={"reason": "test"})
        await asyncio.sleep(self._rng.uniform(0, 2))
        await self._until_done("POST", f"{place}/resume", json={"reason": "test"})

    async def _change(self) -> None:
        await self._ask("PATCH", "/v1/models/n", json={"max_concurrency": self._rng.choice([2, 5, 20])})

    async def _batch(self) -> None:
        key = f"batch-{self._rng.random()}"
        payloads = [{"name": f"{key}-{n}", "fail": self._rng.choice([0, 1, 9])} for n in range(20)]
        body = {"tasks": [{"model": self._rng.choice("mn"), "payload": payload} for payload in payloads]}
        answer = await self._until_done("POST", "/v1/tasks/batch", json=body, headers={"Idempotency-Key": key})
        self._callers.accepted += [item["id"] for item in answer.json()["items"]]

    async def _old(self) -> None:
        key = f"old-{self._rng.random()}"
        body = {"modelName": "m", "requestPayload": {"name": key}}
        answer = await self._until_done("POST", "/task/createTask", json=body, headers={"Idempotency-Key": key})
        self._callers.accepted.append(answer.json()["data"]["taskId"])

    async def _delete(self) -> None:
        """A model is made, used and deleted while its tasks are under way."""
        name = f"passing-{self._rng.random()}"
        where = {"base_url": self._road.mock.url, "route": f"/{self._tenant}-{name}"}
        await self._until_done("POST", "/v1/models", json={"name": name, **where})
        task = {"model": name, "payload": {"name": name, "seconds": 0.3}}
        answer = await self._until_done("POST", "/v1/tasks", json=task, headers={"Idempotency-Key": name})
        self._callers.accepted.append(answer.json()["id"])
        await asyncio.sleep(self._rng.uniform(0, 1))
        await self._ask("DELETE", f"/v1/models/{name}")

    async def _until_done(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Again until it is done: a pause must be taken away, and of a create with a key the answer is wanted."""
        while (answer := await self._ask(method, path, **request)) is None:
            await asyncio.sleep(0.3)
        return answer

    async def _ask(self, method: str, path: str, **request: Any) -> httpx.Response | None:
        """The answer; None while something is away. What is over by now, or was done by the request before, is none."""
        headers = {"Authorization": f"Bearer {self._road.keys[self._tenant]}", **request.pop("headers", {})}
        try:
            async with httpx.AsyncClient(trust_env=False, verify=NO_TLS, timeout=10) as client:
                api = self._rng.choice(self._road.processes["api"]).address
                answer = await client.request(method, f"{api}{path}", headers=headers, **request)
        except httpx.HTTPError:
            return None
        self.answers[answer.status_code] += 1
        assert answer.is_success or answer.status_code in (404, 409, 503), answer.text
        return None if answer.status_code == 503 else answer


class Faults:
    """One of them at a time for each store, and for the processes."""

    def __init__(self, road: Road, rng: random.Random) -> None:
        self._road = road
        self._rng = rng
        self._processes = asyncio.Lock()
        self._stores = {
            store: asyncio.Lock() for store in (road.servers.postgres, road.servers.redis, road.servers.broker)
        }
        self._kinds = [self._away, self._forgotten, self._killed, self._stopped, self._frozen, self._locked]

    async def for_(self, seconds: float) -> None:
        end = asyncio.get_running_loop().time() + seconds
        async with asyncio.TaskGroup() as faults:
            while asyncio.get_running_loop().time() < end:
                faults.create_task(self._rng.choice(self._kinds)())
                await asyncio.sleep(self._rng.uniform(2, 6))

    async def _away(self) -> None:
        store = self._rng.choice(list(self._stores))
        async with self._stores[store]:
            await (store.kill if self._rng.random() < 0.5 else store.stop)()
            await asyncio.sleep(self._rng.choice([0, 2, 8]))
            await store.start()

    async def _forgotten(self) -> None:
        async with redis.asyncio.Redis.from_url(self._road.servers.redis.address) as client:
            with suppress(redis.exceptions.RedisError):  # perhaps it is away
                await client.flushall()

    async def _locked(self) -> None:
        """A transaction with rows of a few tasks that somebody leaves open for a while."""
        table = self._rng.choice(["dispatch", "task", "event", "provider_job", "quota_usage"])
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):  # perhaps PostgreSQL is away
            connection = await asyncpg.connect(self._road.database_url, timeout=5)
            try:
                async with connection.transaction():
                    await connection.execute(f"SELECT FROM {table} ORDER BY random() LIMIT 10 FOR UPDATE SKIP LOCKED")
                    await asyncio.sleep(self._rng.choice([1, 5, 12]))
            finally:
                connection.terminate()

    def _one(self) -> ServiceProcess:
        return self._rng.choice(self._road.processes[self._rng.choice(["executor", *ROLES])])

    async def _killed(self) -> None:
        async with self._processes:
            victim = self._one()
            await self._road.kill(victim)
            await asyncio.sleep(self._rng.uniform(0, 4))
            await self._begin(victim.role)

    async def _stopped(self) -> None:
        async with self._processes:
            old = self._one()
            await self._begin(old.role)
            await self._road.stop(old)

    async def _frozen(self) -> None:
        async with self._processes:
            victim = self._one()
            self._road.freeze(victim)
            await asyncio.sleep(self._rng.choice([1, 3, 14]))  # the last is longer than a lease
            self._road.thaw(victim)

    async def _begin(self, role: str) -> None:
        """As a supervisor does: again until it is ready, whatever is away."""
        while True:
            try:
                await self._road.start(role)
            except Exception:
                await asyncio.sleep(1)
            else:
                return


@asynccontextmanager
async def callers_of(road: Road, rng: random.Random, receiver: Receiver) -> AsyncIterator[Callers]:
    """Processes of each role, and two tenants with models and a webhook, whose callers go on while the block runs."""
    await asyncio.gather(*(road.start(role, count) for role, count in ROLES.items()))
    callers, calls = Callers(road, rng), []
    for _ in range(2):
        tenant = await road.tenant()
        await road.call(tenant, "POST", "/v1/webhooks", json={"url": f"{receiver.url}/ends"})
        for model, limit in MODELS.items():
            make = road.job_model if model == "jobs" else road.model
            await make(tenant, model, max_concurrency=limit, queue_limit=10_000, retry_times=2)
            calls.append(asyncio.create_task(callers.call(tenant, model)))
    yield callers
    callers.end()
    await asyncio.wait_for(asyncio.gather(*calls), 60)


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_whatever_happens_at_once_each_accepted_task_ends_once_and_is_told(road: Road) -> None:
    rng = random.Random(SEED)
    async with open_receiver() as receiver:
        async with callers_of(road, rng, receiver) as callers:
            await Faults(road, rng).for_(FAULTS_SECONDS)
        ids = callers.accepted
        assert len(ids) == len(set(ids)) > 500
        await road.ended(ids, 90)
        told = "SELECT count(*) FROM delivery WHERE status = 'delivered'"
        await until(lambda: counts(road, told, len(ids)), 90, "all ends are told")
        assert {one.message["data"]["taskId"] for one in receiver.received} == set(ids)
    assert await counts(road, "SELECT count(*) FROM task", len(ids))  # none that nobody was told the id of
    (attempts,) = await road.sql("SELECT count(*) FROM attempt")
    jobs = set(road.provider.jobs) - {"before"}
    assert len(road.mock.calls) + len(jobs) <= attempts["count"]  # each call, and each job, has its attempt
    assert road.provider.twice() == []
    await road.assert_whole(ids, 90)


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_whatever_operators_do_meanwhile_each_end_is_told_once(road: Road) -> None:
    rng = random.Random(SEED)
    async with open_receiver() as receiver:
        async with callers_of(road, rng, receiver) as callers:
            operators = [Operators(road, rng, callers, tenant) for tenant in road.keys]
            work = [asyncio.create_task(one.work()) for one in operators]
            await Faults(road, rng).for_(FAULTS_SECONDS)
            for one in operators:
                one.end()
            await asyncio.wait_for(asyncio.gather(*work), 60)
        ids = callers.accepted
        assert len(ids) == len(set(ids)) > 500
        running = "SELECT count(*) FROM replay_job WHERE state = 'running'"
        await until(lambda: counts(road, running, 0), 60, "all replays are done")
        await road.ended(ids, 90, status=None)
        assert set(await road.statuses(ids)) == {"success", "failed", "canceled"}
        replays = await road.sql("SELECT public_id FROM replay_item WHERE result = 'replayed'")
        ends = Counter(ids) + Counter(row["public_id"] for row in replays)
        assert replays
        told = "SELECT count(*) FROM delivery WHERE status = 'delivered'"
        await until(lambda: counts(road, told, ends.total()), 90, "all ends are told")
    assert await counts(road, "SELECT count(*) FROM task", len(ids))
    assert road.provider.twice() == []
    assert {task: len(events) for task, events in (await road.announced(ids)).items()} == ends
    await road.assert_clean(90)


async def counts(road: Road, query: str, wanted: int) -> bool:
    return bool((await road.sql(query))[0]["count"] == wanted)
