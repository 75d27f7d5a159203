"""What a sweep says about itself: one line and one figure, only when something was done."""

from __future__ import annotations

from libs.common.runtime.logging import get_logger
from libs.common.runtime.metrics import counter

log = get_logger()


def did(sweep: str, rows: int, **fields: object) -> int:
    """Count and log `rows` changed by a sweep; says nothing about none. Gives `rows` back."""
    if rows:
        counter("sluiceway_sweep_rows_total").labels(sweep=sweep).inc(rows)
        log.info("sweep.did", sweep=sweep, rows=rows, **fields)
    return rows
