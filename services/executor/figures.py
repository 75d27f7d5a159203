"""What the executor counts."""

from __future__ import annotations

from typing import Any, Final

from libs.common.domain.task import Phase
from libs.common.ports_attempts import Attempt
from libs.common.runtime.metrics import counter, histogram, of_model

#: Providers and adapters of others have codes of their own: so many are told apart, the rest is one.
_CODES: Final = 200
#: Outcomes after which the same attempt is taken up again.
_GOES_ON: Final = frozenset({"parked", "handed_back"})


class Figures:
    """Metrics of the hot path, their labels looked up once per model."""

    def __init__(self) -> None:
        self._waits: dict[str, Any] = {}
        self._runs: dict[str, Any] = {}
        self._ends: dict[tuple[str, str], Any] = {}
        self._codes: set[str] = set()

    def started(self, attempt: Attempt) -> None:
        """An attempt began: how long it waited in the queue, on the road, for a permit. What goes on began before."""
        if attempt.phase is not Phase.NONE:
            return
        model = of_model(attempt.model_id)
        wait = self._waits.get(model)
        if wait is None:
            wait = self._waits[model] = histogram("sluiceway_task_wait_seconds").labels(model=model)
        wait.observe((attempt.started_at - attempt.entered_at).total_seconds())

    def ended(self, model_id: int, outcome: str, seconds: float, code: str) -> None:
        """An attempt ended here after so many seconds, or is gone on with later: then it has not run its time yet."""
        model = of_model(model_id)
        end = self._ends.get((model, outcome))
        if end is None:
            end = counter("sluiceway_attempts_total").labels(model=model, outcome=outcome)
            self._ends[model, outcome] = end
        end.inc()
        if outcome not in _GOES_ON:
            run = self._runs.get(model)
            if run is None:
                run = self._runs[model] = histogram("sluiceway_attempt_run_seconds").labels(model=model)
            run.observe(seconds)
        if code:
            if len(self._codes) < _CODES:
                self._codes.add(code)
            counter("sluiceway_attempt_errors_total").labels(code=code if code in self._codes else "other").inc()

    def refused(self, model_id: int) -> None:
        """No permit was free."""
        counter("sluiceway_permit_refusals_total").labels(model=of_model(model_id)).inc()

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
