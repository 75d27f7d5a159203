"""A connection to PostgreSQL that learns from those before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, TypeAlias

import asyncpg

if TYPE_CHECKING:
    _Base: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    _Base = asyncpg.Connection

#: Types of the catalogue below this have the same number in every server (PostgreSQL's FirstGenbkiObjectId).
_FIXED_NUMBERS: Final = 10_000
#: Arrays of bool, bytea, smallint, int, text, bigint, float8, date, timestamptz and uuid: what batches are sent as. All
#: of them together are looked up in the time of one.
_BATCHES: Final = frozenset((1000, 1001, 1005, 1007, 1009, 1016, 1022, 1182, 1185, 2951))


class _NotAsked(NamedTuple):
    """Stands for the statement that asks about types: with a name, it is one that disturbed no other."""

    name: str = "known"


class Connection(_Base):
    """Asks about no type of PostgreSQL's own that another connection of this process has asked about.

    asyncpg looks up the elements of arrays anew on each connection, once for each statement with an array that is new
    to it, and each look-up is 6 to 20 ms of PostgreSQL: more than the statement, and a burst opens many connections.
    The method is asyncpg's own; should it go, every connection asks for itself again, and a test says so.
    """

    _known_types: ClassVar[dict[int, Any]] = {}

    async def _introspect_types(self, typeoids: Sequence[int], timeout: float | None) -> tuple[Sequence[Any], Any]:
        known = self._known_types
        if all(number in known for number in typeoids):
            return [known[number] for number in typeoids], _NotAsked()
        asked = [*_BATCHES.union(typeoids)]
        rows, statement = await super()._introspect_types(asked, timeout)  # type: ignore[misc]  # not in its stubs
        known.update((row["oid"], row) for row in rows if row["oid"] < _FIXED_NUMBERS)
        return rows, statement
