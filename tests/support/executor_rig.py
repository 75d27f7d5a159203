"""An executor inside the test's own loop, over real stores, with a model and a result store that tests steer."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self
from uuid import UUID, uuid4

import asyncpg
from aiokafka import AIOKafkaProducer

from libs.common.adapters.egress import EgressGuard
from libs.common.adapters.kafka.carrier import KafkaCarrier
from libs.common.adapters.kafka.connection import KafkaConnection
from libs.common.adapters.kafka.road import KafkaRoad, open_road
from libs.common.adapters.kafka.topics import KafkaTopics
from libs.common.adapters.models.output_links import open_output_links
from libs.common.adapters.postgres.attempts import PostgresAttempts, PostgresMembership
from libs.common.adapters.postgres.connection import Connection
from libs.common.adapters.postgres.database import Database, open_database
from libs.common.adapters.postgres.dispatch_queue import PostgresDispatchQueue
from libs.common.adapters.postgres.failures import is_data_error
from libs.common.adapters.postgres.models import PostgresModels
from libs.common.adapters.postgres.provider_jobs import PostgresProviderJobs
from libs.common.adapters.postgres.replay import PostgresDeadLetters
from libs.common.adapters.postgres.sweeps import PostgresOpenTasks, PostgresSweeps
from libs.common.adapters.postgres.tasks import PostgresTasks
from libs.common.adapters.redis.connection import RedisServer, open_redis
from libs.common.adapters.redis.hints import RedisHints, open_hints
from libs.common.adapters.redis.permits import RedisPermits
from libs.common.adapters.redis.queue_gate import RedisQueueGate
from libs.common.adapters.redis.rebuild import open_rebuilder
from libs.common.contracts.dispatch_message import DispatchMessage
from libs.common.contracts.topics import dead_topic, model_topic, partition_of
from libs.common.domain.errors import OutcomeUnknown
from libs.common.domain.model import Model
from libs.common.domain.model_errors import ModelError, StagedLost, StagingFull, UploadFailed
from libs.common.domain.output import ResultName, StagedFile, StoredFile
from libs.common.operations.dead_letters import DeadLetters
from libs.common.operations.model_cache import ModelCache
from libs.common.ports import SlotRequest
from libs.common.ports_attempts import Identity
from libs.common.ports_dispatch import Key, LaneAsk, LeasedRow, TopicPlan
from libs.common.ports_execution import ModelCall, OutputSet, UploadCredentials
from libs.common.ports_jobs import JobAdapter
from libs.common.ports_tasks import Created, NewTask
from services.executor.assembly import Rules, World, assemble
from services.executor.executor import Executor
from services.executor.positions import Places

_START = Key(-32768, 0)
_tenants = itertools.count(1)


async def until(question: Callable[[], Any | Awaitable[Any]], what: str, seconds: float = 20) -> Any:
    """Ask until the answer is true; AssertionError naming `what` after the deadline."""
    end = time.monotonic() + seconds
    while True:
        answer = question()
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        await asyncio.sleep(0.02)


@dataclass
class FakeModel:
    """Answers a call with its payload, as the test wants."""

    calls: list[bytes] = field(default_factory=list)
    routes: list[str] = field(default_factory=list)
    running: int = 0
    most: int = 0
    held: asyncio.Event | None = None
    errors: list[ModelError] = field(default_factory=list)
    unreachable: Literal["", "for now", "for ever"] = ""  #: no call gets as far as the model

    async def invoke(self, call: ModelCall, sink: FakeWriter) -> StagedFile:
        if self.unreachable:
            raise ModelError("model_unreachable", "nobody there", retryable=self.unreachable == "for now")
        call.sends()
        self.calls.append(call.payload)
        self.routes.append(call.route)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.held is not None:
                await self.held.wait()
            if self.errors:
                raise self.errors.pop(0)
            await sink.write(b"out of " + call.payload)
            return await sink.commit("text/plain")
        finally:
            self.running -= 1


class FakeWriter:
    def __init__(self, staging: FakeStaging, path: str) -> None:
        self._staging, self._path, self._parts = staging, path, [b""]

    async def write(self, chunk: bytes) -> None:
        if self._staging.refuses:
            raise StagingFull("no room")
        self._parts.append(chunk)

    async def commit(self, content_type: str = "") -> StagedFile:
        content = b"".join(self._parts)
        reference = f"{self._staging.store}:{self._path}"
        self._staging.files[reference] = content
        return StagedFile(reference, len(content), hashlib.sha256(content).digest(), "txt", content_type)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...


@dataclass
class FakeStaging:
    """Staging in memory."""

    store: str = "local"
    files: dict[str, bytes] = field(default_factory=dict)
    full: bool = False
    refuses: bool = False

    def create(self, task: UUID, attempt: int, tenant: int, one_of: OutputSet | None = None) -> FakeWriter:
        return FakeWriter(self, f"{task}/{attempt}-{uuid4().hex[:6]}")

    def holds(self, reference: str) -> bool:
        return reference.startswith(f"{self.store}:")

    async def read(self, staged: StagedFile) -> bytes:
        content = self.files.get(staged.reference)
        if content is None or hashlib.sha256(content).digest() != staged.sha256:
            raise StagedLost("it is gone")
        return content

    async def chunks(self, staged: StagedFile) -> AsyncIterator[bytes]:
        yield await self.read(staged)

    async def remove(self, reference: str) -> None:
        self.files.pop(reference, None)


@dataclass
class FakeResults:
    """A result store in memory, over one staging."""

    staging: FakeStaging
    stored: dict[str, bytes] = field(default_factory=dict)
    errors: list[UploadFailed] = field(default_factory=list)
    down: UploadFailed | None = None
    credentials: list[UploadCredentials | None] = field(default_factory=list)
    seconds: float = 0.0

    async def put(self, name: ResultName, staged: StagedFile, credentials: UploadCredentials | None) -> StoredFile:
        self.credentials.append(credentials)
        if self.seconds:
            await asyncio.sleep(self.seconds)
        if self.down is not None:
            raise self.down
        if self.errors:
            raise self.errors.pop(0)
        content = await self.staging.read(staged)
        key = name.key(staged.file_type)
        self.stored[key] = content
        return StoredFile(f"memory://{key}", staged.file_type, staged.size, staged.sha256, key)


@dataclass
class Running:
    """A running executor of the rig."""

    executor: Executor
    pending: asyncio.Task[None]
    road: KafkaRoad
    staging: FakeStaging
    results: FakeResults

    @property
    def number(self) -> int:
        return self.executor.heartbeat.number

    @property
    def places(self) -> Places:
        return self.executor.steward._places

    async def stop(self) -> None:
        self.executor.stop()
        await asyncio.wait_for(self.pending, 20)


@dataclass
class Rig:
    """The stores, and what tests do to them in place of the API and the dispatcher."""

    database_url: str
    redis_url: str
    connection: KafkaConnection
    prefix: str
    database: Database
    redis: RedisServer
    hints: RedisHints
    producer: AIOKafkaProducer
    topics: KafkaTopics
    permits: RedisPermits
    gate: RedisQueueGate
    closing: AsyncExitStack
    model: FakeModel = field(default_factory=FakeModel)
    jobs: dict[str, JobAdapter] = field(default_factory=dict)
    started: list[Running] = field(default_factory=list)
    stagings: dict[str, FakeStaging] = field(default_factory=dict)  #: shared by executors of the same store

    async def make_model(self, partitions: int = 1, **fields: Any) -> Model:
        """A model of a tenant of its own, with its topic."""
        tenant = fields.pop("tenant", None) or 1_000 + next(_tenants)
        named = {"name": f"m{next(_tenants)}", "base_url": "http://127.0.0.1:1", "max_concurrency": 4} | fields
        models = PostgresModels(self.database, partitions_setting=partitions)
        model = await models.create(tenant, "", named)
        await self.topics.ensure({model_topic(self.prefix, model.id, model.name): TopicPlan(partitions, None)})
        return model

    async def make_tasks(self, model: Model, count: int = 1, payload: bytes = b'{"a":1}', **fields: Any) -> list[int]:
        """Tasks as the API would accept them, without gate slots; returns their internal ids."""
        tasks = [NewTask(uuid4(), model.tenant_id, model.lane, payload, **fields) for _ in range(count)]
        created = await PostgresTasks(self.database).create_many(tasks)
        return [one.id for one in created if isinstance(one, Created)]

    async def take_slots(self, model: Model, ids: Sequence[int]) -> None:
        """Gate slots, as the API takes them before it writes."""
        rows = await self.sql("SELECT public_id FROM task WHERE id = ANY ($1::bigint[])", list(ids))
        requests = [SlotRequest(model.lane, str(row["public_id"]), 1_000, 600_000) for row in rows]
        await self.gate.take_many(requests)

    async def taken(self, model: Model) -> tuple[int, int]:
        """Gate slots and permits of the model's lane that are taken."""
        return (await self.gate.depths([model.lane]))[0], (await self.permits.in_use([model.lane]))[0]

    async def nothing_taken(self, model: Model) -> None:
        """Wait until gate and permits of the lane are empty."""

        async def empty() -> bool:
            return await self.taken(model) == (0, 0)

        await until(empty, "slots and permits went back")

    async def lease(self, model: Model, batch: int = 500) -> list[LeasedRow]:
        """Take what the window allows, as a dispatcher's turn would, acknowledged at once."""
        queue = PostgresDispatchQueue(self.database)
        ask = LaneAsk(model.lane, batch, 0, _START, _START)
        turn = await queue.lease_due([ask], batch, 1, [])
        await queue.close_leases(list({row.lease for row in turn.rows}))
        return list(turn.rows)

    async def send(
        self, model: Model, rows: Sequence[LeasedRow], *, hint: bool = True, lies: dict[str, int] | None = None
    ) -> None:
        """Publish rows; `lies` falsify their messages."""
        topic = model_topic(self.prefix, model.id, model.name)
        for row in rows:
            message = DispatchMessage(
                row.id, row.lane, model.tenant_id, model.id, row.attempt, row.lease, row.phase, row.input_size
            )
            partition = partition_of(row.id, model.partitions)
            await self.raw(
                topic, partition, replace(message, **(lies or {})).encode(), int(row.leased_at.timestamp() * 1_000)
            )
            if hint:
                self.hints.publish_soon("sw:road", f"{model.id} {partition}")

    async def raw(self, topic: str, partition: int, value: bytes | None, timestamp_ms: int | None = None) -> int:
        """Publish bytes; returns their offset."""
        sent = await self.producer.send_and_wait(topic, value, key=b"k", partition=partition, timestamp_ms=timestamp_ms)
        return int(sent.offset)

    async def dispatch(self, model: Model, *, hint: bool = True) -> list[LeasedRow]:
        """Lease and publish what is due."""
        rows = await self.lease(model)
        await self.send(model, rows, hint=hint)
        return rows

    async def executor(
        self,
        slots: int = 100,
        drain: float = 2.0,
        stores: tuple[str, ...] = ("local",),
        in_line: float = 30.0,
        **changes: Any,
    ) -> Running:
        """Start an executor; `changes` replace parts of its world."""
        staging = self.stagings.setdefault(stores[0], FakeStaging(stores[0]))
        results = changes.pop("results", None) or FakeResults(staging)
        beat = await self.closing.enter_async_context(open_database(self.database_url, hot_connections=2))
        road = await self.closing.enter_async_context(open_road(self.connection))
        links = open_output_links(EgressGuard(["127.0.0.0/8"]), 10**6)
        letters = KafkaCarrier(self.connection, client_id="letters")
        self.closing.push_async_callback(letters.close)
        world = World(
            attempts=PostgresAttempts(self.database, 0, "UTC"),
            membership=PostgresMembership(beat),
            permits=self.permits,
            gate=self.gate,
            hints=self.hints,
            road=road,
            models=ModelCache(PostgresModels(self.database)),
            adapters={"plain-http": self.model},
            jobs=self.jobs,
            links=await self.closing.enter_async_context(links),
            provider_jobs=PostgresProviderJobs(self.database),
            callback_url=lambda key, seconds: "",
            staging=staging,
            results=results,
            open_sealed=lambda sealed, owner: sealed,
            is_data_error=is_data_error,
            graveyard=DeadLetters(PostgresDeadLetters(self.database), letters, dead_topic(self.prefix)),
            upkeep=_nothing,
            redis_answers=self.redis.ping,
        )
        for name, change in changes.items():
            made = change(getattr(world, name)) if callable(change) else change
            world = replace(world, **{name: made})
        adapters = (*world.adapters, *world.jobs)
        identity = Identity(f"rig-{len(self.started)}", slots, stores, "test", adapters)
        executor = assemble(world, Rules(identity, self.prefix, drain, 86_400, in_line))
        pending = asyncio.create_task(executor.run())
        running = Running(executor, pending, road, staging, results)
        self.started.append(running)
        await until(
            lambda: pending.done() or (executor.posture() == "reading" and not executor.steward.broken), "it reads"
        )
        return running

    async def sql(self, query: str, *arguments: Any) -> list[Any]:
        connection = await asyncpg.connect(self.database_url, timeout=5, connection_class=Connection)
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    async def statuses(self, ids: Sequence[int]) -> dict[int, int]:
        rows = await self.sql("SELECT id, status FROM task_face WHERE id = ANY ($1::bigint[])", list(ids))
        return {row["id"]: row["status"] for row in rows}

    async def ended(self, ids: Sequence[int], status: int = 6, seconds: float = 10) -> None:
        """Wait until all of these have that status."""

        async def over() -> bool:
            return set((await self.statuses(ids)).values()) == {status}

        try:
            await until(over, f"{len(ids)} tasks have status {status}", seconds)
        except AssertionError as late:
            raise AssertionError(f"{late}: {await self.statuses(ids)}") from None

    @property
    def sweeps(self) -> PostgresSweeps:
        return PostgresSweeps(self.database)


