"""What every service tells dispatchers and listeners: rows are ready, lanes have room, events wait, tasks changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from libs.common.contracts import hints as wire
from libs.common.ports import Hints
from libs.common.ports_dispatch import Moved, Placed


class Over(Protocol):
    """A task that ended, or whose attempt did."""

    @property
    def tenant_id(self) -> int: ...

    @property
    def id(self) -> int: ...

    @property
    def lane(self) -> int: ...


class Wake:
    """Tells the dispatchers where to look, and listeners which tasks changed; polling stands behind every line."""

    def __init__(self, hints: Hints) -> None:
        self._hints = hints

    def placed(self, rows: Iterable[Placed]) -> None:
        """Rows are ready at these places."""
        for line in wire.ready(rows):
            self._hints.publish_soon(wire.DISPATCH, line)

    def moved(self, rows: Iterable[Moved]) -> None:
        """Tasks became ready at these places."""
        rows = list(rows)
        self.placed(row.place for row in rows)
        self._hints.changed((row.tenant_id, row.id) for row in rows)

    def room(self, lane: int) -> None:
        """A row of this lane left its window."""
        self._hints.publish_soon(wire.DISPATCH, wire.room(lane))

    def events(self) -> None:
        """Events wait to leave."""
        self._hints.publish_soon(wire.DISPATCH, wire.EVENTS_WAIT)

    def deliveries(self) -> None:
        """Webhooks wait to be sent."""
        self._hints.publish_soon(wire.DISPATCH, wire.DELIVERIES_WAIT)

    def ended(self, tasks: Iterable[Over]) -> None:
        """Tasks are over: their lanes' windows have room, and their events wait to leave."""
        tasks = list(tasks)
        for lane in sorted({task.lane for task in tasks}):
            self.room(lane)
        if tasks:
            self.events()
            self._hints.changed((task.tenant_id, task.id) for task in tasks)
