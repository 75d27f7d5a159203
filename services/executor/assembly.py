"""Puts an executor together from what the world offers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

from libs.common.domain.model import Model
from libs.common.operations.model_cache import ModelCache
from libs.common.operations.wake import Wake
from libs.common.ports import Hints, Permits, QueueGate
from libs.common.ports_attempts import Attempt, Attempts, Identity, Membership
from libs.common.ports_execution import ModelAdapter, OutputLinks, ResultStore, Staging
from libs.common.ports_jobs import JobAdapter
from libs.common.ports_provider_jobs import ProviderJobs
from libs.common.ports_road import Road
from services.executor.admission.desk import Desk
from services.executor.admission.slots import Slot, Slots
from services.executor.calls import ModelCalls, ModelHeaders, Opener
from services.executor.collecting import OutputCollector
from services.executor.doorman import Doorman
from services.executor.endings import Endings
from services.executor.execution import Execution
from services.executor.executor import Executor
from services.executor.figures import Figures
from services.executor.heartbeat import Heartbeat
from services.executor.jobs.asking import Asking
from services.executor.jobs.callbacks import Callbacks
from services.executor.jobs.calls import JobCalls
from services.executor.jobs.late import LateAnswers
from services.executor.jobs.ledger import JobLedger
from services.executor.jobs.life import JobLife
from services.executor.jobs.permits import JobPermits
from services.executor.jobs.submission import Submission
from services.executor.jobs.unwanted import Unwanted
from services.executor.jobs.waits import Waits
from services.executor.letting_go import LettingGo
from services.executor.locked_rows import LockedRows
from services.executor.ownership import Ownership
from services.executor.positions import Places
from services.executor.reader import DeadMessages, Reader
from services.executor.reconcile import Reconcile
from services.executor.recorder import Recorder, Verdict
from services.executor.runs import Runs
from services.executor.slot_life import SlotLife
from services.executor.steward import Steward
from services.executor.uploads import IN_LINE_SECONDS, ResultUploads


@dataclass(frozen=True, slots=True)
class World:
    """Everything outside the process that an executor talks to."""

    attempts: Attempts
    membership: Membership
    permits: Permits
    gate: QueueGate
    hints: Hints
    road: Road
    models: ModelCache
    adapters: Mapping[str, ModelAdapter]
    jobs: Mapping[str, JobAdapter]  #: the adapters of providers' jobs
    links: OutputLinks  #: where providers put what their jobs brought
    provider_jobs: ProviderJobs
    callback_url: Callable[[UUID, float], str]  #: of a job's key, for so many seconds; empty where none can be had
    staging: Staging
    results: ResultStore
    open_sealed: Opener
    is_data_error: Verdict
    graveyard: DeadMessages
    upkeep: Callable[[], Awaitable[object]]  #: what staging wants done now and then
    redis_answers: Callable[[], Awaitable[object]]  #: raises GateUnavailable where it does not


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator decides; seconds."""

    identity: Identity
    topic_prefix: str
    drain_seconds: float
    upload_max_seconds: int
    upload_in_line_seconds: float = IN_LINE_SECONDS


def assemble(world: World, rules: Rules) -> Executor:
    """One executor, not running yet."""
    figures, places = Figures(), Places()
    ownership = Ownership(lambda model_id: _adapter(world.models.known(model_id)), rules.identity.adapters)
    slots = Slots(rules.identity.slots)
    wake = Wake(world.hints)
    heartbeat = Heartbeat(world.membership, rules.identity)
    letting_go = LettingGo(world.permits, world.gate)
    headers = ModelHeaders(world.open_sealed)
    job_calls = JobCalls(world.jobs, headers, world.models.known, world.callback_url)
    unwanted = Unwanted(world.provider_jobs, world.models, job_calls, letting_go.permit)
    endings = Endings(letting_go, wake, figures, unwanted.soon)
    locks = LockedRows(world.attempts)
    recorder = Recorder(
        world.attempts,
        figures,
        wake.placed,
        locks,
        permit_back=endings.permit_back,
        changed=world.hints.changed,
        is_data_error=world.is_data_error,
    )
    uploads = ResultUploads(
        world.results,
        world.staging,
        recorder,
        reader_of=lambda store: ownership.view.with_store(store, but=heartbeat.number),
        permit_back=endings.permit_back,
        open_sealed=world.open_sealed,
        in_line_seconds=rules.upload_in_line_seconds,
    )
    ledger = JobLedger(
        world.provider_jobs,
        locks,
        changed=world.hints.changed,
        is_data_error=world.is_data_error,
    )
    waits, callbacks, late = Waits(), Callbacks(job_calls, ledger), LateAnswers(job_calls, ledger)
    life = JobLife(
        job_calls,
        Submission(job_calls, ledger, Asking(job_calls, ledger, late, heartbeat), callbacks, waits),
        callbacks,
        late,
        ledger,
        JobPermits(world.permits, ledger),
        waits,
        OutputCollector(world.links, world.staging, headers),
    )
    execution = Execution(
        ModelCalls(world.adapters, life, world.staging, headers, heartbeat),
        uploads,
        recorder,
        heartbeat,
        upload_max_seconds=rules.upload_max_seconds,
        over=endings.over,
    )
    runs = Runs(execution.run)
    slot_life = SlotLife(world.gate)

    def begin(attempt: Attempt, model: Model, *, has_permit: bool, slot: Slot) -> None:
        slot_life.begun(attempt, model)
        runs.begin(attempt, model, has_permit=has_permit, slot=slot)

    desk = Desk(
        world.attempts,
        world.permits,
        slots,
        trust=heartbeat,
        begin=begin,
        runs_here=runs.has,
        newest=world.models.known,
        drop_permit=letting_go.permit,
        placed=wake.placed,
        changed=world.hints.changed,
        figures=figures,
        jobs=world.jobs,
    )
    steward = Steward(world.road, places, ownership, world.membership, world.models, rules.topic_prefix, figures)
    reader = Reader(world.road, places, desk, world.models, world.graveyard, steward, figures)
    return Executor(
        heartbeat=heartbeat,
        attempts=world.attempts,
        ownership=ownership,
        steward=steward,
        reader=reader,
        desk=desk,
        slots=slots,
        runs=runs,
        recorder=recorder,
        ledger=ledger,
        waits=waits,
        unwanted=unwanted,
        letting_go=letting_go,
        models=world.models,
        hints=world.hints,
        reconcile=Reconcile(world.attempts, runs, desk.room),
        doorman=Doorman(world.redis_answers),
        upkeep=world.upkeep,
        lacks=lambda: "staging_full" if world.staging.full else execution.lacks,
        drain_seconds=rules.drain_seconds,
    )


def _adapter(model: Model | None) -> str | None:
    return None if model is None else model.adapter
