"""Waiting for providers: a job that waits costs a timer, no slot; and only so many are asked about at once."""

from __future__ import annotations

import asyncio
from typing import Final

from services.executor.runs import Run

#: Jobs of one model that are asked about at the same time: a slow provider holds up its own jobs alone.
_ASKED_AT_ONCE: Final = 128


class Waits:
    """Who waits, and whose turn it is to ask."""

    def __init__(self) -> None:
        self._resting: dict[int, asyncio.Future[None]] = {}  #: by task
        self._called: set[int] = set()
        self._turns: dict[int, asyncio.Semaphore] = {}  #: by model

    async def rest(self, run: Run, seconds: float) -> None:
        """Wait so long, or until the provider calls. The attempt gives up its slot, and is not given it back here."""
        task = run.attempt.id
        if task in self._called:
            self._called.discard(task)
            return
        loop = asyncio.get_running_loop()
        resting = self._resting[task] = loop.create_future()
        timer = loop.call_later(seconds, _wake, resting)
        run.slot.give_back()
        run.waits = True
        try:
            await resting
        finally:
            run.waits = False
            timer.cancel()
            del self._resting[task]

    def called(self, task: int) -> None:
        """The provider of a task that runs here has called: look now, or as soon as it could wait."""
        resting = self._resting.get(task)
        if resting is not None:
            _wake(resting)
        else:
            self._called.add(task)

    def forget(self, task: int) -> None:
        """Its job is over."""
        self._called.discard(task)

    def turn(self, model: int) -> asyncio.Semaphore:
        """What to hold while a provider is asked about a job of this model."""
        turns = self._turns.get(model)
        if turns is None:
            turns = self._turns[model] = asyncio.Semaphore(_ASKED_AT_ONCE)
        return turns


def _wake(resting: asyncio.Future[None]) -> None:
    if not resting.done():
        resting.set_result(None)
