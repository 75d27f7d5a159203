"""Which sweeps there are, and how often each runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Final, TypeAlias

from libs.common.operations.presence import SignOfLife
from libs.common.operations.replay_run import OutboxReplays, Replay, ReplayRunner, TaskReplays
from libs.common.operations.wake import Wake
from libs.common.ports import Hints, OpenTaskSource, Permits, QueueGate
from libs.common.ports_audit import StagedListing
from libs.common.ports_dead import DeadKind, ReplayWork
from libs.common.ports_insight import Presence, SeriesStore
from libs.common.ports_sweeps import Sweeps
from libs.common.runtime.periodic import Periodic
from libs.common.settings import Settings
from services.janitor.beats import BeatWatch
from services.janitor.endings import Endings
from services.janitor.maintenance import Maintenance
from services.janitor.returns import Returns
from services.janitor.sweeps.expiry import Expiry
from services.janitor.sweeps.figures import Figures
from services.janitor.sweeps.leaks import Leaks, permits, slots
from services.janitor.sweeps.operations import Operations
from services.janitor.sweeps.overdue import Overdue
from services.janitor.sweeps.promote import Promote
from services.janitor.sweeps.prune import Prune
from services.janitor.sweeps.renewal import PermitRenewal, SlotRenewal
from services.janitor.sweeps.republish import Republish
from services.janitor.sweeps.rescue import Rescue
from services.janitor.sweeps.retries import Retries
from services.janitor.sweeps.series import SeriesFold
from services.janitor.sweeps.statistics import Statistics
from services.janitor.sweeps.strays import Strays
from services.janitor.sweeps.waits import Cancels, ClosedLanes, Deadlines, TooLong

Action: TypeAlias = Callable[[], Awaitable[object]]

EVERY_SECOND: Final = timedelta(seconds=1)
#: Listing a whole store is dear, and strays do no harm but take room.
_STRAYS: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Stores:
    """What the sweeps work on. The rescue has connections of its own: no other sweep may make it late."""

    sweeps: Sweeps
    rescue: Sweeps
    source: OpenTaskSource
    gate: QueueGate
    permits: Permits
    hints: Hints
    staging: StagedListing
    series: SeriesStore
    presence: Presence
    replays: ReplayWork
    is_data_error: Callable[[BaseException], bool]


def assemble(stores: Stores, settings: Settings) -> Maintenance:
    """A janitor of all sweeps."""
    returns = Returns(stores.gate, stores.permits, stores.sweeps.absent_slots)
    wake, watch = Wake(stores.hints), BeatWatch()
    endings, rng = Endings(stores.sweeps, returns, wake), Random()  # noqa: S311 - spreads retries
    at_once: dict[str, Action] = {
        "promote": Promote(stores.sweeps, wake).sweep,
        "retries": Retries(stores.sweeps, stores.gate, returns, wake, rng).sweep,
        "deadlines": Deadlines(stores.sweeps, endings).sweep,
        "cancels": Cancels(stores.sweeps, endings).sweep,
        "replays": _replays(stores, returns, wake, rng).round,
    }
    republish = Republish(stores.sweeps, wake, watch)
    overdue = Overdue(stores.sweeps, returns, wake, rng, upload_seconds=settings.upload_max_seconds)
    operations = Operations(stores.sweeps, days=settings.op_log_days)
    series = SeriesFold(stores.series, stores.gate)
    sign = SignOfLife(stores.presence, "janitor")
    by_interval: dict[str, Action] = {
        "heal": republish.heal_leases,
        "republish": republish.republish_lost,
        "overdue": overdue.sweep,
        "waited-too-long": TooLong(stores.sweeps, endings, max_wait_seconds=settings.max_wait_seconds).sweep,
        "model-deleted": ClosedLanes(stores.sweeps, endings).sweep,
        **_reconcile(stores, settings.janitor_interval),
        **_clean(stores, settings),
        "operations": operations.fill,
        "operations-pruned": operations.prune,
        "statistics": Statistics(stores.sweeps).sweep,
        "figures": Figures(stores.sweeps, stores.gate, stores.permits).sweep,
        "series": series.fold,
        "series-pruned": series.prune,
    }
    interval = timedelta(seconds=settings.janitor_interval)
    return Maintenance(
        [
            # Without jitter: the promise of the lease (10 s and one look) counts on it.
            Periodic("rescue", EVERY_SECOND, Rescue(stores.rescue, returns, wake, watch).look, jitter=0),
            *(Periodic(name, EVERY_SECOND, action) for name, action in at_once.items()),
            *(Periodic(name, interval, action) for name, action in by_interval.items()),
            Periodic("strays", _STRAYS, Strays(stores.sweeps, stores.staging).sweep),
            sign.periodic,
        ],
        sign.leave,
    )


def _replays(stores: Stores, returns: Returns, wake: Wake, rng: Random) -> ReplayRunner:
    handlers: dict[DeadKind, Replay] = {
        DeadKind.TASK: TaskReplays(stores.replays, stores.gate, returns.flush, wake, rng),
        DeadKind.EVENT: OutboxReplays(stores.replays, wake),
        DeadKind.DELIVERY: OutboxReplays(stores.replays, wake),
    }
    return ReplayRunner(stores.replays, handlers, stores.is_data_error)


def _reconcile(stores: Stores, interval_seconds: float) -> dict[str, Action]:
    return {
        "slot-renewal": SlotRenewal(stores.sweeps, stores.gate, interval_seconds=interval_seconds).sweep,
        "permit-renewal": PermitRenewal(stores.sweeps, stores.permits, stores.source).sweep,
        "slot-leaks": Leaks(stores.sweeps, slots(stores.sweeps, stores.gate)).sweep,
        "permit-leaks": Leaks(stores.sweeps, permits(stores.sweeps, stores.permits)).sweep,
    }


def _clean(stores: Stores, settings: Settings) -> dict[str, Action]:
    expiry = Expiry(stores.sweeps, stores.staging, unfetched_days=settings.unfetched_days, dead_days=settings.dead_days)
    return {
        "expired": expiry.fetched,
        "unfetched": expiry.unfetched,
        "dead": expiry.dead,
        "prune": Prune(stores.sweeps, dead_days=settings.dead_days, webhook_log_days=settings.webhook_log_days).sweep,
    }
