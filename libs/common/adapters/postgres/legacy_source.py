"""An old gateway's tables, read only and as they were when the reading began."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import asyncpg
import orjson

from libs.common.adapters.postgres.failures import UNREACHABLE
from libs.common.adapters.postgres.statements import Statements, load_statements
from libs.common.domain.errors import DatabaseUnavailable, Invalid
from libs.common.domain.legacy import LegacyModel, LegacyTask
from libs.common.ports_import import (
    MODELS,
    OP_LOG,
    STATISTICS,
    TABLES,
    TASKS,
    LegacyCount,
    LegacyLine,
    RawTask,
    SourceFacts,
    TableFacts,
)

_CONNECT_SECONDS: Final = 10.0
_SLICE_ROWS: Final = 1_000
#: A slice's payloads are in memory three times: as read, as mapped, as sent.
_SLICE_BYTES: Final = 8 * 2**20
#: Rows that the driver holds beside a slice; each may have a payload of megabytes.
_PREFETCH: Final = 50
_MOST_SHARED: Final = 100_000

_COMMON: Final = frozenset({"id", "tenant_id", "creator", "created_at", "updated_at", "deleted_at"})
_NEEDED: Final = {
    MODELS: _COMMON
    | {"model_name", "base_url", "route", "http_method", "api_key", "enabled", "max_concurrency", "queue_limit"}
    | {"retry_times", "auto_clean_seconds", "remark", "updater"},
    TASKS: _COMMON
    | {"model_name", "task_id", "state", "oss_file", "file_type", "file_size", "error_msg", "started_at"}
    | {"finished_at", "expire_at", "retry_count", "enqueue_at", "input_ref", "request_payload"},
    OP_LOG: (_COMMON - {"updated_at"})
    | {"ip", "user_agent", "api_path", "http_method", "biz_name", "model_name", "task_id", "op_type", "success"}
    | {"error_msg", "cost_ms", "request_payload", "response_payload"},
    STATISTICS: frozenset({"day", "tenant_id", "creator", "model_name", "request_count", "created_at", "updated_at"}),
}
#: What newer installations have; the import does without.
_NEWER: Final = {MODELS: ("retry_queue_max_seconds", "expected_seconds"), TASKS: ("phase",)}
_FACTS: Final = {
    MODELS: "legacy_models_facts",
    TASKS: "legacy_tasks_facts",
    OP_LOG: "legacy_lines_facts",
    STATISTICS: "legacy_counts_facts",
}

#: Instants come as microseconds from here on; what lies beyond two centuries before or behind it was never meant.
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_CENTURIES: Final = timedelta(days=200 * 365)

Row = TypeVar("Row")


class PostgresLegacy:
    """Implements ports_import.LegacySource over one connection inside one transaction."""

    def __init__(self, connection: Any, statements: Statements, path: Sequence[str] | None) -> None:
        self._connection = connection
        self._statements = statements
        self._path = list(path) if path is not None else None

    async def facts(self) -> SourceFacts:
        columns: dict[str, set[str]] = {}
        for row in await self._fetch("legacy_columns", list(TABLES)):
            columns.setdefault(row["table"], set()).add(row["column"])
        _check(columns)
        tables, later = {}, 0
        for table in TABLES:
            (row,) = await self._fetch(_FACTS[table])
            later = row.get("later_than_now") or later
            older = [name for name in _NEWER.get(table, ()) if name not in columns[table]]
            if table == MODELS and "timeout_seconds" not in columns[table]:
                older.insert(0, "timeout_seconds")
            variant = f"older: without {', '.join(older)}" if older else "newer" if table in _NEWER else ""
            tables[table] = TableFacts(row["rows"], row["deleted"], row["largest_id"], variant)
        states = {row["state"]: row["rows"] for row in await self._fetch("legacy_states")}
        (name,) = await self._fetch("legacy_name")
        shared = {row["id"] for row in await self._fetch("legacy_shared", _MOST_SHARED)}
        return SourceFacts(name["name"], tables, states, later, shared)

    def models(self) -> AsyncIterator[list[LegacyModel]]:
        return self._slices("legacy_models", (), lambda row: LegacyModel(**row))

    def tasks(self, after: int) -> AsyncIterator[list[RawTask]]:
        return self._slices("legacy_tasks", (after, self._path), _task)

    def lines(self, after: int) -> AsyncIterator[list[LegacyLine]]:
        return self._slices("legacy_lines", (after,), lambda row: LegacyLine(**row))

    def counts(self) -> AsyncIterator[list[LegacyCount]]:
        return self._slices("legacy_counts", (), lambda row: LegacyCount(**row))

    async def _slices(
        self, name: str, arguments: tuple[Any, ...], read: Callable[[asyncpg.Record], Row]
    ) -> AsyncIterator[list[Row]]:
        part: list[Row] = []
        size = 0
        try:
            async for row in self._connection.cursor(self._statements[name], *arguments, prefetch=_PREFETCH):
                part.append(read(row))
                size += sum(len(value) for value in row.values() if isinstance(value, str))
                if len(part) >= _SLICE_ROWS or size >= _SLICE_BYTES:
                    yield part
                    part, size = [], 0
        except UNREACHABLE as error:
            raise _away(error) from error
        except asyncpg.PostgresError as error:
            raise _unreadable(name, error) from error
        if part:
            yield part

    async def _fetch(self, name: str, *arguments: Any) -> list[asyncpg.Record]:
        try:
            rows: list[asyncpg.Record] = await self._connection.fetch(self._statements[name], *arguments)
        except UNREACHABLE as error:
            raise _away(error) from error
        except asyncpg.PostgresError as error:
            raise _unreadable(name, error) from error
        return rows


@asynccontextmanager
async def open_legacy(dsn: str, time_zone: str, path: Sequence[str] | None) -> AsyncIterator[PostgresLegacy]:
    """A view of the old tables whose local times are those of `time_zone`. Raises DatabaseUnavailable and Invalid."""
    try:
        connection = await asyncpg.connect(dsn, timeout=_CONNECT_SECONDS, server_settings={"timezone": time_zone})
    except (ValueError, asyncpg.InterfaceError) as error:
        raise Invalid("dsn", f"--dsn does not read as an address of PostgreSQL: {error}") from error
    except asyncpg.InvalidParameterValueError as error:
        raise Invalid("timezone", f"the old database does not know the time zone {time_zone!r}") from error
    except (*UNREACHABLE, asyncpg.PostgresError) as error:
        raise _away(error) from error
    try:
        await connection.set_type_codec(
            "timestamptz", schema="pg_catalog", format="tuple", encoder=_unsent, decoder=_instant
        )
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            yield PostgresLegacy(connection, load_statements("legacy_sql"), path)
    finally:
        await connection.close(timeout=_CONNECT_SECONDS)


def _instant(value: tuple[int]) -> datetime | None:
    """An instant, or none for what means none: the year 1, as Go writes a time that was never set, and infinity."""
    at = timedelta(microseconds=value[0])
    return _EPOCH + at if -_CENTURIES < at < _CENTURIES else None


def _unsent(value: Any) -> Any:
    """No instant is sent there."""
    raise NotImplementedError


def _away(error: BaseException) -> DatabaseUnavailable:
    return DatabaseUnavailable(f"the old database (--dsn) cannot be read: {type(error).__name__} {error}".rstrip())


def _unreadable(name: str, error: asyncpg.PostgresError) -> Invalid:
    """Columns of other types than the old gateway's, as a rule."""
    return Invalid("unreadable", f"the old database does not answer {name}: {error.args[0]}")


