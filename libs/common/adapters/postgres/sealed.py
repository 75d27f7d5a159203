"""Where sealed values lie in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.adapters.postgres.database import Database
from libs.common.ports_secrets import SealedPlace, SealedValue


class _Column:
    """Implements ports_secrets.SealedPlace: one column, by its three statements."""

    def __init__(self, database: Database, name: str, read: str, newest: str, write: str) -> None:
        self.name = name
        self._database = database
        self._read = read
        self._newest = newest
        self._write = write

    async def page(self, after: int, limit: int) -> list[SealedValue]:
        return [SealedValue(**row) for row in await self._database.fetch(self._read, after, limit)]

    async def newest(self, limit: int) -> list[SealedValue]:
        return [SealedValue(**row) for row in await self._database.fetch(self._newest, limit)]

    async def replace(self, values: Sequence[tuple[SealedValue, bytes]]) -> set[int]:
        rows = await self._database.fetch(
            self._write,
            [value.id for value, _ in values],
            [value.sealed for value, _ in values],
            [fresh for _, fresh in values],
        )
        return {row["id"] for row in rows}


def sealed_places(database: Database) -> list[SealedPlace]:
    """Every column that holds sealed values; a new one is added here."""
    return [
        _Column(database, "model.bindings", "sealed_bindings", "newest_bindings", "reseal_bindings"),
        _Column(database, "task_secret.sealed", "sealed_credentials", "newest_credentials", "reseal_credentials"),
        _Column(database, "webhook.secrets", "sealed_webhooks", "newest_webhooks", "reseal_webhooks"),
    ]
