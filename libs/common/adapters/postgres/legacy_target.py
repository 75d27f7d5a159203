"""Our tables, as an import from an old gateway writes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from libs.common.adapters.postgres.database import Database, HotTransaction
from libs.common.adapters.postgres.failures import is_data_error
from libs.common.domain.errors import Conflict, Invalid
from libs.common.domain.legacy import Home, TakenTask
from libs.common.domain.settle import RetryPolicy
from libs.common.domain.task import DispatchState
from libs.common.ports_import import (
    MODELS,
    OP_LOG,
    QUOTED,
    TABLES,
    TASKS,
    UNFIT,
    LegacyCount,
    Note,
    NoteBook,
    Slice,
    TakenLine,
    TakenModel,
    Written,
)
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.redaction import redact_text

_MOST_COUNTED: Final = 1_000_000
_BEFORE_ALL: Final = -(2**63)  #: where a table's mark begins: its ids are the old gateway's own
_STORED: Final = (
    "base_url", "route", "http_method", "bindings", "enabled", "max_concurrency", "queue_limit", "timeout_seconds",
    "expected_seconds", "retry_times", "retry_queue_max_seconds", "auto_clean_seconds", "remark", "window_size",
    "partitions", "creator", "updater", "created_at",
)  # fmt: skip


class PostgresLegacyTarget:
    """Implements ports_import.LegacyTarget."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, source: str, largest: Mapping[str, int]) -> None:
        async with self._database.transaction() as transaction:
            await transaction.fetch("begin_legacy", source, list(TABLES))
            await transaction.fetch("raise_sequences", *(largest.get(table, 0) for table in (MODELS, TASKS, OP_LOG)))

    async def mark(self, source: str, table: str) -> int:
        rows = await self._database.fetch("legacy_mark", source, table)
        return int(rows[0]["last_id"]) if rows else _BEFORE_ALL

    async def copied(self, source: str) -> dict[str, int]:
        return {row["table"]: row["copied"] for row in await self._database.fetch("legacy_copied", source)}

    async def open_without_credential(self) -> int:
        return int((await self._database.fetch("open_without_credential", _MOST_COUNTED))[0]["rows"])

    async def notes(self, source: str) -> NoteBook:
        counts = {row["code"]: row["rows"] for row in await self._database.fetch("legacy_note_counts", source)}
        return NoteBook(counts, [Note(**row) for row in await self._database.fetch("legacy_notes", source, QUOTED)])

    async def homes(self, source: str) -> dict[tuple[int, str], Home]:
        return {
            (row["tenant_id"], row["name"]): Home(
                row["model_id"],
                row["lane"],
                RetryPolicy(row["retry_times"], row["retry_queue_max_seconds"], upload_max_seconds=0),
                row["auto_clean_seconds"],
                row["slot_ttl_ms"],
            )
            for row in await self._database.fetch("legacy_homes", source)
        }

    async def add_models(self, part: Slice, models: Sequence[TakenModel]) -> Written:
        columns: list[list[Any]] = [[getattr(model, name) for model in models] for name in ("id", "tenant_id", "name")]
        columns += [[model.stored[name] for model in models] for name in _STORED]
        columns.append([model.stand_in for model in models])
        async with _unfit(), self._database.transaction() as transaction:
            await _hold(transaction, part)
            rows = await transaction.fetch("import_models", part.source, *columns)
            notes = [*part.notes, *(note for row in rows if row["id"] > 0 and (note := _model_note(row)) is not None)]
            new = sum(row["id"] > 0 and not row["there"] for row in rows)  # a stand-in is no row of the old table
            await self._close(transaction, part._replace(notes=notes), new)
        return Written(new)

    async def add_lines(self, part: Slice, lines: Sequence[TakenLine]) -> Written:
        async with _unfit(), self._database.transaction() as transaction:
            await _hold(transaction, part)
            rows = await transaction.fetch("import_lines", *_line_columns(lines))
            written = {row["old_id"] for row in rows}
            there = [taken.line.id for taken in lines if taken.line.id not in written]
            here = [Note(OP_LOG, id_, "line_is_here", "the operation log has this line already") for id_ in there]
            await self._close(transaction, part._replace(notes=[*part.notes, *here]), len(rows))
        return Written(len(rows))

    async def add_tasks(self, part: Slice, tasks: Sequence[TakenTask]) -> Written:
        async with _unfit(), self._database.transaction() as transaction:
            await _hold(transaction, part)
            rows = await transaction.fetch("import_tasks", *_task_columns(tasks))
            ids = {row["old_id"]: row["id"] for row in rows}
            there = [task for task in tasks if task.id not in ids]
            moved = [(old, new) for old, new in ids.items() if old != new]
            notes = [
                *part.notes,
                *(Note(TASKS, task.id, "same_task_id", f"task id {task.public_id} is in use here") for task in there),
                *(Note(TASKS, old, "renumbered", f"its number is in use here; it has {new}") for old, new in moved),
            ]
            await self._close(transaction, part._replace(notes=notes), len(rows))
        await failpoint("cli/import-after-commit")
        return Written(len(rows), _slots(tasks, ids))

    async def in_use(self, tasks: Sequence[TakenTask]) -> list[int]:
        rows = await self._database.fetch(
            "written_tasks", [task.tenant_id for task in tasks], [task.public_id for task in tasks]
        )
        used = {(row["tenant_id"], row["public_id"]) for row in rows}
        return [task.id for task in tasks if (task.tenant_id, task.public_id) in used]

    async def new_counts(self, source: str, counts: Sequence[LegacyCount]) -> int:
        rows = await self._database.fetch("new_counts", source, *_count_columns(counts)[:5])
        return int(rows[0]["rows"])

    async def add_counts(self, source: str, counts: Sequence[LegacyCount], notes: Sequence[Note]) -> int:
        async with _unfit(), self._database.transaction() as transaction:
            await transaction.fetch("lock_statistics", source)
            rows = await transaction.fetch("import_counts", source, *_count_columns(counts))
            if notes:
                await transaction.fetch("add_notes", source, *map(list, zip(*notes, strict=True)))
            await failpoint("cli/import-before-commit")
        return int(rows[0]["rows"])

    async def _close(self, transaction: HotTransaction, part: Slice, copied: int) -> None:
        """The last statements of a slice: what is to be known about it, and the mark."""
        if part.notes:
            await transaction.fetch("add_notes", part.source, *map(list, zip(*part.notes, strict=True)))
        await transaction.fetch("move_mark", part.source, part.table, part.upto, copied)
        await failpoint("cli/import-before-commit")


