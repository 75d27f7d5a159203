"""How an import is watched, and how its report reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

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
    """Print a report for a reader."""
    from rich.console import Console

    console = Console(highlight=False)
    _show_tables(console, report)
    if report.kinds:
        kinds = (f"{rows} {_WORDS.get(kind, kind.replace('_', ' '))}" for kind, rows in report.kinds.items())
        console.print("tasks: " + "; ".join(kinds))
    for entry in report.hosts:
        console.print(
            f"host not allowed: {entry['host']} (models {', '.join(entry['models'])}): {entry['why']}", markup=False
        )
    for entry in report.unlimited:
        console.print(
            f"no limit: model {entry['model']} of tenant {entry['tenant']}, its queue_limit becomes 2147483647",
            markup=False,
        )
    for entry in report.models_changed:
        console.print(
            f"model {entry['model']} of tenant {entry['tenant']}: {'; '.join(entry['changes'])}", markup=False
        )
    if report.dry_run:
        _show_samples(console, report)
    _show_notes(console, report.notes)
    for warning in report.warnings:
        console.print(f"look: {warning}", markup=False)
    if report.dry_run:
        console.print("a dry run: nothing was written")


def _show_tables(console: Console, report: ImportReport) -> None:
    from rich.table import Table

    table = Table(title="would be copied" if report.dry_run else "copied", title_justify="left")
    for heading in ("table", "rows", "deleted, skipped", "now", "by earlier runs", "columns"):
        table.add_column(heading, overflow="fold")
    for name, part in report.tables.items():
        numbers = (part.rows, part.deleted, part.copied, part.copied_before)
        table.add_row(name, *map(str, numbers), part.variant)
    console.print(table)


def _show_samples(console: Console, report: ImportReport) -> None:
    for sample in report.samples:
        console.print(f"payload of task {sample.task} for {sample.model}: {sample.payload}", markup=False)
        if sample.around is not None:
            found = "with a credential" if sample.credential else "without a credential"
            console.print(f"  around it, {found}: {sample.around}", markup=False)


def _show_notes(console: Console, notes: NoteBook) -> None:
    for note in notes.first[:_NOTES_SHOWN]:
        console.print(f"{note.table} {note.id}: {note.code}: {note.detail}", markup=False)
    more = sum(notes.counts.values()) - _NOTES_SHOWN
    if more > 0:
        counted = ", ".join(f"{rows} {code}" for code, rows in sorted(notes.counts.items()))
        console.print(
            f"and {more} more such rows ({counted}): --json quotes the first 1,000, the table legacy_note has all"
        )
