"""What the services ask of the world, in words of the domain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SlotRequest:
    """One task that wants into its lane's gate; the slot lapses after `ttl_ms` unless renewed."""

    lane: int
    member: str
    limit: int
    ttl_ms: int


class SlotVerdict(Enum):
    """What the gate said."""

    TAKEN = "taken"
    HELD = "held"  #: this member has a slot already
    FULL = "full"


class QueueGate(Protocol):
    """The strict cap on open tasks of a lane. Every method raises GateUnavailable when Redis cannot answer,

    LaneUnavailable when it cannot for one of the lanes alone (`operations.by_lane` asks around it).
    """

    async def take_many(self, requests: Sequence[SlotRequest]) -> list[SlotVerdict]:
        """Take a slot for each, in order, in one round trip. Never one over the limit."""

    async def release_many(self, slots: Sequence[tuple[int, str]]) -> None:
        """Give slots (lane, member) back; giving back twice changes nothing."""

    async def renew_many(self, lane: int, members: Sequence[str], ttl_ms: int) -> None:
        """Prolong the slots that are past half of their life; adds none."""

    async def restore(self, lane: int, slots: Sequence[tuple[str, int]]) -> None:
        """Add slots (member, ttl_ms) that PostgreSQL knows, over the limit too."""

    async def depths(self, lanes: Sequence[int]) -> list[int]:
        """How many slots of each lane are taken."""

    async def missing(self, lane: int, members: Sequence[str]) -> list[str]:
        """Those of these members that have no slot."""

    async def members(self, lane: int, cursor: int, count: int) -> tuple[int, list[str]]:
        """A page of a lane's members; the next cursor is 0 at the end."""


@dataclass(frozen=True, slots=True)
class PermitRequest:
    """One attempt that wants to call its model."""

    lane: int
    token: str
    limit: int
    ttl_ms: int


class Permits(Protocol):
    """The strict cap on running calls of a lane. Every method raises GateUnavailable when Redis cannot answer,

    LaneUnavailable when it cannot for one of the lanes alone.
    """

    async def acquire_many(self, requests: Sequence[PermitRequest]) -> list[bool]:
        """Grant what there is room for, in order. A refusal makes the next release of that lane wake its executors."""

    async def release_many(self, permits: Sequence[tuple[int, str]]) -> None:
        """Give permits (lane, token) back; giving back twice, or one never held, changes nothing."""

    async def rename_many(self, renames: Sequence[tuple[int, str, str, int]]) -> None:
        """Hand permits (lane, old token, new token, ttl_ms) over without a moment in between."""

    async def restore(self, lane: int, permits: Sequence[tuple[str, int]]) -> None:
        """Add permits (token, ttl_ms) that PostgreSQL knows, over the limit too."""

    async def in_use(self, lanes: Sequence[int]) -> list[int]:
        """How many permits of each lane are taken."""

    async def missing(self, lane: int, tokens: Sequence[str]) -> list[str]:
        """Those of these tokens that have no permit."""

    async def members(self, lane: int, cursor: int, count: int) -> tuple[int, list[str]]:
        """A page of a lane's tokens; the next cursor is 0 at the end."""


class OpenTaskSource(Protocol):
    """What gate and permits are rebuilt from: PostgreSQL's open tasks."""

    def open_slots(self, lane: int) -> AsyncIterator[list[tuple[str, int]]]:
        """Open tasks that own a slot, as pages of at most 1,000 (member, ttl_ms)."""

    async def live_permits(self, lane: int) -> list[tuple[str, int]]:
        """Tokens that hold a permit: (token, ttl_ms)."""


class Seal(Protocol):
    """Encrypts what only its owner's rows may open."""

    def seal(self, clear: bytes, owner: str) -> bytes:
        """The sealed value."""


class Ring(Seal, Protocol):
    """Seals, and opens what it has sealed."""

    def open(self, sealed: bytes, owner: str) -> bytes:
        """The clear value; raises ValueError for what no key of its opens for that owner."""


class Guard(Protocol):
    """Knows which addresses may be called."""

    def check_url(self, url: str) -> None:
        """Raises EgressRefused for an address that is private by its text."""

    async def check_resolved(self, url: str) -> None:
        """Raises EgressRefused for an address that is private now."""


class Hints(Protocol):
    """Wake-ups between processes. They may be lost: polling is the truth behind each. Nothing here raises."""

    def publish_soon(self, channel: str, line: str) -> None:
        """Send a line, together with its neighbours of the next milliseconds."""

    def changed(self, tasks: Iterable[tuple[int, int]]) -> None:
        """The status of these tasks (tenant, id) changed, and is committed. Says so where somebody listens to the
        tenant; otherwise it costs next to nothing, and nothing at all of `tasks` is looked at when nobody listens."""

    async def listen(
        self,
        channels: Sequence[str],
        on_lines: Callable[[str, list[str]], Awaitable[None] | None],
        on_gap: Callable[[], None] | None = None,
    ) -> None:
        """Hear channels until cancelled; `on_gap` is called after every reconnect, since hints may have been lost."""


class Audience(Protocol):
    """Where an API process says to which tenants somebody listens here, and hears what changed. Nothing here raises."""

    async def join(self, tenant_id: int) -> None:
        """Somebody listens to this tenant from now on. Returns when that is known to those who change tasks, or after
        a second: changes of that moment may be missed, so look once more afterwards."""

    async def leave(self, tenant_id: int) -> None:
        """Nobody listens to it any more."""

    async def run(self, on_changes: Callable[[int, list[int]], None], on_gap: Callable[[], None]) -> None:
        """Hear until cancelled: (tenant, ids of tasks), and that hints may have been lost."""