def _check(columns: dict[str, set[str]]) -> None:
    missing = [table for table in TABLES if table not in columns]
    if missing:
        raise Invalid(
            "no_table",
            f"the old database has no {', '.join(missing)} in its search path: name the database, and the schema by "
            "?options=-csearch_path%3D<schema>, in --dsn",
        )
    for table, needed in _NEEDED.items():
        absent = sorted(needed - columns[table])
        if absent:
            raise Invalid("no_column", f"{table} has no column {', '.join(absent)}: it is no table of the old gateway")
    if not {"timeout_seconds", "timeout_ms"} & columns[MODELS]:
        raise Invalid("no_column", f"{MODELS} has neither timeout_seconds nor timeout_ms")


def _task(row: asyncpg.Record) -> RawTask:
    values = dict(row)
    payload, wrapper = values.pop("payload"), values.pop("wrapper")
    quoted, whole = values.pop("quoted"), values.pop("whole")
    if payload is not None and quoted:
        payload = _unquoted(payload)
    task = LegacyTask(**values)
    if whole is not None:
        return RawTask(task, whole, wrapper, unwrapped=False)
    return RawTask(task, payload, wrapper)


def _unquoted(text: str) -> str:
    """A payload that was kept as text: JSON inside a JSON string is meant as that JSON."""
    try:
        inner = orjson.loads(text)
    except ValueError:
        inner = None
    return text if isinstance(inner, dict | list) else orjson.dumps(text).decode()
