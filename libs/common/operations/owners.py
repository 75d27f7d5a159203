"""Who owns the slots and permits in Redis, as PostgreSQL knows it: open tasks and running attempts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol, TypeAlias
from uuid import UUID

#: Which of these owners of a lane PostgreSQL does not know.
Absent: TypeAlias = Callable[[int, Sequence[UUID]], Awaitable[list[UUID]]]


class Places(Protocol):
    """What gate and permits have in common."""

    async def missing(self, lane: int, members: Sequence[str], /) -> list[str]: ...
    async def members(self, lane: int, cursor: int, count: int) -> tuple[int, list[str]]: ...
    async def release_many(self, places: Sequence[tuple[int, str]], /) -> None: ...
    async def restore(self, lane: int, places: Sequence[tuple[str, int]], /) -> None: ...


def owner_of(member: str) -> UUID | None:
    """The task or token that a member of a lane is; None for what nobody of ours is called."""
    try:
        return UUID(member)
    except ValueError:
        return None


async def unowned(absent: Absent, lane: int, members: Iterable[str]) -> list[str]:
    """Those of these members of a lane that no task and no attempt owns."""
    owners = {member: owner_of(member) for member in members}
    asked = [owner for owner in owners.values() if owner is not None]
    gone = set(await absent(lane, asked)) if asked else set()
    return [member for member, owner in owners.items() if owner is None or owner in gone]
