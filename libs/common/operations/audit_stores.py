"""The audit over the configured stores: what the command line and the console run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from libs.common.adapters.kafka.connection import KafkaConnection
from libs.common.adapters.kafka.log import KafkaLog
from libs.common.adapters.object_storage.audited import AuditedObjects
from libs.common.adapters.postgres.audit import open_audit_database
from libs.common.adapters.postgres.database import Database, open_database
from libs.common.adapters.postgres.sweeps import PostgresOpenTasks, PostgresSweeps
from libs.common.adapters.redis.connection import open_redis
from libs.common.adapters.redis.permits import RedisPermits
from libs.common.adapters.redis.queue_gate import RedisQueueGate
from libs.common.adapters.redis.rebuild import open_rebuilder
from libs.common.adapters.staging import open_staging
from libs.common.contracts.topics import events_topic
from libs.common.domain.errors import StorageUnavailable
from libs.common.operations.audit import Audit, Check
from libs.common.operations.audit_database import DatabaseChecks
from libs.common.operations.audit_events import EventChecks
from libs.common.operations.audit_gate import GateChecks
from libs.common.operations.audit_objects import ResultChecks, StagingChecks, StoreAway, unreadable
from libs.common.operations.audit_road import RoadChecks
from libs.common.ports_audit import AuditedTasks
from libs.common.settings import Settings

#: An auditor is in no hurry: what is merely slow is not away.
_REDIS_SECONDS = 5.0


@asynccontextmanager
async def open_audit(settings: Settings) -> AsyncIterator[Audit]:
    """An audit over the configured stores. Raises DatabaseUnavailable; the others may be away, which it then says."""
    database_url = settings.database_url.get_secret_value()
    async with (
        open_audit_database(database_url) as tasks,
        open_database(database_url, hot_connections=2) as database,
        open_redis(settings.redis_url.get_secret_value(), seconds=_REDIS_SECONDS) as redis,
        open_rebuilder(redis, PostgresOpenTasks(database)) as rebuilder,
        AsyncExitStack() as stack,
    ):
        gate, permits = RedisQueueGate(redis, rebuilder), RedisPermits(redis, rebuilder)
        log = KafkaLog(KafkaConnection.of(settings))
        yield Audit(
            [
                DatabaseChecks(tasks, gate),
                GateChecks(tasks, gate, permits),
                EventChecks(tasks, log, events_topic(settings.topic_prefix)),
                RoadChecks(tasks, log, settings.topic_prefix),
                *_result_checks(settings, tasks),
                await _staging_checks(stack, settings, database),
            ]
        )


async def _staging_checks(stack: AsyncExitStack, settings: Settings, database: Database) -> Check:
    try:
        staging = await stack.enter_async_context(
            open_staging(
                settings.staging_folder,
                settings.staging_store,
                max_file_bytes=settings.output_max_bytes,
                max_total_bytes=settings.staging_max_bytes,
            )
        )
    except OSError as error:
        return StoreAway(StagingChecks.name, unreadable(error))
    return StagingChecks(PostgresSweeps(database), staging)


def _result_checks(settings: Settings, tasks: AuditedTasks) -> list[Check]:
    if not settings.storage_url:
        return []  # results lie at a file service, which only its own operators can list
    try:
        objects = AuditedObjects(settings.storage_url, public_url=settings.storage_public_url)
    except OSError as error:
        cause = StorageUnavailable(f"the folder of results, {settings.storage_url}, cannot be opened: {error}")
        return [StoreAway(ResultChecks.name, cause)]
    return [ResultChecks(tasks, objects)]
