"""What the executor counts."""

from __future__ import annotations

from typing import Any, Final

from libs.common.domain.task import Phase
from libs.common.ports_attempts import Attempt
from libs.common.runtime.metrics import counter, histogram

#: Providers and adapters of others have codes of their own: so many are told apart, the rest is one.
_CODES: Final = 200
#: Outcomes after which the same attempt is taken up again.
_GOES_ON: Final = frozenset({"parked", "handed_back"})


class Figures:
    """Metrics of the hot path, their labels looked up once per model."""

    def __init__(self) -> None:
        self._waits: dict[int, Any] = {}
        self._runs: dict[int, Any] = {}
        self._ends: dict[tuple[int, str], Any] = {}
        self._codes: set[str] = set()

    def started(self, attempt: Attempt) -> None:
        """An attempt began: how long it waited in the queue, on the road, for a permit. What goes on began before."""
        if attempt.phase is not Phase.NONE:
            return
        wait = self._waits.get(attempt.model_id)
        if wait is None:
            wait = histogram("sluiceway_task_wait_seconds").labels(model=str(attempt.model_id))
            self._waits[attempt.model_id] = wait
        wait.observe((attempt.started_at - attempt.entered_at).total_seconds())

    def ended(self, model_id: int, outcome: str, seconds: float, code: str) -> None:
        """An attempt ended here after so many seconds, or is gone on with later: then it has not run its time yet."""
        key = (model_id, outcome)
        end = self._ends.get(key)
        if end is None:
            end = self._ends[key] = counter("sluiceway_attempts_total").labels(model=str(model_id), outcome=outcome)
        end.inc()
        if outcome not in _GOES_ON:
            run = self._runs.get(model_id)
            if run is None:
                run = self._runs[model_id] = histogram("sluiceway_attempt_run_seconds").labels(model=str(model_id))
            run.observe(seconds)
        if code:
            if len(self._codes) < _CODES:
                self._codes.add(code)
            counter("sluiceway_attempt_errors_total").labels(code=code if code in self._codes else "other").inc()

    def refused(self, model_id: int) -> None:
        """No permit was free."""
        counter("sluiceway_permit_refusals_total").labels(model=str(model_id)).inc()

    def stale(self, count: int) -> None:
        """Messages whose lease no longer stands."""
        if count > 0:
            counter("sluiceway_stale_messages_total").inc(count)

    def fenced(self, step: str) -> None:
        """A write found another owner's token."""
        counter("sluiceway_fence_losses_total").labels(step=step).inc()

    def dead_messages(self, count: int) -> None:
        """A record could not be read."""
        counter("sluiceway_dead_messages_total").inc(count)

    def healed(self) -> None:
        """A reading position was moved back."""
        counter("sluiceway_heals_total").inc()

    def rebuilt(self) -> None:
        """The connection to Kafka was made anew."""
        counter("sluiceway_road_rebuilds_total").inc()
