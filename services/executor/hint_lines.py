"""The lines of hints, as the other services read them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from libs.common.ports import Hints
from libs.common.ports_dispatch import Key, Placed

DISPATCH: Final = "sw:dispatch"
ROAD: Final = "sw:road"
PERMIT: Final = "sw:permit"
EXECUTORS: Final = "sw:executors"
MODELS: Final = "sw:models"
CANCEL: Final = "sw:cancel"


def tell_placed(hints: Hints, rows: Iterable[Placed]) -> None:
    """Rows are ready again: the lowest key of each lane and class says where to look."""
    lowest: dict[tuple[int, int], Key] = {}
    for lane, klass, key in rows:
        known = lowest.get((lane, klass))
        if known is None or key < known:
            lowest[lane, klass] = key
    for (lane, klass), key in lowest.items():
        hints.publish_soon(DISPATCH, f"{lane} {klass} {key.priority} {key.position}")


def tell_room(hints: Hints, lane: int) -> None:
    """A task of this lane is over: its window has room."""
    hints.publish_soon(DISPATCH, f"{lane} room")


def tell_events(hints: Hints) -> None:
    """An event waits to leave."""
    hints.publish_soon(DISPATCH, "* events")


def numbers(line: str) -> list[int]:
    """The numbers of a line; none when it is not made of numbers: a hint must never hurt."""
    try:
        return [int(part) for part in line.split()]
    except ValueError:
        return []
