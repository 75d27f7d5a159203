"""How an import is watched, and how its report reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from services.cli.output import cell, console

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID
    from rich.table import Table

    from libs.common.operations.legacy_report import ImportReport
    from libs.common.ports_import import NoteBook, Progress

_NOTES_SHOWN = 20
#: Kinds of tasks whose names are no words that follow a number.
_WORDS = {"looks_wrapped": "apparently wrapped", "running_that_wait_again": "running before, waiting again"}


@contextmanager
def watch(out: TextIO) -> Iterator[Progress]:
    """Bars on a terminal; elsewhere a line for each percent."""
    if not out.isatty():
        yield _Lines(out)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:20}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(file=out)) as bars:
        yield _Bars(bars)


class _Bars:
    """Implements ports_import.Progress on a terminal."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._ids: dict[str, TaskID] = {}

    def begin(self, table: str, total: int) -> None:
        self._ids[table] = self._bars.add_task(table, total=total)

    def advance(self, table: str, rows: int) -> None:
        self._bars.advance(self._ids[table], rows)


class _Lines:
    """Implements ports_import.Progress for logs and pipes."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._totals: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._said: dict[str, int] = {}

    def begin(self, table: str, total: int) -> None:
        self._totals[table], self._done[table], self._said[table] = total, 0, 0
        self._say(table)

    def advance(self, table: str, rows: int) -> None:
        self._done[table] += rows
        percent = 100 * self._done[table] // max(self._totals[table], 1)
        if percent > self._said[table]:
            self._said[table] = percent
            self._say(table)

    def _say(self, table: str) -> None:
        print(f"{table}: {self._done[table]} of {self._totals[table]}", file=self._out, flush=True)


def show(report: ImportReport) -> None:
    """Print a report for a reader; what the old gateway's callers wrote steers no terminal."""
    screen = console()
    screen.print(_tables(report))
    for line in _lines(report):
        screen.print(cell(line))


def _tables(report: ImportReport) -> Table:
    from rich.table import Table

    table = Table(title="would be copied" if report.dry_run else "copied", title_justify="left")
    for heading in ("table", "rows", "deleted, skipped", "now", "by earlier runs", "columns"):
        table.add_column(heading, overflow="fold")
    for name, part in report.tables.items():
        numbers = (part.rows, part.deleted, part.copied, part.copied_before)
        table.add_row(name, *map(str, numbers), part.variant)
    return table


def _lines(report: ImportReport) -> Iterator[str]:
    if report.kinds:
        kinds = (f"{rows} {_WORDS.get(kind, kind.replace('_', ' '))}" for kind, rows in report.kinds.items())
        yield "tasks: " + "; ".join(kinds)
    for entry in report.hosts:
        yield f"host not allowed: {entry['host']} (models {', '.join(entry['models'])}): {entry['why']}"
    for entry in report.unlimited:
        yield f"no limit: model {entry['model']} of tenant {entry['tenant']}, its queue_limit becomes 2147483647"
    for entry in report.models_changed:
        yield f"model {entry['model']} of tenant {entry['tenant']}: {'; '.join(entry['changes'])}"
    if report.dry_run:
        yield from _samples(report)
    yield from _notes(report.notes)
    yield from (f"look: {warning}" for warning in report.warnings)
    if report.dry_run:
        yield "a dry run: nothing was written"


def _samples(report: ImportReport) -> Iterator[str]:
    for sample in report.samples:
        yield f"payload of task {sample.task} for {sample.model}: {sample.payload}"
        if sample.around is not None:
            found = "with a credential" if sample.credential else "without a credential"
            yield f"  around it, {found}: {sample.around}"


def _notes(notes: NoteBook) -> Iterator[str]:
    for note in notes.first[:_NOTES_SHOWN]:
        yield f"{note.table} {note.id}: {note.code}: {note.detail}"
    more = sum(notes.counts.values()) - _NOTES_SHOWN
    if more > 0:
        counted = ", ".join(f"{rows} {code}" for code, rows in sorted(notes.counts.items()))
        yield f"and {more} more such rows ({counted}): --json quotes the first 1,000, the table legacy_note has all"
