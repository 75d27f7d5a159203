"""What `sluiceway import-legacy` reaches both databases and Redis by."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from libs.common.adapters.egress import EgressGuard
from libs.common.adapters.postgres.database import open_database
from libs.common.adapters.postgres.legacy_source import open_legacy
from libs.common.adapters.postgres.legacy_target import open_target
from libs.common.adapters.postgres.sweeps import PostgresOpenTasks
from libs.common.adapters.redis.connection import open_redis
from libs.common.adapters.redis.queue_gate import RedisQueueGate
from libs.common.adapters.redis.rebuild import open_rebuilder
from libs.common.adapters.secrets import KeyRing
from libs.common.operations.legacy_dry_run import DryRun
from libs.common.operations.legacy_import import ImportRules, LegacyImport
from libs.common.operations.legacy_models import ModelMapping, Seal
from libs.common.operations.legacy_report import ImportReport
from libs.common.ports_import import LegacyTarget, Progress
from libs.common.settings import Settings

_REDIS_SECONDS = 5.0


@asynccontextmanager
async def open_import(
    settings: Settings, dsn: str, zone: str, path: Sequence[str] | None, *, dry_run: bool, progress: Progress
) -> AsyncIterator[LegacyImport]:
    """An import. Raises WrongSetting, Invalid, and DatabaseUnavailable for either side."""
    seal, guard = _seal(settings, dry_run), EgressGuard.from_setting(settings.egress_allow)
    async with (
        open_legacy(dsn, zone, path) as source,
        open_database(settings.database_url.get_secret_value(), hot_connections=4) as database,
        open_redis(settings.redis_url.get_secret_value(), seconds=_REDIS_SECONDS) as redis,
        open_rebuilder(redis, PostgresOpenTasks(database)) as rebuilder,
    ):
        written = await open_target(database)
        target: LegacyTarget = DryRun(written) if dry_run else written
        report = ImportReport(await source.facts(), dry_run)
        models = ModelMapping(
            seal,
            guard,
            report,
            partitions_setting=settings.topic_partitions,
            executor_slots=settings.executor_slots,
        )
        rules = ImportRules(
            service_credential=bool(settings.oss_authorization.get_secret_value()),
            retry_within=timedelta(seconds=settings.max_wait_seconds),
            payload_path=path is not None,
        )
        gate = RedisQueueGate(redis, rebuilder)
        yield LegacyImport(source, target, gate, seal, progress, rules, models, report)


def _seal(settings: Settings, dry_run: bool) -> Seal:
    if dry_run:
        return lambda _clear, _owner: b"-"
    return KeyRing(settings.secret_keys.get_secret_value()).seal
