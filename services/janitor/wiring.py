"""What the janitor reaches the world by."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

from libs.common.adapters.postgres.control import PostgresPresence
from libs.common.adapters.postgres.database import Database, open_database
from libs.common.adapters.postgres.failures import is_data_error
from libs.common.adapters.postgres.replay import PostgresReplayWork
from libs.common.adapters.postgres.series import PostgresSeries
from libs.common.adapters.postgres.sweeps import PostgresOpenTasks, PostgresSweeps
from libs.common.adapters.redis.connection import open_redis
from libs.common.adapters.redis.hints import open_hints
from libs.common.adapters.redis.permits import RedisPermits
from libs.common.adapters.redis.queue_gate import RedisQueueGate
from libs.common.adapters.redis.rebuild import open_rebuilder
from libs.common.adapters.staging import open_staging
from libs.common.ports_audit import StagedListing
from libs.common.runtime.health import Health
from libs.common.settings import Settings
from services.janitor.maintenance import Maintenance
from services.janitor.schedule import Stores, assemble

#: A look may wait twice for so long, and the next one still comes in time (beats.py).
_RESCUE_LOCK_SECONDS: Final = 0.4


@asynccontextmanager
async def open_janitor(settings: Settings, health: Health) -> AsyncIterator[Maintenance]:
    """A janitor over real servers. None of them need be there yet: each is waited for."""
    database_url = settings.database_url.get_secret_value()
    async with (
        open_database(database_url, hot_connections=4) as database,
        open_rescue_database(database_url) as rescue_database,
        open_redis(settings.redis_url.get_secret_value()) as redis,
        open_hints(redis) as hints,
        open_rebuilder(redis, PostgresOpenTasks(database)) as rebuilder,
        _open_staging(settings) as staging,
    ):
        stores = Stores(
            sweeps=PostgresSweeps(database),
            rescue=PostgresSweeps(rescue_database),
            source=PostgresOpenTasks(database),
            gate=RedisQueueGate(redis, rebuilder),
            permits=RedisPermits(redis, rebuilder),
            hints=hints,
            staging=staging,
            series=PostgresSeries(database),
            presence=PostgresPresence(rescue_database),
            replays=PostgresReplayWork(database, settings.timezone),
            is_data_error=is_data_error,
        )
        health.need("postgres", lambda: database.fetch("database_now"))
        health.need("redis", redis.ping)
        yield assemble(stores, settings)


def open_rescue_database(database_url: str) -> AbstractAsyncContextManager[Database]:
    """The rescue has connections of its own, and little patience for locked rows: nothing may make it late, since it
    takes nobody for dead whom it has not watched all the while.
    """
    return open_database(database_url, hot_connections=2, lock_seconds=_RESCUE_LOCK_SECONDS)


def _open_staging(settings: Settings) -> AbstractAsyncContextManager[StagedListing]:
    # The folder that executors of this host use; that of another host is cleaned over there.
    return open_staging(
        settings.staging_folder,
        settings.staging_store,
        max_file_bytes=settings.output_max_bytes,
        max_total_bytes=settings.staging_max_bytes,
    )
