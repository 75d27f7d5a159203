"""Figures: what waits, how long, and what runs, for /metrics.

Reading them costs by lanes and windows, never by how much waits: lanes are found by a loose scan of the ready index,
what is in flight is counted (windows bound it), and how much waits is the gate's count less what is in flight or due
later. What is due later, and events, are counted up to a limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Final

from libs.common.domain.errors import GateUnavailable
from libs.common.operations.by_lane import counted_by_lane
from libs.common.ports import Permits, QueueGate
from libs.common.ports_sweeps import LaneFigure, OutboxFigure, Sweeps
from libs.common.runtime.metrics import gauge, replace_gauge

_COUNT_LIMIT: Final = 10_000


class Figures:
    """Publishes the figures of the backlog; every janitor says the same."""

    def __init__(self, sweeps: Sweeps, gate: QueueGate, permits: Permits) -> None:
        self._sweeps = sweeps
        self._gate = gate
        self._permits = permits

    async def sweep(self) -> None:
        """Read and publish once. What cannot be read has no figure: nobody must take an old one for the truth."""
        try:
            lanes = await self._sweeps.lane_figures()
            outbox = await self._sweeps.outbox_figures(_COUNT_LIMIT)
            oldest = await self._sweeps.oldest_transaction_seconds()
        except BaseException:
            self._say([], [], nan)
            self._say_counted([], [], [])
            raise
        self._say(lanes, outbox, oldest)
        await self._ask_redis(lanes)

    async def _ask_redis(self, lanes: Sequence[LaneFigure]) -> None:
        numbers = [lane.lane for lane in lanes]
        try:
            depths = await counted_by_lane(self._gate.depths, numbers)
            running = await counted_by_lane(self._permits.in_use, numbers)
        except GateUnavailable:
            self._say_counted([], [], [])
        else:
            self._say_counted(lanes, depths, running)

    @staticmethod
    def _say(lanes: Sequence[LaneFigure], outbox: Sequence[OutboxFigure], oldest_transaction: float) -> None:
        replace_gauge(
            "sluiceway_backlog_oldest_seconds", {(str(lane.model_id),): lane.oldest_seconds for lane in lanes}
        )
        replace_gauge("sluiceway_tasks_in_flight", {(str(lane.model_id),): lane.in_flight for lane in lanes})
        replace_gauge("sluiceway_outbox_rows", {(figure.channel,): figure.rows for figure in outbox})
        replace_gauge("sluiceway_outbox_lag_seconds", {(figure.channel,): figure.lag_seconds for figure in outbox})
        gauge("sluiceway_oldest_transaction_seconds").set(oldest_transaction)

    @staticmethod
    def _say_counted(lanes: Sequence[LaneFigure], depths: Sequence[int | None], running: Sequence[int | None]) -> None:
        replace_gauge(
            "sluiceway_backlog_tasks",
            {
                (str(lane.model_id),): 0 if lane.elsewhere is None else max(0, depth - lane.elsewhere)
                for lane, depth in zip(lanes, depths, strict=True)
                if depth is not None
            },
        )
        replace_gauge(
            "sluiceway_permits_in_use",
            {
                (str(lane.model_id),): permits
                for lane, permits in zip(lanes, running, strict=True)
                if permits is not None
            },
        )
