"""The hints that the janitor gives: rows are ready, lanes have room, events wait."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from libs.common.ports import Hints
from libs.common.ports_dispatch import Key, Placed

_CHANNEL: Final = "sw:dispatch"


class Wake:
    """Tells the dispatchers where to look; polling stands behind every line."""

    def __init__(self, hints: Hints) -> None:
        self._hints = hints

    def placed(self, rows: Iterable[Placed]) -> None:
        """Rows are ready: the lowest key of each lane and class says where to look."""
        lowest: dict[tuple[int, int], Key] = {}
        for lane, klass, key in rows:
            known = lowest.get((lane, klass))
            if known is None or key < known:
                lowest[lane, klass] = key
        for (lane, klass), key in lowest.items():
            self._hints.publish_soon(_CHANNEL, f"{lane} {klass} {key.priority} {key.position}")

    def ended(self, lanes: Iterable[int]) -> None:
        """Tasks of these lanes are over: their windows have room, and their events wait to leave."""
        lanes = set(lanes)
        for lane in sorted(lanes):
            self._hints.publish_soon(_CHANNEL, f"{lane} room")
        if lanes:
            self._hints.publish_soon(_CHANNEL, "* events")
