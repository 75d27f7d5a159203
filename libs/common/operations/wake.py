"""What every service tells the dispatchers: rows are ready, lanes have room, events wait."""

from __future__ import annotations

from collections.abc import Iterable

from libs.common.contracts import hints as wire
from libs.common.ports import Hints
from libs.common.ports_dispatch import Placed


class Wake:
    """Tells the dispatchers where to look; polling stands behind every line."""

    def __init__(self, hints: Hints) -> None:
        self._hints = hints

    def placed(self, rows: Iterable[Placed]) -> None:
        """Rows are ready at these places."""
        for line in wire.ready(rows):
            self._hints.publish_soon(wire.DISPATCH, line)

    def moved(self, rows: Iterable[Placed]) -> None:
        """Rows came back to these places, by a writer that does not know their tenants: who listens looks himself."""
        rows = list(rows)
        self.placed(rows)
        self._hints.lanes_changed({row.lane for row in rows})

    def room(self, lane: int) -> None:
        """A row of this lane left its window."""
        self._hints.publish_soon(wire.DISPATCH, wire.room(lane))

    def events(self) -> None:
        """Events wait to leave."""
        self._hints.publish_soon(wire.DISPATCH, wire.EVENTS_WAIT)

    def deliveries(self) -> None:
        """Webhooks wait to be sent."""
        self._hints.publish_soon(wire.DISPATCH, wire.DELIVERIES_WAIT)

    def ended(self, lanes: Iterable[int]) -> None:
        """Tasks of these lanes are over: their windows have room, and their events wait to leave."""
        lanes = set(lanes)
        for lane in sorted(lanes):
            self.room(lane)
        if lanes:
            self.events()
            self._hints.lanes_changed(lanes)
