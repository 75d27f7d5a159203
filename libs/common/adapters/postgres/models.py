"""Models and API keys in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields as dataclass_fields
from datetime import datetime
from typing import Any, Final

from sqlalchemy.exc import IntegrityError

from libs.common.adapters.postgres.database import Database, Queries
from libs.common.adapters.postgres.paging import BEHIND_ALL, page_of
from libs.common.domain.errors import Conflict
from libs.common.domain.model import Model, partitions, window
from libs.common.ports_tasks import KeyOwner, ModelNews

_BEGINNING: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_STORED: Final = tuple(field.name for field in dataclass_fields(Model) if field.name not in ("deleted", "version"))
_WRITTEN: Final = tuple(name for name in _STORED if name not in ("id", "lane", "tenant_id", "partitions"))


class PostgresModels:
    """Implements ports_tasks.Models. `partitions_setting` 0 derives a topic's partitions from one executor's slots."""

    def __init__(self, database: Database, *, partitions_setting: int = 0, executor_slots: int = 2_000) -> None:
        self._database = database
        self._partitions = partitions_setting
        self._slots = executor_slots

    async def create(self, tenant_id: int, creator: str, fields: dict[str, Any]) -> Model:
        defaults = Model(id=0, lane=0, tenant_id=tenant_id, name="", base_url="")
        values = {name: getattr(defaults, name) for name in _WRITTEN} | fields
        try:
            rows = await self._database.query(
                "create_model", tenant_id=tenant_id, creator=creator, **values, **self._derived(values)
            )
        except IntegrityError as error:
            raise _taken(error, values["name"]) from error
        return model_of(rows[0])

    async def update(self, current: Model, updater: str, fields: dict[str, Any]) -> Model | None:
        values = {name: getattr(current, name) for name in _WRITTEN} | fields
        try:
            async with self._database.queries() as transaction:
                rows = await transaction.query(
                    "update_model",
                    tenant_id=current.tenant_id,
                    id=current.id,
                    version=current.version,
                    updater=updater,
                    **values,
                    **self._derived(values),
                )
                # The change has waited for jobs that were just being begun; what would be begun now waits for it.
                if rows and values["adapter"] != current.adapter and await _has_jobs(transaction, current):
                    raise _jobs_open(current)
        except IntegrityError as error:
            raise _taken(error, values["name"]) from error
        return model_of(rows[0]) if rows else None

    async def delete(self, tenant_id: int, model_id: int, updater: str) -> Model | None:
        async with self._database.transaction() as transaction:
            rows = await transaction.fetch("delete_model", tenant_id, model_id, updater)
            if rows:
                await transaction.fetch("end_model_pause", tenant_id, rows[0]["lane"])
        return _from_columns(rows[0]) if rows else None

    async def find(self, tenant_id: int, name: str) -> Model | None:
        rows = await self._database.query("find_model", tenant_id=tenant_id, name=name)
        return model_of(rows[0]) if rows else None

    async def find_many(self, names: Sequence[tuple[int, str]]) -> list[Model]:
        rows = await self._database.read("find_models", [tenant for tenant, _ in names], [name for _, name in names])
        return [_from_columns(row) for row in rows]

    async def find_by_id(self, tenant_id: int, model_id: int) -> Model | None:
        rows = await self._database.query("find_model_by_id", tenant_id=tenant_id, id=model_id)
        return model_of(rows[0]) if rows else None

    async def list_page(self, tenant_id: int, before: int | None, limit: int) -> tuple[list[Model], int | None]:
        rows = await self._database.query(
            "list_models", tenant_id=tenant_id, before=BEHIND_ALL if before is None else before, limit=limit + 1
        )
        return page_of([model_of(row) for row in rows], limit)

    async def by_ids(self, ids: Sequence[int]) -> list[Model]:
        return [model_of(row) for row in await self._database.query("models_by_id", ids=list(ids))]

    async def changed_since(self, since: datetime | None) -> ModelNews:
        rows = await self._database.fetch("models_changed", since or _BEGINNING)
        models = [_from_columns(row) for row in rows if row["id"] is not None]
        return ModelNews(models, rows[0]["now"], rows[0]["server"])

    def _derived(self, values: dict[str, Any]) -> dict[str, int]:
        concurrency = values["max_concurrency"]
        return {
            "window_size": window(concurrency),
            "partitions": self._partitions or partitions(concurrency, self._slots),
        }


class PostgresApiKeys:
    """Implements ports_tasks.ApiKeys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, tenant_id: int, name: str, digest: bytes, scopes: Sequence[str], by: str) -> int:
        rows = await self._database.query(
            "create_key", tenant_id=tenant_id, name=name, digest=digest, scopes=list(scopes), by=by
        )
        return int(rows[0].id)

    async def find(self, digest: bytes) -> KeyOwner | None:
        return _owner(await self._database.read("find_key", digest))

    async def list_of(self, tenant_id: int) -> list[dict[str, Any]]:
        return [dict(row._mapping) for row in await self._database.query("list_keys", tenant_id=tenant_id)]

    async def revoke(self, key_id: int, by: str) -> bool:
        return bool(await self._database.query("revoke_key", id=key_id, by=by))


class PostgresConsoleSessions:
    """Implements ports_tasks.ConsoleSessions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self, key: bytes, session: bytes, seconds: int, scopes: Sequence[str]) -> KeyOwner | None:
        return _owner(await self._database.fetch("open_session", key, session, seconds, list(scopes)))

    async def find(self, session: bytes) -> KeyOwner | None:
        return _owner(await self._database.fetch("find_session", session))

    async def close(self, session: bytes) -> None:
        await self._database.fetch("close_session", session)


def model_of(row: Any) -> Model:
    """The model in a row that has all of its columns and its lane."""
    return _from_columns(row._mapping)


def _from_columns(row: Any) -> Model:
    values = {name: row[name] for name in _STORED}
    return Model(**values, version=row["version"], deleted=row["deleted_at"] is not None)


def _owner(rows: Sequence[Any]) -> KeyOwner | None:
    if not rows:
        return None
    row = rows[0]
    return KeyOwner(row["id"], row["tenant_id"], row["name"], frozenset(row["scopes"]))


async def _has_jobs(transaction: Queries, model: Model) -> bool:
    (row,) = await transaction.query("jobs_of_model", tenant_id=model.tenant_id, id=model.id)
    return bool(row.there)


def _jobs_open(model: Model) -> Conflict:
    message = (
        f"providers have jobs of this model that its adapter {model.adapter!r} has to ask about: pause the"
        " model and change it when they are over, or make another model"
    )
    return Conflict("model_jobs_open", message, field="/adapter")


def _taken(error: IntegrityError, name: str) -> Exception:
    if "model_name" in str(error.orig):
        return Conflict("model_exists", f"there is a model named {name!r} already", field="/name")
    return error
