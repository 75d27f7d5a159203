"""What the rest of the world learns when an attempt has ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from libs.common.domain.outcome import Failed, Outcome, UploadPending
from libs.common.domain.settle import CallAgain, Finish, GiveBack, Park, Retry, Settlement
from libs.common.domain.task import Phase
from libs.common.operations.wake import Wake
from libs.common.runtime.logging import get_logger
from services.executor.figures import Figures
from services.executor.letting_go import LettingGo
from services.executor.runs import Run

log = get_logger()

_WORDS: Final[dict[type[Settlement], str]] = {
    Retry: "retry",
    Park: "parked",
    GiveBack: "handed_back",
    CallAgain: "staging_lost",
}


class Endings:
    """Permit and slot go back, the dispatcher hears of room and events, figures and one log line remain."""

    def __init__(self, letting_go: LettingGo, wake: Wake, figures: Figures, job_ended: Callable[[], None]) -> None:
        self._letting_go = letting_go
        self._wake = wake
        self._figures = figures
        self._job_ended = job_ended  #: perhaps before it was over at its provider

    def permit_back(self, run: Run) -> None:
        """Its call is over; saying so twice is harmless."""
        if run.has_permit:
            run.has_permit = False
            self._letting_go.permit(run.attempt.lane, run.attempt.token)

    def over(self, run: Run, outcome: Outcome | None, settlement: Settlement | None) -> None:
        """The attempt ended; without a settlement it was not ours any more, and only what is ours goes back."""
        if not _job_goes_on(run, settlement):
            self.permit_back(run)
        if settlement is not None:
            if isinstance(settlement, Finish | Retry):
                self._letting_go.slot(run.attempt)
            if isinstance(settlement, Finish):
                self._wake.events()
            self._wake.room(run.attempt.lane)
            if run.phase is Phase.SUBMITTED:
                self._job_ended()
        self._remember(run, outcome, settlement)

    def _remember(self, run: Run, outcome: Outcome | None, settlement: Settlement | None) -> None:
        seconds = time.monotonic() - run.began
        word, code = _word(settlement), outcome.code if isinstance(outcome, Failed | UploadPending) else ""
        self._figures.ended(run.attempt.model_id, word, seconds, code)
        log.info(
            "attempt.ended",
            task_id=run.attempt.public_id,
            tenant=run.attempt.tenant_id,
            model=run.model.name,
            attempt=run.attempt.number,
            outcome=word,
            code=code or None,
            seconds=round(seconds, 3),
            trace=run.attempt.trace,
        )


def _job_goes_on(run: Run, settlement: Settlement | None) -> bool:
    """Whether a provider works on: the permit stays taken, for whoever goes on with the job."""
    if run.phase is not Phase.SUBMITTED:
        return False
    return settlement is None or (isinstance(settlement, GiveBack) and run.called)


def _word(settlement: Settlement | None) -> str:
    if settlement is None:
        return "lost"
    return settlement.status.word if isinstance(settlement, Finish) else _WORDS[type(settlement)]
