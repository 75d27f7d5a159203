"""Which rows of an old gateway have a value that no column of ours takes: its columns may be wider than they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple

from libs.common.domain.legacy import LegacyModel, LegacyTask
from libs.common.domain.model import MAX_INT
from libs.common.ports_import import STATISTICS, UNFIT, LegacyCount, LegacyLine, Note

_MAX_BIGINT: Final = 2**63 - 1


class _Column(NamedTuple):
    """A column of the old table. Numbers up to `most` are taken; None: it is no number."""

    name: str
    most: int | None = None
    nullable: bool = False


_OWNER: Final = (_Column("id", _MAX_BIGINT), _Column("tenant_id", _MAX_BIGINT), _Column("creator"))
#: Numbers below zero mean the default, and those of retries and timeouts are cut.
_MODEL: Final = (
    *_OWNER,
    _Column("name"),
    *(_Column(name) for name in ("base_url", "route", "http_method", "enabled", "updater", "retry_times")),
    *(_Column(name, MAX_INT) for name in ("max_concurrency", "queue_limit", "auto_clean_seconds")),
    *(_Column(name, MAX_INT, nullable=True) for name in ("retry_queue_max_seconds", "expected_seconds")),
)
_TASK: Final = (*_OWNER, _Column("file_size", _MAX_BIGINT, nullable=True))
_LINE: Final = (*_OWNER, _Column("cost_ms", _MAX_BIGINT, nullable=True))
_COUNT: Final = (
    _Column("tenant_id", _MAX_BIGINT),
    _Column("creator"),
    _Column("model_name"),
    _Column("request_count", _MAX_BIGINT),
)
_NAMES: Final = {"name": "model_name"}


def unfit_model(model: LegacyModel) -> str:
    """What is wrong with it; empty when nothing is."""
    return _wrong(model, _MODEL)


def unfit_task(task: LegacyTask) -> str:
    """What is wrong with it; empty when nothing is."""
    return _wrong(task, _TASK)


def unfit_line(line: LegacyLine) -> str:
    """What is wrong with it; empty when nothing is."""
    return _wrong(line, _LINE)


class FitCounts:
    """Looks through statistics in their order: their sums have to fit, too."""

    def __init__(self) -> None:
        self._totals: Counter[tuple[int, str]] = Counter()
        self._last: tuple[Any, ...] = ()

    def of(self, counts: Sequence[LegacyCount]) -> tuple[list[LegacyCount], list[Note]]:
        """Those that can be added, and notes on the others."""
        fit, notes = [], []
        for count in counts:
            if wrong := _wrong(count, _COUNT) or self._wrong_together(count):
                notes.append(count_note(count, wrong))
                continue
            self._totals[count.tenant_id, count.creator] += max(count.request_count, 0)
            self._last = count[:4]
            fit.append(count)
        return fit, notes

    def _wrong_together(self, count: LegacyCount) -> str:
        if count.day is None:
            return "day is null" if count.written is None else "day is beyond the calendar"
        if count[:4] == self._last:
            return "day, tenant_id, creator and model_name are another row's, too"
        if self._totals[count.tenant_id, count.creator] + count.request_count > _MAX_BIGINT:
            return "request_count makes a sum that no column takes"
        return ""


def count_note(count: LegacyCount, wrong: str) -> Note:
    """What is said about a row of statistics, which has no id."""
    row = f"{count.written} of tenant {count.tenant_id}, creator {count.creator!r:.80}, model {count.model_name!r:.80}"
    return Note(STATISTICS, 0, UNFIT, f"{row}: {wrong}")


def _wrong(row: Any, columns: Sequence[_Column]) -> str:
    for column in columns:
        value = getattr(row, column.name)
        if value is None and not column.nullable:
            return f"{_NAMES.get(column.name, column.name)} is null"
        if column.most is not None and value is not None and not _fits(value, column.most):
            return f"{_NAMES.get(column.name, column.name)} is a number that no column takes"
    return ""


def _fits(value: Any, most: int) -> bool:
    if isinstance(value, Decimal):
        return value.is_finite() and value == value.to_integral_value() and -most - 1 <= value <= most
    return isinstance(value, int) and -_MAX_BIGINT - 1 <= value <= most
