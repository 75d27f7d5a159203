"""Faults that come together: processes and stores die, freeze and forget while callers go on."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import asyncpg
import httpx
import pytest
import redis.asyncio

from libs.common.embedded.service import ServiceProcess
from tests.support.receiver import open_receiver
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


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_whatever_happens_at_once_each_accepted_task_ends_once_and_is_told(road: Road) -> None:
    rng = random.Random(SEED)
    await asyncio.gather(*(road.start(role, count) for role, count in ROLES.items()))
    callers = Callers(road, rng)
    calls = []
    async with open_receiver() as receiver:
        for _ in range(2):
            tenant = await road.tenant()
            await road.call(tenant, "POST", "/v1/webhooks", json={"url": f"{receiver.url}/ends"})
            for model, limit in MODELS.items():
                make = road.job_model if model == "jobs" else road.model
                await make(tenant, model, max_concurrency=limit, queue_limit=10_000, retry_times=2)
                calls.append(asyncio.create_task(callers.call(tenant, model)))
        await Faults(road, rng).for_(FAULTS_SECONDS)
        callers.end()
        await asyncio.wait_for(asyncio.gather(*calls), 60)
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


async def counts(road: Road, query: str, wanted: int) -> bool:
    return bool((await road.sql(query))[0]["count"] == wanted)