async def _hold(transaction: HotTransaction, part: Slice) -> None:
    """First of all, so that another import waits here, and then learns that it is not alone."""
    if not await transaction.fetch("hold_mark", part.source, part.table, part.after):
        raise Conflict("import_running", "another import of the same old database is running: let it end")


def _model_note(row: Any) -> Note | None:
    """What callers who stored an old model's id must be told."""
    old, new = row["id"], row["model_id"]
    if row["there"]:
        return Note(
            MODELS, old, "model_is_here", f"its name is in use here: model {new} stays as it is, its tasks go there"
        )
    if old != new:
        return Note(MODELS, old, "model_renumbered", f"its id is in use here, it has {new}: tell those who stored it")
    return None


@asynccontextmanager
async def _unfit() -> AsyncIterator[None]:
    """What PostgreSQL says about a value that it does not take, without the value."""
    try:
        yield
    except Exception as error:
        if not is_data_error(error):
            raise
        named = getattr(error, "column_name", None) or getattr(error, "constraint_name", None) or "a column"
        raise Invalid(UNFIT, f"{named} does not take what it has ({type(error).__name__})") from error


def _count_columns(counts: Sequence[LegacyCount]) -> list[list[Any]]:
    return [[count[nth] for count in counts] for nth in range(7)]


def _line_columns(lines: Sequence[TakenLine]) -> tuple[list[Any], ...]:
    rows = [taken.line for taken in lines]
    return (
        [row.id for row in rows],
        [row.tenant_id for row in rows],
        [row.creator for row in rows],
        [row.created_at for row in rows],
        [row.ip for row in rows],
        [row.user_agent for row in rows],
        [row.api_path for row in rows],
        [row.http_method for row in rows],
        [row.biz_name for row in rows],
        [row.model_name for row in rows],
        [taken.task for taken in lines],
        [row.op_type for row in rows],
        [row.success for row in rows],
        [taken.error_msg for taken in lines],
        [row.cost_ms for row in rows],
        [taken.request for taken in lines],
        [taken.response for taken in lines],
    )


def _task_columns(tasks: Sequence[TakenTask]) -> tuple[list[Any], ...]:
    return (
        [task.id for task in tasks],
        [task.public_id for task in tasks],
        [task.tenant_id for task in tasks],
        [task.home.model_id for task in tasks],
        [task.home.lane for task in tasks],
        [task.creator for task in tasks],
        [task.input_ref for task in tasks],
        [task.payload for task in tasks],
        [task.sealed for task in tasks],
        [int(task.status) for task in tasks],
        [task.attempts for task in tasks],
        [task.retries for task in tasks],
        [task.outcome for task in tasks],
        [task.created_at for task in tasks],
        [task.started_at for task in tasks],
        [task.finished_at for task in tasks],
        [task.fetched_at for task in tasks],
        [task.expire_at for task in tasks],
        [task.oss_file for task in tasks],
        [task.file_type for task in tasks],
        [task.file_size for task in tasks],
        [None if task.error_message is None else redact_text(task.error_message) for task in tasks],
        [None if task.state is None else int(task.state) for task in tasks],
        [0 if task.head else 1 for task in tasks],
        [task.position for task in tasks],
    )


def _slots(tasks: Sequence[TakenTask], written: Mapping[int, int]) -> dict[int, list[tuple[str, int]]]:
    """Gate slots of the open tasks, by lane; one that waits for a retry has none."""
    slots: dict[int, list[tuple[str, int]]] = {}
    for task in tasks:
        if task.id in written and task.state is DispatchState.READY:
            slots.setdefault(task.home.lane, []).append((str(task.public_id), task.home.slot_ttl_ms))
    return slots


async def open_target(database: Database) -> PostgresLegacyTarget:
    """A target over migrated tables. Raises Invalid for a database that is not, and DatabaseUnavailable."""
    try:
        await database.fetch("legacy_copied", "")
    except asyncpg.UndefinedTableError:
        raise Invalid("not_migrated", "our database has not the tables of this version: sluiceway migrate") from None
    return PostgresLegacyTarget(database)
