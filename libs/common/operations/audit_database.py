"""The invariants that PostgreSQL alone can prove: each a statement that returns what breaks it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from libs.common.operations.audit_findings import Findings, Fix, Violation
from libs.common.ports import QueueGate
from libs.common.ports_audit import AuditedTasks, Finding, Slice

#: Sweeps run every 10 s, leases heal after 15 s, the road after 30 s: what stands still for longer is not being healed.
PATIENCE_SECONDS: Final = 60.0
#: Days whose accounts of quota are surely still there.
QUOTA_DAYS: Final = 300
#: Jobs that changed since are looked at: what they did is settled for ever after.
JOB_DAYS: Final = 30
#: Sends of one row.
MAX_SENDS: Final = 20

Repair: TypeAlias = Callable[[int], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class _Statement:
    """A check by name: what it proves, and how much it looks at (a count of the slice)."""

    invariant: str
    name: str
    looks_at: str = ""
    limits: tuple[float, ...] = ()
    repair: str = ""


_SLICED: Final = (
    _Statement("I3", "audit_open_without_row", "tasks", repair="a new dispatch row, recorded as a heal"),
    _Statement("I3", "audit_row_without_open", "open", repair="drop the dispatch row, recorded, and end its job"),
    _Statement("I4", "audit_orphans", "open", (PATIENCE_SECONDS,), "is a janitor running? it does this by itself"),
    _Statement("I5", "audit_attempt_numbers", "attempts"),
    _Statement("I5", "audit_ends", "tasks"),
    _Statement("I5", "audit_versions"),
    _Statement("I5", "audit_times"),
    _Statement("I8", "audit_sends", "open", (MAX_SENDS,)),
    _Statement("I10", "audit_unclaimed", "open", (PATIENCE_SECONDS,), "is a janitor running? it publishes it again"),
    _Statement("I15", "audit_stale_tokens", "attempts"),
    _Statement("I18", "audit_jobs", "open"),
    _Statement("I20", "audit_staged_outputs", "open", repair="delete a staged output that no task needs"),
    _Statement("I24", "audit_operations", "tasks", (PATIENCE_SECONDS,), "is a janitor running? it writes the entry"),
    _Statement("I27", "audit_dead", "dead"),
    _Statement("I27", "audit_replays"),
)
_WHOLE: Final = (
    _Statement("I4", "audit_stuck_leases", limits=(PATIENCE_SECONDS,), repair="is a janitor running? it heals leases"),
    _Statement("I7", "audit_events_of_nobody"),
    _Statement("I8", "audit_event_sends", limits=(MAX_SENDS,)),
    _Statement("I15", "audit_tokens_twice"),
    _Statement("I16", "audit_statistics"),
    _Statement("I18", "audit_jobs_twice"),
    _Statement("I28", "audit_lane_pauses", repair="hold it, and record that as a pause: resume ends it"),
    _Statement("I28", "audit_tenant_pauses", repair="hold it, and record that as a pause: resume ends it"),
    _Statement("I23", "audit_quota", limits=(QUOTA_DAYS,)),
    _Statement("I27", "audit_replay_jobs", limits=(JOB_DAYS,)),
)


class DatabaseChecks:
    """Walks all tasks in slices; a check of each slice is one snapshot, so that live traffic breaks none."""

    name = "postgres"

    def __init__(self, tasks: AuditedTasks, gate: QueueGate) -> None:
        self._tasks = tasks
        self._gate = gate
        self._fixes: dict[str, Repair] = {
            "audit_open_without_row": self._restore_row,
            "audit_row_without_open": self._drop_row,
            "audit_staged_outputs": tasks.drop_staged_output,
            "audit_lane_pauses": tasks.mend_lane_pause,
            "audit_tenant_pauses": tasks.mend_tenant_pause,
        }

    async def run(self, found: Findings) -> None:
        for statement in (*_SLICED, *_WHOLE):
            found.looked(statement.invariant, 0)
        async for part in self._tasks.slices():
            await self._check_slice(part, found)
        for statement in _WHOLE:
            self._take(statement, await self._tasks.check(statement.name, *statement.limits), found)
            found.looked(statement.invariant)
        await self._check_keys(found)

    async def _check_slice(self, part: Slice, found: Findings) -> None:
        counts = await self._tasks.counts(part)
        for statement in _SLICED:
            self._take(statement, await self._tasks.check_slice(statement.name, part, *statement.limits), found)
            found.looked(statement.invariant, counts.get(statement.looks_at, 0))

    async def _check_keys(self, found: Findings) -> None:
        # A task may be cleaned so soon after its end; its key lives for a day.
        life = await self._tasks.shortest_life_seconds()
        statement = _Statement("I2", "audit_keys_of_nobody")
        self._take(statement, await self._tasks.check(statement.name, life), found)
        found.looked("I2")

    def _take(self, statement: _Statement, rows: list[Finding], found: Findings) -> None:
        fix = self._fixes.get(statement.name)
        for row in rows:
            act: Fix | None = partial(fix, row.id) if fix is not None and row.id is not None else None
            repair = statement.repair if fix is None or act is not None else ""
            found.add(Violation(statement.invariant, row.subject, row.detail, repair, act))

    async def _restore_row(self, task: int) -> bool:
        slot = await self._tasks.restore_row(task)
        if slot is None:
            return False
        lane, member, ttl_ms = slot
        await self._gate.restore(lane, [(member, ttl_ms)])
        return True

    async def _drop_row(self, task: int) -> bool:
        dropped = await self._tasks.drop_row(task)
        if dropped is None:
            return False
        lane, member = dropped
        if await self._tasks.absent_slots(lane, [member]):
            await self._gate.release_many([(lane, str(member))])
        return True
