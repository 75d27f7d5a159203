"""What an import from an old gateway has to say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from libs.common.ports_import import LEFT_OUT, NoteBook, SourceFacts


@dataclass(slots=True)
class TableReport:
    """One table: `copied` by this run, `copied_before` by earlier ones."""

    rows: int
    deleted: int
    variant: str
    copied: int = 0
    copied_before: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """A payload as it may be shown; `around` is what surrounds it in its wrapper."""

    task: str
    model: str
    payload: str
    around: str | None
    credential: bool


@dataclass(slots=True)
class ImportReport:
    """What was copied, and what an operator must know. `warnings` say what to do next."""

    facts: SourceFacts
    dry_run: bool
    tables: dict[str, TableReport] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    notes: NoteBook = field(default_factory=lambda: NoteBook({}, ()))
    hosts: list[dict[str, Any]] = field(default_factory=list)
    unlimited: list[dict[str, Any]] = field(default_factory=list)
    models_changed: list[dict[str, Any]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def left_out(self) -> int:
        """Rows that have no counterpart here."""
        return sum(rows for code, rows in self.notes.counts.items() if code in LEFT_OUT)

    def as_dict(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "source": self.facts.name,
            "dry_run": self.dry_run,
            "tables": {name: _table(table) for name, table in self.tables.items()},
            "states": dict(self.facts.states),
            "tasks": dict(sorted(self.kinds.items())),
            "left_out": self.left_out,
            "notes": dict(sorted(self.notes.counts.items())),
            "noted": [note._asdict() | {"id": str(note.id)} for note in self.notes.first],
            "hosts_not_allowed": self.hosts,
            "models_without_limit": self.unlimited,
            "models_changed": self.models_changed,
            "payloads": [
                {name: getattr(sample, name) for name in ("task", "model", "payload", "around", "credential")}
                for sample in self.samples
            ],
            "warnings": self.warnings,
        }


def _table(table: TableReport) -> Mapping[str, Any]:
    return {
        "rows": table.rows,
        "deleted": table.deleted,
        "copied": table.copied,
        "copied_before": table.copied_before,
        **({"columns": table.variant} if table.variant else {}),
    }
