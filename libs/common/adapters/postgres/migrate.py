"""Creates and upgrades the tables."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from libs.common.adapters.postgres.database import open_engine
from libs.common.adapters.postgres.way_in import WayIn
from libs.common.domain.errors import ForeignTables

_ADVISORY_LOCK: Final = 7_001_001
#: A migration that cannot get a table's lock soon gives up instead of stopping everybody behind it.
_LOCK_TIMEOUT: Final = "2s"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


async def upgrade(database_url: str) -> str:
    """Bring the database to this version's tables; returns the revision. Safe to run from many places at once.

    Raises ForeignTables.
    """
    engine = open_engine(partial(WayIn().connect, database_url))
    try:
        async with engine.connect() as guard, engine.connect() as worker:
            await guard.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
            await worker.execute(text(f"SET lock_timeout = '{_LOCK_TIMEOUT}'"))
            await worker.commit()
            await worker.run_sync(_upgrade)
            await worker.commit()
            return await worker.run_sync(_revision)
    finally:
        await engine.dispose()


async def revisions(database_url: str) -> tuple[str, str]:
    """The database's revision (empty when it has none) and the one that this version wants."""
    engine = open_engine(partial(asyncpg.connect, database_url))
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(_revision), head()
    finally:
        await engine.dispose()


def knows(revision: str) -> bool:
    """Whether this version can go on from a revision."""
    return any(one.revision == revision for one in ScriptDirectory.from_config(_config()).walk_revisions())


def head() -> str:
    """The revision that this version of the product works on."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def _upgrade(connection: Connection) -> None:
    _check(connection)
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _check(connection: Connection) -> None:
    there = _revision(connection)
    if there and not knows(there):
        raise ForeignTables(
            f"the database is at revision {there}, which this version does not know: a newer one made it; run that"
            " version, or restore a backup from before"
        )
    if not there and connection.scalar(text("SELECT to_regclass('dispatch') IS NOT NULL")):
        raise ForeignTables(
            "the database has tables of ours and does not say of which version: a backup was restored without its"
            " table alembic_version; restore all of it, or name an empty database"
        )


def _revision(connection: Connection) -> str:
    return MigrationContext.configure(connection).get_current_revision() or ""
