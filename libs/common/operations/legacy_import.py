"""The import from an old Go gateway, told table by table.

Each slice of rows is one transaction, which also moves the table's mark: whoever begins again, after a crash or a year,
goes on behind what is there. Models come first; the operation log is before the tasks, which take their biz_name from
it. Gate slots of open tasks are taken after the commit; the janitor would do it too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar
from uuid import UUID

from libs.common.domain.errors import GateUnavailable, Invalid
from libs.common.domain.legacy import Home, LegacyState, TakenTask, public_id, taken_task
from libs.common.operations.legacy_fit import FitCounts, count_note, unfit_line, unfit_task
from libs.common.operations.legacy_models import ModelMapping, Seal
from libs.common.operations.legacy_payloads import (
    credentials,
    looks_wrapped,
    masked_line,
    sealable,
    shown,
    unwrapped,
)
from libs.common.operations.legacy_report import ImportReport, Sample, TableReport
from libs.common.ports import QueueGate
from libs.common.ports_import import (
    MODELS,
    OP_LOG,
    STATISTICS,
    TABLES,
    TASKS,
    UNFIT,
    LegacyCount,
    LegacySource,
    LegacyTarget,
    Note,
    Progress,
    RawTask,
    Slice,
    Written,
)

Row = TypeVar("Row")

_SAMPLES: Final = 3
#: Lanes that may fail before Redis is taken for gone.
_PATIENCE: Final = 3


@dataclass(frozen=True, slots=True)
class ImportRules:
    """What the import is told beside the rows."""

    service_credential: bool
    retry_within: timedelta
    payload_path: bool


class LegacyImport:
    """One run. A target that writes nothing makes it a dry run."""

    def __init__(
        self,
        source: LegacySource,
        target: LegacyTarget,
        gate: QueueGate,
        seal: Seal,
        progress: Progress,
        rules: ImportRules,
        models: ModelMapping,
        report: ImportReport,
    ) -> None:
        self._source = source
        self._target = target
        self._gate = gate
        self._seal = seal
        self._progress = progress
        self._rules = rules
        self._models = models
        self._report = report
        self._source_name = report.facts.name
        self._gate_failures = 0

    async def run(self) -> ImportReport:
        """Copy what is not here yet. Raises Conflict when another import of the same source is running."""
        report, facts = self._report, self._report.facts
        await self._target.begin(self._source_name, {table: facts.tables[table].largest_id for table in TABLES})
        before = await self._target.copied(self._source_name)
        for table in TABLES:
            fact = facts.tables[table]
            report.tables[table] = TableReport(
                fact.rows, fact.deleted, fact.variant, copied_before=before.get(table, 0)
            )
        await self._copy_models()
        await self._copy_lines()
        await self._copy_tasks()
        await self._copy_counts()
        report.kinds["open_without_credential"] = await self._target.open_without_credential()
        report.notes = await self._target.notes(self._source_name)
        self._warn()
        return report

    async def _copy_models(self) -> None:
        self._begin(MODELS)
        mark = await self._target.mark(self._source_name, MODELS)
        async for part in self._source.models():
            taken, notes = await self._models.map(part)
            upto = max(mark, part[-1].id)
            whole = Slice(self._source_name, MODELS, mark, upto, notes)
            for written in await self._in_halves(self._target.add_models, whole, taken, lambda model: model.id):
                self._report.tables[MODELS].copied += written.copied
            mark = upto
            self._progress.advance(MODELS, len(part))

    async def _copy_lines(self) -> None:
        self._begin(OP_LOG)
        mark = await self._target.mark(self._source_name, OP_LOG)
        async for part in self._source.lines(mark):
            wrong = {line.id: why for line in part if (why := unfit_line(line))}
            lines = [
                masked_line(line, public_id(line.tenant_id, line.task_id)[0] if line.task_id else None)
                for line in part
                if line.id not in wrong
            ]
            upto = part[-1].id
            notes = [Note(OP_LOG, id_, UNFIT, why) for id_, why in wrong.items()]
            whole = Slice(self._source_name, OP_LOG, mark, upto, notes)
            for written in await self._in_halves(self._target.add_lines, whole, lines, lambda taken: taken.line.id):
                self._report.tables[OP_LOG].copied += written.copied
            mark = upto
            self._progress.advance(OP_LOG, len(part))

    async def _copy_tasks(self) -> None:
        self._begin(TASKS)
        homes = await self._target.homes(self._source_name)
        mark = await self._target.mark(self._source_name, TASKS)
        async for part in self._source.tasks(mark):
            wrong = {raw.task.id: why for raw in part if (why := unfit_task(raw.task))}
            fit = [raw for raw in part if raw.task.id not in wrong]
            notes = [Note(TASKS, id_, UNFIT, why) for id_, why in wrong.items()]
            notes += await self._give_homes(fit, homes)
            tasks = self._mapped(fit, homes, notes)
            upto = part[-1].task.id
            whole = Slice(self._source_name, TASKS, mark, upto, notes)
            for written in await self._in_halves(self._target.add_tasks, whole, tasks, lambda task: task.id):
                self._report.tables[TASKS].copied += written.copied
                await self._take_slots(written.slots)
            mark = upto
            self._progress.advance(TASKS, len(part))

    async def _copy_counts(self) -> None:
        self._begin(STATISTICS)
        fit = FitCounts()
        async for part in self._source.counts():
            self._report.tables[STATISTICS].copied += await self._add_counts(*fit.of(part))
            self._progress.advance(STATISTICS, len(part))

    async def _add_counts(self, counts: Sequence[LegacyCount], notes: Sequence[Note]) -> int:
        try:
            return await self._target.add_counts(self._source_name, counts, notes)
        except Invalid as error:
            if error.code != UNFIT or not counts:
                raise
        if len(counts) == 1:  # with what is in the statistics already
            beyond = count_note(counts[0], "request_count makes a sum that no column takes")
            return await self._add_counts((), [*notes, beyond])
        half = len(counts) // 2
        first = await self._add_counts(counts[:half], notes)
        return first + await self._add_counts(counts[half:], ())

    async def _in_halves(
        self,
        add: Callable[[Slice, Sequence[Row]], Awaitable[Written]],
        part: Slice,
        rows: Sequence[Row],
        id_of: Callable[[Row], int],
    ) -> list[Written]:
        """Write a slice; where a row has a value that no column takes, all others, and a note on it."""
        try:
            return [await add(part, rows)]
        except Invalid as error:
            if error.code != UNFIT or not rows:
                raise
            wrong = error.message
        if len(rows) == 1:
            note = Note(part.table, id_of(rows[0]), UNFIT, wrong)
            return [await add(part._replace(notes=[*part.notes, note]), ())]
        half = len(rows) // 2
        border = max(part.after, id_of(rows[half - 1]))  # models are all looked at again each time
        first = await self._in_halves(add, part._replace(upto=border), rows[:half], id_of)
        second = await self._in_halves(add, part._replace(after=border, notes=()), rows[half:], id_of)
        return [*first, *second]

    def _begin(self, table: str) -> None:
        told = self._report.tables[table]
        self._progress.begin(table, told.rows)
        if table in (TASKS, OP_LOG):
            self._progress.advance(table, told.copied_before)

    async def _give_homes(self, part: Sequence[RawTask], homes: dict[tuple[int, str], Home]) -> list[Note]:
        """Tasks whose model is gone get a deleted stand-in: they can still be read, and the open ones end."""
        first: dict[tuple[int, str], RawTask] = {}
        for raw in part:
            owner = raw.task.tenant_id, raw.task.model_name
            if owner not in homes:
                first.setdefault(owner, raw)
        if not first:
            return []
        mark = await self._target.mark(self._source_name, MODELS)
        stand_ins = [self._models.stand_in(tenant_id, name) for tenant_id, name in sorted(first)]
        await self._target.add_models(Slice(self._source_name, MODELS, mark, mark), stand_ins)
        homes.update(await self._target.homes(self._source_name))
        return [
            Note(TASKS, raw.task.id, "no_model", f"model {name!r} of tenant {tenant} is gone: its open tasks will fail")
            for (tenant, name), raw in first.items()
        ]

    def _mapped(
        self, part: Sequence[RawTask], homes: Mapping[tuple[int, str], Home], notes: list[Note]
    ) -> list[TakenTask]:
        tasks: list[TakenTask] = []
        seen: set[tuple[int, UUID]] = set()
        now = datetime.now(UTC)
        for raw in part:
            task = unwrapped(raw)
            try:
                taken = taken_task(task, homes[task.tenant_id, task.model_name], now, self._rules.retry_within)
            except Invalid as error:
                notes.append(Note(TASKS, task.id, error.code, error.message))
                continue
            if (taken.tenant_id, taken.public_id) in seen:
                notes.append(Note(TASKS, task.id, "same_task_id", f"task id {taken.public_id} is another row's too"))
                continue
            seen.add((taken.tenant_id, taken.public_id))
            notes += self._notes_on(raw, taken)
            clear = sealable(task) if taken.state is not None else None
            if clear is not None:
                taken = replace(taken, sealed=self._seal(clear, f"task:{taken.public_id}"))
            self._count(raw, taken)
            self._show(raw)
            tasks.append(taken)
        return tasks

    def _notes_on(self, raw: RawTask, taken: TakenTask) -> Iterable[Note]:
        spelling = public_id(raw.task.tenant_id, raw.task.task_id)[1]
        if spelling:
            detail = f"task id {raw.task.task_id!r} is {taken.public_id} here"
            yield Note(TASKS, raw.task.id, f"task_id_{spelling}", detail)
        if taken.public_id in self._report.facts.shared:
            detail = f"task id {taken.public_id} is another tenant's too: events of both have the same ids"
            yield Note(TASKS, raw.task.id, "task_id_in_two_tenants", detail)
        if not raw.unwrapped:
            yield Note(
                TASKS, raw.task.id, "not_wrapped", "nothing lies at --payload-path: what is stored is the payload"
            )

    def _count(self, raw: RawTask, taken: TakenTask) -> None:
        kinds = self._report.kinds
        kinds["open" if taken.state is not None else taken.status.word] += 1
        if raw.task.state == LegacyState.RUNNING:
            kinds["running_that_wait_again"] += 1
        if looks_wrapped(raw):
            kinds["looks_wrapped"] += 1

    def _show(self, raw: RawTask) -> None:
        if len(self._report.samples) >= _SAMPLES or raw.payload is None:
            return
        around = shown(raw.wrapper) if raw.wrapper is not None else None
        found = credentials(raw).any or looks_wrapped(raw)
        self._report.samples.append(Sample(raw.task.task_id, raw.task.model_name, shown(raw.payload), around, found))

    async def _take_slots(self, slots: Mapping[int, Sequence[tuple[str, int]]]) -> None:
        """PostgreSQL wins over the limit: every open task gets its slot."""
        for lane, members in slots.items():
            if self._gate_failures >= _PATIENCE:
                return
            try:
                await self._gate.restore(lane, members)
            except GateUnavailable as error:  # also a lane that is just being rebuilt, from rows that are there already
                self._gate_failures += 1
                if self._gate_failures == _PATIENCE:
                    self._report.warnings.append(f"gate slots were not taken ({error}): a running janitor does it")

    def _warn(self) -> None:
        report = self._report
        if report.facts.later_than_now:
            report.warnings.append(f"tasks created in the future: {report.facts.later_than_now}; is --timezone right?")
        bare = report.kinds["open_without_credential"]
        if bare and not self._rules.service_credential:
            report.warnings.append(
                f"open tasks without a credential for their upload: {bare}; a file service (SLUICEWAY_OSS_URL) that "
                "asks for one will refuse them: set SLUICEWAY_OSS_AUTHORIZATION before starting executors"
                + ("" if self._rules.payload_path else ", or give --payload-path if it lies beside the payload")
            )
        if not self._rules.payload_path and report.kinds["looks_wrapped"]:
            report.warnings.append(
                f"payloads that hold an Authorization or X-User-Info: {report.kinds['looks_wrapped']}; they "
                "look like whole requests: look at --dry-run and give --payload-path"
            )
