"""What `sluiceway dead`, `replays` and `events` reach the stores by: no API is needed, it may be down."""

from __future__ import annotations

import getpass
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from libs.common.adapters.postgres.database import open_database
from libs.common.adapters.postgres.dead import PostgresDead, PostgresReplayJobs
from libs.common.adapters.postgres.operations import PostgresOperations
from libs.common.adapters.secrets import KeyRing
from libs.common.domain.errors import WrongSetting
from libs.common.operations.dead import Dead
from libs.common.operations.dead_views import Opener
from libs.common.operations.replay import Replays
from libs.common.settings import Settings


@dataclass(frozen=True, slots=True)
class Graveyard:
    """The use cases, and what opens sealed headers to show their names."""

    dead: Dead
    replays: Replays
    opener: Opener | None


@asynccontextmanager
async def open_graveyard(settings: Settings) -> AsyncIterator[Graveyard]:
    """The dead of the configured database."""
    async with open_database(settings.database_url.get_secret_value(), hot_connections=1) as database:
        rows = PostgresDead(database)
        dead, replays = Dead(rows, PostgresOperations(database)), Replays(rows, PostgresReplayJobs(database))
        yield Graveyard(dead, replays, _opener(settings))


def plain(view: Any) -> Any:
    """A view with its times in RFC 3339 UTC, as the API writes them."""
    return orjson.loads(orjson.dumps(view, option=orjson.OPT_UTC_Z))


def operator_name() -> str:
    """Who is at the terminal, for the record."""
    try:
        return f"{getpass.getuser()} at the command line"
    except (KeyError, OSError):
        return "somebody at the command line"


def _opener(settings: Settings) -> Opener | None:
    keys = settings.secret_keys.get_secret_value()
    if not keys:
        return None
    try:
        return KeyRing(keys).open
    except WrongSetting:
        return None  # the headers' names are not shown then
