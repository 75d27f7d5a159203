"""What the executor is made of."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version
from typing import Final
from uuid import UUID

from libs.common.adapters.egress import EgressGuard
from libs.common.adapters.kafka.carrier import KafkaCarrier
from libs.common.adapters.kafka.connection import KafkaConnection, quiet_clients
from libs.common.adapters.kafka.road import open_road
from libs.common.adapters.models.job_http import open_job_http
from libs.common.adapters.models.output_links import open_output_links
from libs.common.adapters.models.plain_http import open_plain_http
from libs.common.adapters.models.registry import load_adapters
from libs.common.adapters.object_storage.file_service import open_file_service
from libs.common.adapters.object_storage.obstore import BadStorageUrl, ObjectStorage
from libs.common.adapters.postgres.attempts import PostgresAttempts, PostgresMembership
from libs.common.adapters.postgres.database import Database, open_database
from libs.common.adapters.postgres.failures import is_data_error
from libs.common.adapters.postgres.models import PostgresModels
from libs.common.adapters.postgres.provider_jobs import PostgresProviderJobs
from libs.common.adapters.postgres.replay import PostgresDeadLetters
from libs.common.adapters.postgres.sweeps import PostgresOpenTasks
from libs.common.adapters.redis.connection import open_redis
from libs.common.adapters.redis.hints import open_hints
from libs.common.adapters.redis.permits import RedisPermits
from libs.common.adapters.redis.queue_gate import RedisQueueGate
from libs.common.adapters.redis.rebuild import open_rebuilder
from libs.common.adapters.secrets import KeyRing
from libs.common.adapters.staging import Staging, open_staging
from libs.common.contracts.topics import dead_topic
from libs.common.domain.errors import WrongSetting
from libs.common.operations.callback_tokens import CallbackTokens
from libs.common.operations.dead_letters import DeadLetters
from libs.common.operations.model_cache import ModelCache
from libs.common.ports_attempts import Identity
from libs.common.ports_execution import ResultStore
from libs.common.ports_secrets import KeyMissing
from libs.common.runtime import open_files
from libs.common.runtime.health import Health
from libs.common.runtime.logging import get_logger
from libs.common.runtime.metrics import read_gauge_from
from libs.common.settings import Settings
from services.executor.assembly import Rules, World, assemble
from services.executor.calls import Opener
from services.executor.executor import Executor

log = get_logger()

_OWN_FILES: Final = 128  #: an executor at rest has about thirty open
_FILES_OF_A_CALL: Final = 3  #: a connection, a staged output, an upload


@asynccontextmanager
async def open_executor(settings: Settings, health: Health) -> AsyncIterator[Executor]:
    """An executor over real servers. None of them need be there yet: each is waited for."""
    guard = EgressGuard.from_setting(settings.egress_allow)
    address = settings.database_url.get_secret_value()
    quiet_clients()
    kafka = KafkaConnection.of(settings)
    async with (
        open_database(address) as database,
        # Heartbeats on connections that work cannot use up, however slow PostgreSQL is.
        open_database(address, hot_connections=2) as beats,
        open_redis(settings.redis_url.get_secret_value()) as redis,
        open_rebuilder(redis, PostgresOpenTasks(database)) as rebuilder,
        open_hints(redis) as hints,
        open_road(kafka) as road,
        _open_letters(kafka) as letters,
        _open_staging(settings) as staging,
        _open_results(settings, staging) as results,
        open_plain_http(guard, settings.output_max_bytes) as plain_http,
        open_job_http(guard) as providers,
        open_output_links(guard, settings.output_max_bytes) as links,
    ):
        adapters = load_adapters(providers)
        world = World(
            attempts=PostgresAttempts(database, 0, settings.timezone),
            membership=PostgresMembership(beats),
            permits=RedisPermits(redis, rebuilder),
            gate=RedisQueueGate(redis, rebuilder),
            hints=hints,
            road=road,
            models=ModelCache(PostgresModels(database)),
            adapters={"plain-http": plain_http},
            jobs=adapters.jobs,
            links=links,
            provider_jobs=PostgresProviderJobs(database),
            callback_url=_callback_url(settings),
            staging=staging,
            results=results,
            open_sealed=_opener(settings),
            is_data_error=is_data_error,
            graveyard=DeadLetters(PostgresDeadLetters(database), letters, dead_topic(settings.topic_prefix)),
            upkeep=staging.measure,
            redis_answers=redis.ping,
        )
        rules = _rules(settings, adapters.names())
        executor = assemble(world, rules)
        health.need("postgres", lambda: _postgres(beats, settings.timezone))
        health.need("redis", redis.ping)
        health.need("kafka", executor.needs_kafka)
        health.must_turn("reader", lambda: not executor.hangs_for_long)
        read_gauge_from("sluiceway_executor_slots", lambda: float(rules.identity.slots))
        read_gauge_from("sluiceway_executor_running", lambda: float(executor.load()[0]))
        read_gauge_from("sluiceway_executor_jobs_waiting", lambda: float(executor.runs.waiting()))
        read_gauge_from("sluiceway_executor_held", lambda: float(executor.load()[1]))
        yield executor


async def _postgres(beats: Database, zone: str) -> None:
    """One that answers, and knows the time zone of the days on which calls are counted: nothing starts without."""
    await beats.fetch("watch_beats")
    await beats.fetch("zone_known", zone)


@asynccontextmanager
async def _open_letters(kafka: KafkaConnection) -> AsyncIterator[KafkaCarrier]:
    """A way to the dead-letter topic; connected when the first letter is sent."""
    carrier = KafkaCarrier(kafka, client_id="sluiceway-dead-letters")
    try:
        yield carrier
    finally:
        await carrier.close()


def _rules(settings: Settings, adapters: Sequence[str]) -> Rules:
    identity = Identity(
        name=f"{socket.gethostname()}-{os.getpid()}",
        slots=affordable_slots(settings.executor_slots, open_files.limit()),
        stores=(settings.staging_store,),
        version=version("sluiceway"),
        adapters=tuple(adapters),
    )
    return Rules(identity, settings.topic_prefix, settings.drain_seconds, settings.upload_max_seconds)


def affordable_slots(asked: int, files: int) -> int:
    """As many as asked for, or as files can be had for: who has none left reaches neither models nor stores."""
    possible = max(1, (files - _OWN_FILES) // _FILES_OF_A_CALL)
    if possible < asked:
        log.warning("executor.slots_cut", slots=possible, asked=asked, files=files, do="raise the limit (ulimit -n)")
    return min(asked, possible)


def _open_staging(settings: Settings) -> AbstractAsyncContextManager[Staging]:
    return open_staging(
        settings.staging_folder,
        settings.staging_store,
        max_file_bytes=settings.output_max_bytes,
        max_total_bytes=settings.staging_max_bytes,
    )


@asynccontextmanager
async def _open_results(settings: Settings, staging: Staging) -> AsyncIterator[ResultStore]:
    """The file service where one is set, else the object store."""
    if settings.oss_url:
        authorization = settings.oss_authorization.get_secret_value()
        async with open_file_service(
            staging, settings.oss_url, settings.oss_path, authorization=authorization
        ) as service:
            yield service
    elif settings.storage_url:
        try:
            storage = ObjectStorage(settings.storage_url, staging, public_url=settings.storage_public_url)
        except BadStorageUrl as error:
            raise WrongSetting(str(error)) from error
        try:
            yield storage
        finally:
            await storage.close()
    else:
        raise WrongSetting(
            "SLUICEWAY_STORAGE_URL: results need a place; set it, for example to file:///var/lib/results"
        )


def _callback_url(settings: Settings) -> Callable[[UUID, float], str]:
    keys = settings.secret_keys.get_secret_value()
    if not settings.public_url or not keys:
        return lambda _key, _seconds: ""
    tokens = CallbackTokens(KeyRing(keys))
    base = settings.public_url.rstrip("/")
    return lambda key, seconds: f"{base}/v1/callbacks/{tokens.token(key, seconds)}"


def _opener(settings: Settings) -> Opener:
    keys = settings.secret_keys.get_secret_value()
    if keys:
        return KeyRing(keys).open

    def closed(_sealed: bytes, _owner: str) -> bytes:
        raise KeyMissing("SLUICEWAY_SECRET_KEYS is not set")

    return closed