async def _empty(database_url: str) -> None:
    """Forget all rows."""
    connection = await asyncpg.connect(database_url, timeout=5)
    try:
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        names = {row["tablename"] for row in rows} - {"alembic_version"}
        for name in sorted(names, key=lambda name: (name != "lane", name)):  # lanes point at models
            await connection.execute(f'DELETE FROM "{name}"')
    finally:
        await connection.close()


async def _nothing() -> None:
    """Memory needs no upkeep."""


class Through:
    """The real thing, with some methods of the test's own."""

    def __init__(self, real: Any, **own: Any) -> None:
        self._real = real
        self.__dict__.update(own)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            setattr(self._real, name, value)


def answer_lost(method: str, times: int = 1, why: type[Exception] = OutcomeUnknown) -> Callable[[Any], Through]:
    """Make a port's method do its work, and lose the answer the first times."""

    def change(real: Any) -> Through:
        left = times

        async def lossy(*arguments: Any) -> Any:
            nonlocal left
            answer = await getattr(real, method)(*arguments)
            if left > 0:
                left -= 1
                raise why("the answer is lost")
            return answer

        return Through(real, **{method: lossy})

    return change


@asynccontextmanager
async def open_rig(database_url: str, redis_url: str, bootstrap: str, kind: str, prefix: str) -> AsyncIterator[Rig]:
    """A rig whose executors are stopped at the end."""
    connection = KafkaConnection(bootstrap=(bootstrap,), broker=kind)
    async with (
        open_database(database_url) as database,
        open_redis(redis_url) as redis,
        open_rebuilder(redis, PostgresOpenTasks(database)) as rebuilder,
        open_hints(redis) as hints,
        AsyncExitStack() as closing,
    ):
        await _empty(database_url)
        topics = KafkaTopics(connection, client_id="rig", replication=1)
        closing.push_async_callback(topics.close)
        producer = AIOKafkaProducer(**connection.arguments(), enable_idempotence=False)
        await producer.start()
        closing.push_async_callback(producer.stop)
        rig = Rig(
            database_url, redis_url, connection, prefix, database, redis, hints, producer, topics,
            RedisPermits(redis, rebuilder), RedisQueueGate(redis, rebuilder), closing,
        )  # fmt: skip
        try:
            yield rig
        finally:
            if rig.model.held is not None:
                rig.model.held.set()
            for running in rig.started:
                running.executor.stop()
            await asyncio.gather(*(running.pending for running in rig.started), return_exceptions=True)
