"""What the API is made of."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Final
from zoneinfo import ZoneInfo

from libs.common.adapters.egress import EgressGuard
from libs.common.adapters.models.registry import checking_adapters
from libs.common.adapters.object_storage.obstore import BadStorageUrl
from libs.common.adapters.object_storage.result_reader import StoredResults
from libs.common.adapters.postgres.control import PostgresControl
from libs.common.adapters.postgres.database import Database, open_database
from libs.common.adapters.postgres.dead import PostgresDead, PostgresReplayJobs
from libs.common.adapters.postgres.failures import is_data_error
from libs.common.adapters.postgres.insight import PostgresInsight
from libs.common.adapters.postgres.legacy_rows import PostgresLegacyRows
from libs.common.adapters.postgres.models import PostgresApiKeys, PostgresConsoleSessions, PostgresModels
from libs.common.adapters.postgres.operations import PostgresOperations
from libs.common.adapters.postgres.provider_jobs import PostgresProviderJobs
from libs.common.adapters.postgres.quota import PostgresQuotaBook, PostgresTenants
from libs.common.adapters.postgres.sweeps import PostgresOpenTasks
from libs.common.adapters.postgres.task_states import PostgresTaskStates
from libs.common.adapters.postgres.tasks import PostgresTasks
from libs.common.adapters.postgres.webhooks import PostgresWebhooks
from libs.common.adapters.redis.audience import RedisAudience
from libs.common.adapters.redis.connection import open_redis
from libs.common.adapters.redis.hints import open_hints
from libs.common.adapters.redis.permits import RedisPermits
from libs.common.adapters.redis.queue_gate import RedisQueueGate
from libs.common.adapters.redis.rebuild import open_rebuilder
from libs.common.adapters.secrets import KeyRing
from libs.common.contracts import hints as wire
from libs.common.domain.errors import LaneUnavailable, WrongSetting
from libs.common.domain.model import Model
from libs.common.operations.audit import Report
from libs.common.operations.audit_stores import open_audit
from libs.common.operations.callback_tokens import CallbackTokens
from libs.common.operations.control import Controls
from libs.common.operations.dead import Dead
from libs.common.operations.keys import Keys
from libs.common.operations.model_cache import REFRESH_SECONDS, ModelCache
from libs.common.operations.quota import Quota, Weights
from libs.common.operations.replay import Replays
from libs.common.operations.series import Series
from libs.common.operations.sight import Sight
from libs.common.operations.webhooks import TaskHooks, WebhookAdministration
from libs.common.operations.why import Why
from libs.common.ports import Hints, QueueGate, Seal, SlotRequest, SlotVerdict
from libs.common.ports_legacy import LegacyRows
from libs.common.ports_results import ResultReader
from libs.common.ports_tasks import Creation, NewTask, Repeated, Tasks
from libs.common.ports_webhooks import Webhooks
from libs.common.runtime.coalescer import Coalescer
from libs.common.runtime.health import Health
from libs.common.runtime.periodic import Periodic
from libs.common.settings import Settings
from services.api.administration import Administration
from services.api.app import Gateway
from services.api.auth import Callers
from services.api.callbacks import Callbacks
from services.api.cancellation import Canceling
from services.api.console.app import Console
from services.api.console.sessions import Sessions, Tries
from services.api.console.tools import Tools, setting_rows
from services.api.identity import Identity, TrustedPeers, default_identity, names_of, tenants_of
from services.api.legacy.face import LegacyFace
from services.api.legacy.models import LegacyModels
from services.api.legacy.routes import old_routes
from services.api.legacy.rows import Rows
from services.api.legacy.statistics import LegacyStatistics
from services.api.legacy.tasks import LegacyTasks
from services.api.operation_log import OperationLog, open_operation_log
from services.api.orders import Orders
from services.api.parsing import Parsing
from services.api.push.face import Origins, Push
from services.api.push.hub import Hub
from services.api.push.telling import Telling
from services.api.reading import Reading
from services.api.results import Results
from services.api.routes.context import UseCases
from services.api.routes.create_task import CreateTask
from services.api.serving import ApiService, open_listener
from services.api.submission import Submission
from services.api.task_writer import TaskWriter
from services.api.user_info import UserInfoReader
from services.api.waiting import WaitRoom

#: Two of each: while one flush waits for its answer the next one gathers.
_FLUSHES: Final = 2
_CLOSE_SECONDS: Final = 5.0


@asynccontextmanager
async def open_api(settings: Settings, health: Health) -> AsyncIterator[ApiService]:
    """The API over real servers. Neither need be there yet: it is not ready until they are."""
    ring = KeyRing(settings.secret_keys.get_secret_value())
    guard = EgressGuard.from_setting(settings.egress_allow)
    adapters = checking_adapters()
    async with (
        open_database(settings.database_url.get_secret_value()) as database,
        open_redis(settings.redis_url.get_secret_value()) as redis,
        open_hints(redis) as hints,
        open_rebuilder(redis, PostgresOpenTasks(database)) as rebuilder,
        AsyncExitStack() as stack,
    ):
        tasks = PostgresTasks(database, settings.timezone)
        models = PostgresModels(
            database, partitions_setting=settings.topic_partitions, executor_slots=settings.executor_slots
        )
        gate = RedisQueueGate(redis, rebuilder)

        cache, room = ModelCache(models), WaitRoom(tasks.final_among)
        operations, dead = PostgresOperations(database), PostgresDead(database)
        operation_log = await stack.enter_async_context(open_operation_log(operations, is_data_error=is_data_error))
        zone, seal = ZoneInfo(settings.timezone), ring if settings.oss_url else None
        webhooks = PostgresWebhooks(database)
        submission = await _submission(stack, cache, gate, tasks, hints, zone, seal, webhooks, guard)
        reading = Reading(tasks, room)
        insight = PostgresInsight(database)
        sight = Sight(insight, gate, RedisPermits(redis, rebuilder))
        cases = UseCases(
            administration=Administration(models, cache, hints, seal=ring, guard=guard, adapters=adapters),
            reading=reading,
            operations=operations,
            canceling=Canceling(tasks, gate, hints),
            webhooks=WebhookAdministration(webhooks, ring, guard),
            results=Results(reading, _result_reader(settings)),
            quota=Quota(PostgresQuotaBook(database, settings.timezone), zone),
            weights=Weights(PostgresTenants(database, settings.timezone), hints),
            keys=Keys(PostgresApiKeys(database)),
            sight=sight,
            why=Why(insight, sight),
            series=Series(insight),
            controls=Controls(PostgresControl(database), insight, hints),
            dead=Dead(dead, operations),
            replays=Replays(dead, PostgresReplayJobs(database)),
            open_sealed=ring.open,
        )
        hub = Hub(PostgresTaskStates(database), RedisAudience(redis), most=settings.push_connections)
        identity = _identity(settings, database)
        parsing = Parsing()
        gateway = Gateway(
            identity,
            CreateTask(submission, Orders(settings.payload_max_bytes), operation_log, parsing, cases.reading),
            _legacy(settings, PostgresLegacyRows(database), cases, submission, operation_log, parsing),
            Push(Telling(hub), identity, Origins(settings.push_origins)),
            cases,
            _console(settings, database, cases, health, hub),
            Callbacks(CallbackTokens(ring), PostgresProviderJobs(database), hints, limit=settings.callback_max_bytes),
            health,
            parsing,
            payload_limit=settings.payload_max_bytes,
        )
        health.need("postgres", lambda: database.fetch("database_now"))
        health.need("redis", redis.ping)
        refresh = Periodic("models", timedelta(seconds=REFRESH_SECONDS), cache.refresh)
        listener = stack.enter_context(open_listener(settings.api_host, settings.api_port))
        yield ApiService(
            gateway,
            listener,
            room,
            hub,
            refresh,
            lambda: hints.listen([wire.MODELS], lambda _channel, _lines: refresh.trigger(), refresh.trigger),
            drain_seconds=settings.drain_seconds,
        )


def _console(settings: Settings, database: Database, cases: UseCases, health: Health, hub: Hub) -> Console:
    async def audit(fix: bool) -> Report:
        async with open_audit(settings) as opened:
            return await opened.run(fix=fix)

    tools = Tools(
        cases=cases,
        sessions=Sessions(PostgresConsoleSessions(database)),
        tries=Tries(),
        settings=setting_rows(settings),
        draining=lambda: health.draining,
        audit=audit,
        auditing=asyncio.Lock(),
        hub=hub,
        watching=Counter(),
    )
    return Console(tools)


def _result_reader(settings: Settings) -> ResultReader | None:
    if not settings.storage_url:
        return None
    try:
        return StoredResults(settings.storage_url, public_url=settings.storage_public_url)
    except BadStorageUrl as error:
        raise WrongSetting(str(error)) from error


def _identity(settings: Settings, database: Database) -> Identity:
    return Identity(
        Callers(PostgresApiKeys(database)),
        TrustedPeers(settings.trusted_peers, settings.trusted_secret.get_secret_value()),
        UserInfoReader(
            names_of("SLUICEWAY_USER_INFO_TENANT", settings.user_info_tenant),
            names_of("SLUICEWAY_USER_INFO_USER", settings.user_info_user),
        ),
        default_identity(settings.default_identity),
    )


def _legacy(
    settings: Settings,
    stored: LegacyRows,
    cases: UseCases,
    submission: Submission,
    operations: OperationLog,
    parsing: Parsing,
) -> LegacyFace:
    rows = Rows(ZoneInfo(settings.timezone))
    routes = old_routes(
        LegacyModels(cases.administration, stored, rows),
        LegacyTasks(submission, cases.reading, stored, rows, parsing, payload_limit=settings.payload_max_bytes),
        LegacyStatistics(stored, rows, tenants_of("SLUICEWAY_STAT_READERS", settings.stat_readers)),
    )
    return LegacyFace(routes, operations, parsing, refuse_with_200=settings.legacy_http_200)


async def _submission(
    stack: AsyncExitStack,
    cache: ModelCache,
    gate: QueueGate,
    tasks: Tasks,
    hints: Hints,
    zone: ZoneInfo,
    seal: Seal | None,
    webhooks: Webhooks,
    guard: EgressGuard,
) -> Submission:
    """The road of a create; its flushes end before the stores are closed."""
    slots: Coalescer[SlotRequest, SlotVerdict] = Coalescer(
        gate.take_many,
        concurrency=_FLUSHES,
        # A lane that cannot be answered for must not close the gate for its neighbours of the batch.
        is_data_error=lambda error: isinstance(error, LaneUnavailable),
    )
    writes: Coalescer[NewTask, Creation] = Coalescer(
        TaskWriter(tasks, hints).write,
        concurrency=_FLUSHES,
        size_of=lambda task: len(task.payload),
        is_data_error=is_data_error,
        locked=tasks.locked,
        rows_of=lambda task: (task.tenant_id, task.creator) if task.points else None,
    )
    earlier: Coalescer[NewTask, Repeated | None] = Coalescer(tasks.earlier_many)
    names: Coalescer[tuple[int, str], Model | None] = Coalescer(cache.look_up, is_data_error=is_data_error)
    locked: Coalescer[NewTask, bool] = Coalescer(tasks.locked)
    signing: Coalescer[int, bool] = Coalescer(webhooks.sign_tasks)
    for coalescer in (slots, writes, earlier, names, locked, signing):
        stack.push_async_callback(coalescer.close, _CLOSE_SECONDS)
    hooks = TaskHooks(signing.submit, guard)
    return Submission(cache, gate, slots, writes, earlier, names, locked, zone=zone, seal=seal, hooks=hooks)
