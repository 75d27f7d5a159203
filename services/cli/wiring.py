"""What commands reach PostgreSQL by."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from errno import ENOSPC, EPIPE
from typing import TYPE_CHECKING, Any, TypeVar
from zoneinfo import ZoneInfo

import typer

from services.cli.here import offer_stack
from services.cli.output import note

# Every command imports this module, and SQLAlchemy takes its time: adapters are imported where they are used.
if TYPE_CHECKING:
    from libs.common.operations.control import Controls
    from libs.common.operations.dead import Dead
    from libs.common.operations.dead_json import Opener
    from libs.common.operations.keys import Keys
    from libs.common.operations.quota import Quota, Weights
    from libs.common.operations.replay import Replays
    from libs.common.operations.series import Series
    from libs.common.operations.sight import Sight
    from libs.common.operations.why import Why
    from libs.common.ports_webhooks import Webhooks
    from libs.common.settings import Settings

Result = TypeVar("Result")


def complete(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a command's work; what is refused ends it with one line and exit code 1, a store that is away with 3.

    So does a database that answers "no" because it is another than was meant, or has not the tables of this version.
    """
    from libs.common.domain.errors import BrokerUnavailable, GateUnavailable, Refused, RowsLocked, SluicewayError
    from services.cli.control_room import ApiUnavailable

    try:
        return asyncio.run(work)
    except Refused as refused:
        where = refused.field.removeprefix("/")
        note(refused.message + (f" ({where})" if where else ""))
        raise typer.Exit(1) from None
    except (SluicewayError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (EPIPE, ENOSPC):
            raise  # what was printed has no reader, or no room
        match error:
            case ApiUnavailable():
                note(f"{error} (see SLUICEWAY_URL; where the stores are within reach, --url '' goes straight to them)")
                raise typer.Exit(3) from None
            case RowsLocked():
                note(f"{error} (`sluiceway doctor` names it)")
                raise typer.Exit(3) from None
            case BrokerUnavailable():
                setting = "SLUICEWAY_KAFKA_BOOTSTRAP"
            case GateUnavailable():
                setting = "SLUICEWAY_REDIS_URL"
            case _:
                setting = "SLUICEWAY_DATABASE_URL"
        note(f"{error or type(error).__name__} (see {setting})")
        offer_stack()
        raise typer.Exit(3) from None
    except Exception as error:
        from libs.common.adapters.postgres.refusals import remedy_of

        remedy = remedy_of(error)
        if remedy is None:
            raise
        note(remedy)
        raise typer.Exit(3) from None


@dataclass(frozen=True, slots=True)
class Stores:
    """The use cases of operators, straight on the stores."""

    sight: Sight
    why: Why
    series: Series
    controls: Controls
    weights: Weights
    quota: Quota
    keys: Keys
    webhooks: Webhooks
    dead: Dead
    replays: Replays
    opener: Opener | None  #: opens sealed headers, to show their names


@asynccontextmanager
async def open_stores(settings: Settings) -> AsyncIterator[Stores]:
    """The use cases over the configured stores; Redis may be away, and what it counts is then unknown."""
    from libs.common.adapters.postgres.control import PostgresControl
    from libs.common.adapters.postgres.database import open_database
    from libs.common.adapters.postgres.dead import PostgresDead, PostgresReplayJobs
    from libs.common.adapters.postgres.insight import PostgresInsight
    from libs.common.adapters.postgres.models import PostgresApiKeys
    from libs.common.adapters.postgres.operations import PostgresOperations
    from libs.common.adapters.postgres.quota import PostgresQuotaBook, PostgresTenants
    from libs.common.adapters.postgres.sweeps import PostgresOpenTasks
    from libs.common.adapters.postgres.webhooks import PostgresWebhooks
    from libs.common.adapters.redis.connection import open_redis
    from libs.common.adapters.redis.hints import open_hints
    from libs.common.adapters.redis.permits import RedisPermits
    from libs.common.adapters.redis.queue_gate import RedisQueueGate
    from libs.common.adapters.redis.rebuild import open_rebuilder
    from libs.common.operations.control import Controls
    from libs.common.operations.dead import Dead
    from libs.common.operations.keys import Keys
    from libs.common.operations.quota import Quota, Weights
    from libs.common.operations.replay import Replays
    from libs.common.operations.series import Series
    from libs.common.operations.sight import Sight
    from libs.common.operations.why import Why

    async with (
        open_database(settings.database_url.get_secret_value(), hot_connections=2) as database,
        open_redis(settings.redis_url.get_secret_value()) as redis,
        open_rebuilder(redis, PostgresOpenTasks(database)) as rebuilder,
        open_hints(redis) as hints,
    ):
        insight, dead = PostgresInsight(database), PostgresDead(database)
        sight = Sight(insight, RedisQueueGate(redis, rebuilder), RedisPermits(redis, rebuilder))
        yield Stores(
            sight=sight,
            why=Why(insight, sight),
            series=Series(insight),
            controls=Controls(PostgresControl(database), insight, hints),
            weights=Weights(PostgresTenants(database, settings.timezone), hints),
            quota=Quota(PostgresQuotaBook(database, settings.timezone), ZoneInfo(settings.timezone)),
            keys=Keys(PostgresApiKeys(database)),
            webhooks=PostgresWebhooks(database),
            dead=Dead(dead, PostgresOperations(database)),
            replays=Replays(dead, PostgresReplayJobs(database)),
            opener=_opener(settings),
        )


def _opener(settings: Settings) -> Opener | None:
    from libs.common.adapters.secrets import KeyRing
    from libs.common.domain.errors import WrongSetting

    keys = settings.secret_keys.get_secret_value()
    if not keys:
        return None
    try:
        return KeyRing(keys).open
    except WrongSetting:
        return None  # the headers' names are not shown then


def operator_name() -> str:
    """Who is at the terminal, for the record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id that nobody gave a name to, as in many containers
        return "somebody"
