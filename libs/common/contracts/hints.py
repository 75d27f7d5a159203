"""The channels of hints and the lines on them. Polling stands behind every line: who cannot read one passes it over."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

from libs.common.ports_dispatch import Key, Placed

#: To dispatchers: rows are ready, lanes have room, events wait, models changed.
DISPATCH: Final = "sw:dispatch"
#: To executors: a record was sent to a partition, permits became free, one of them came or went, cancels.
ROAD: Final = "sw:road"
PERMIT: Final = "sw:permit"
EXECUTORS: Final = "sw:executors"
CANCEL: Final = "sw:cancel"
#: To executors: the provider of a task's job has called back.
JOBS: Final = "sw:jobs"
#: To APIs and executors: a model changed.
MODELS: Final = "sw:models"
#: To whoever changes tasks: an API process has a first listener of this tenant.
LISTENERS: Final = "sw:listeners"
_CHANGES: Final = "sw:changes:"

EVENTS_WAIT: Final = "* events"
MODELS_CHANGED: Final = "* models"
DELIVERIES_WAIT: Final = "* deliveries"
PAUSES_CHANGED: Final = "* pauses"
#: To executors: what the next heartbeat is answered is news (pauses, a drain).
LOOK: Final = "look"

#: What the numbers of a line may be: anybody may publish there, and PostgreSQL refuses a statement with any other.
_IDS: Final = range(-(2**63), 2**63)
_LANES: Final = range(2**31)
_PARTITIONS: Final = range(2**31)
_PRIORITIES: Final = range(-(2**15), 2**15)


class Room(NamedTuple):
    """A row of the lane left its window."""

    lane: int


DispatchHint: TypeAlias = Placed | Room


def room(lane: int) -> str:
    """A row of the lane left its window."""
    return f"{lane} room"


def ready(rows: Iterable[Placed]) -> list[str]:
    """Rows are ready: the lowest key of each lane and class says where to look."""
    lowest: dict[tuple[int, int], Key] = {}
    for lane, klass, key in rows:
        known = lowest.get((lane, klass))
        if known is None or key < known:
            lowest[lane, klass] = key
    return [f"{lane} {klass} {key.priority} {key.position}" for (lane, klass), key in lowest.items()]


def sent(model_id: int, partition: int) -> str:
    """Records were sent to this partition of a model's topic."""
    return f"{model_id} {partition}"


def read_sent(line: str) -> tuple[int, int] | None:
    """What a line of `sent` says; None for every other line."""
    match numbers(line):
        case [model_id, partition] if partition in _PARTITIONS:
            return model_id, partition
    return None


def read_dispatch(line: str) -> DispatchHint | None:
    """What a line of `ready` or `room` says; None for every other line."""
    match line.split(" "):
        case [named, "room"]:
            match numbers(named):
                case [lane] if lane in _LANES:
                    return Room(lane)
        case [_, "0" | "1", _, _]:
            match numbers(line):
                case [lane, klass, priority, position] if lane in _LANES and priority in _PRIORITIES:
                    return Placed(lane, klass, Key(priority, position))
    return None


def changes(tenant_id: int) -> str:
    """The channel on which APIs hear which tasks of this tenant changed, by their internal ids."""
    return f"{_CHANGES}{tenant_id}"


def tenant_of(channel: str) -> int | None:
    """Whose channel of changes this is."""
    numbers_there = numbers(channel.removeprefix(_CHANGES)) if channel.startswith(_CHANGES) else []
    return numbers_there[0] if len(numbers_there) == 1 else None


def numbers(line: str) -> list[int]:
    """The numbers of a line; none when it is not made of numbers that an id may be."""
    try:
        found = [int(part) for part in line.split()]
    except ValueError:
        return []
    return found if all(number in _IDS for number in found) else []
