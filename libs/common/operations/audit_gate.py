"""The doorman's sets against PostgreSQL: slots are open tasks, permits are running attempts and open jobs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from libs.common.domain.errors import LaneUnavailable
from libs.common.operations.audit_findings import Findings, Fix, Violation
from libs.common.operations.by_lane import counted_by_lane
from libs.common.operations.owners import Absent, Places, owner_of, unowned
from libs.common.ports import Permits, QueueGate
from libs.common.ports_audit import AuditedLane, AuditedTasks, OpenMember
from libs.common.ports_sweeps import APART_SECONDS

_LANES: Final = 500
_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class _Kind:
    """Slots or permits: their name, where they are, and which of them nobody owns."""

    name: str
    places: Places
    absent: Absent
    owner: str


class GateChecks:
    """I11 and I13. Looking at a lane that Redis has forgotten makes the doorman rebuild it first."""

    name = "redis"

    def __init__(
        self, tasks: AuditedTasks, gate: QueueGate, permits: Permits, *, apart_seconds: float = APART_SECONDS
    ) -> None:
        self._apart_seconds = apart_seconds
        self._tasks = tasks
        self._gate = gate
        self._permits = permits
        self._slots = _Kind("slot", gate, tasks.absent_slots, "open task")
        self._tokens = _Kind("permit", permits, tasks.absent_permits, "running attempt")

    async def run(self, found: Findings) -> None:
        for invariant in ("I11", "I13"):
            found.looked(invariant, 0)
        await self._check_lanes(found)
        async for part in self._tasks.slices():
            await self._check_owners(await self._tasks.open_members(part), found)

    async def _check_lanes(self, found: Findings) -> None:
        """Who is in Redis has a row in PostgreSQL."""
        after = 0
        while page := await self._tasks.lanes(after, _LANES):
            after = page[-1].lane
            numbers = [lane.lane for lane in page]
            depths = await counted_by_lane(self._gate.depths, numbers)
            running = await counted_by_lane(self._permits.in_use, numbers)
            for lane, depth, permits in zip(page, depths, running, strict=True):
                if depth is None or permits is None:
                    self._unknown(lane.lane, found)
                ghosts = await self._ghosts(lane.lane, self._slots, found) if depth else 0
                if permits:
                    await self._ghosts(lane.lane, self._tokens, found)
                self._check_limit(lane, depth or 0, ghosts, found)

    def _unknown(self, lane: int, found: Findings) -> None:
        """A lane that cannot be looked at hides nothing of the others, but the audit is not clean."""
        found.unchecked.setdefault(
            self.name,
            f"Redis cannot answer for lane {lane}: a key of it is of another kind (`sluiceway doctor` names it)",
        )

    async def _ghosts(self, lane: int, kind: _Kind, found: Findings) -> int:
        cursor, ghosts = 0, 0
        while True:
            cursor, page = await kind.places.members(lane, cursor, _PAGE)
            ghosts += await self._judge(lane, kind, page, found)
            found.looked("I13", len(page))
            if cursor == 0:
                return ghosts

    async def _judge(self, lane: int, kind: _Kind, page: Sequence[str], found: Findings) -> int:
        absent = await unowned(kind.absent, lane, page)
        # One that has lapsed counts no more, dropped or not.
        lapsed = set(await kind.places.missing(lane, absent)) if absent else set()
        ghosts = [member for member in absent if member not in lapsed]
        for member in ghosts:
            release: Fix = partial(_release, kind, lane, member)
            detail, repair = f"a {kind.name} of lane {lane} that no {kind.owner} has", f"give the {kind.name} back"
            apart = self._apart_seconds if owner_of(member) is not None else 0.0  # nobody of ours will be called that
            found.add(Violation("I13", f"{kind.name} {_shown(member)}", detail, repair, release, apart))
        return len(ghosts)

    def _check_limit(self, lane: AuditedLane, depth: int, ghosts: int, found: Findings) -> None:
        # Open tasks may be more than the limit: it was lowered, or the gate was restored from PostgreSQL.
        found.looked("I11")
        if depth > lane.queue_limit and ghosts:
            subject = f"gate of model {lane.model!r} of tenant {lane.tenant_id}"
            detail = f"{depth} slots taken of {lane.queue_limit}, {ghosts} of them by no open task"
            found.add(Violation("I11", subject, detail))

    async def _check_owners(self, members: Iterable[OpenMember], found: Findings) -> None:
        """Who has a row in PostgreSQL is in Redis."""
        slots: dict[int, dict[str, int]] = {}
        tokens: dict[int, dict[str, int]] = {}
        for member in members:
            slots.setdefault(member.lane, {})[member.member] = member.slot_ttl_ms
            if member.token is not None and member.permit_ttl_ms is not None:
                tokens.setdefault(member.lane, {})[member.token] = member.permit_ttl_ms
        for kind, lanes in ((self._slots, slots), (self._tokens, tokens)):
            for lane, owners in lanes.items():
                found.looked("I13", len(owners))
                try:
                    missing = await kind.places.missing(lane, list(owners))
                except LaneUnavailable:
                    self._unknown(lane, found)
                    continue
                for owner in missing:
                    restore: Fix = partial(_restore, kind, lane, owner, owners[owner])
                    detail = f"the {kind.owner} has no {kind.name} in lane {lane}"
                    found.add(Violation("I13", f"{kind.name} {owner}", detail, f"put the {kind.name} back", restore))


def _shown(member: str) -> str:
    """A member that is no text, as text that every reader of a report can take."""
    return member.encode(errors="surrogateescape").decode(errors="backslashreplace")


async def _release(kind: _Kind, lane: int, member: str) -> bool:
    if not await unowned(kind.absent, lane, [member]):
        return False  # a create or a start whose commit took long
    await kind.places.release_many([(lane, member)])
    return True


async def _restore(kind: _Kind, lane: int, member: str, ttl_ms: int) -> bool:
    if await unowned(kind.absent, lane, [member]):
        return False  # it ended since the look: nobody would give the place back
    await kind.places.restore(lane, [(member, ttl_ms)])
    return True
