"""Rescue: what a dead executor held or ran goes back into the queue.

Every second, whatever the interval of the other sweeps. An executor is dead when its beats stopped moving (beats.py),
or when it stopped and rows still name it: it was cut off while draining, or a janitor died between burying and
rescuing.

    rows that it held            same place in the queue
    attempts with staged output  go on from there, nothing is called again
    jobs at providers            go on from there, with their permits
    other attempts               another attempt, first in line, from the budget for lost ones (never the caller's)
    beyond that budget           failed as `executor_lost`, dead
    what was to be canceled      canceled, whatever it was: nobody calls a model for it once more

The gate slot stays with a task that is still open; its permit goes back at once, by the token, so that a zombie's later
release cannot free anybody else's. The zombie itself is fenced by the same token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from libs.common.domain.settle import LOST_BUDGET
from libs.common.domain.task import TaskStatus
from libs.common.operations.wake import Wake
from libs.common.ports_attempts import WatchedBeat
from libs.common.ports_sweeps import LostAttempt, Sweeps
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger
from libs.common.runtime.metrics import counter
from services.janitor.beats import BeatWatch
from services.janitor.report import did
from services.janitor.returns import Returns

log = get_logger()

CODE: Final = "executor_lost"
_MESSAGE: Final = f"its executor stopped giving heartbeats, for the {LOST_BUDGET + 1}th time"
_LOST: Final = (TaskStatus.FAILED, CODE, _MESSAGE)
_CANCELED: Final = (TaskStatus.CANCELED, "canceled", "canceled by the caller")


class Rescue:
    """Watches the executors and takes their work when they are gone."""

    def __init__(
        self,
        sweeps: Sweeps,
        returns: Returns,
        wake: Wake,
        watch: BeatWatch,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sweeps = sweeps
        self._returns = returns
        self._wake = wake
        self._watch = watch
        self._clock = clock

    async def look(self) -> int:
        """One look; returns how many rows were taken from dead executors."""
        # First who is named, then who lives: whoever joins and starts in between is in the second answer.
        named = await self._sweeps.executors_with_work()
        asked = self._clock()
        beats = await self._sweeps.watch()
        silent = self._watch.observe(beats, asked=asked, answered=self._clock())
        buried = await self._bury(silent) if silent else set()
        gone = named - ({beat.id for beat in beats} - buried)
        return await self._take_from(sorted(gone)) if gone else 0

    async def _bury(self, silent: Sequence[WatchedBeat]) -> set[int]:
        await failpoint("janitor/before-rescue")
        buried = set(await self._sweeps.bury_executors(silent))
        for beat in silent:
            if beat.id in buried:
                log.warning("executor.presumed_dead", executor=beat.id, name=beat.name, silent=round(beat.age, 1))
        return buried

    async def _take_from(self, executors: Sequence[int]) -> int:
        taken = await self._take_back(executors)  # first: whatever keeps one from its end keeps no other waiting
        lost = await self._sweeps.lost_for_good(executors, LOST_BUDGET)
        if lost:
            await self._give_up(lost)
        return taken + len(lost)

    async def _take_back(self, executors: Sequence[int]) -> int:
        await failpoint("janitor/before-rescue")
        rescued = await self._sweeps.rescue(executors, LOST_BUDGET)
        tokens = [(row.moved.place.lane, str(row.token)) for row in rescued if row.token is not None]
        await self._returns.give(permits=tokens)
        self._wake.moved(row.moved for row in rescued)
        counter("sluiceway_rescues_total").inc(len(tokens))
        return did("rescue", len(rescued), executors=list(executors), running=len(tokens))

    async def _give_up(self, lost: Sequence[LostAttempt]) -> None:
        await failpoint("janitor/before-rescue")
        ends = [(attempt, *(_CANCELED if attempt.canceled else _LOST)) for attempt in lost]
        ended = await self._sweeps.end_running(ends)
        over = [attempt for attempt in lost if attempt.id in ended]
        await self._returns.give_both(over)
        self._wake.ended(over)
        for sweep, canceled in (("lost", False), ("canceled", True)):
            tasks = [str(attempt.public_id) for attempt in over if attempt.canceled is canceled]
            did(sweep, len(tasks), tasks=tasks[:10])
