"""What the executor asks of Kafka: reading partitions from offsets of its own choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from libs.common.ports_dispatch import Headers


class Spot(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class RoadRecord(Protocol):
    """A record as it was read. `timestamp` in milliseconds, as the sender set it."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


class Unreadable(Exception):
    """The broker gave a record that no client can take; reading goes on behind it."""

    def __init__(self, spot: Spot, offset: int, cause: str) -> None:
        super().__init__(cause)
        self.spot = spot
        self.offset = offset


class Road(Protocol):
    """Kafka, from the reading side: no group, no commits; who reads says from where.

    Closed until the first `rebuild`. `read` may be under way while the others are called.
    """

    async def rebuild(self) -> None:
        """Connect anew, within 4 s; nothing is assigned then. Raises BrokerUnavailable."""

    def assign(self, cursors: Mapping[Spot, int | None]) -> None:
        """Read exactly these partitions, each from its offset; those without one wait for `seek`. Does nothing while
        there is no connection."""

    def seek(self, spot: Spot, offset: int) -> None:
        """Read an assigned partition from this offset on; what is not assigned is left alone."""

    def heard(self, spot: Spot) -> bool:
        """Whether the broker has answered a fetch of this partition since it was assigned; also while it is too early
        to say."""

    async def read(self, seconds: float) -> Mapping[Spot, Sequence[RoadRecord]]:
        """What came, at most 500 records; nothing after that many seconds. Raises BrokerUnavailable, or Unreadable."""

    async def offsets(self, since: Mapping[Spot, int]) -> dict[Spot, int]:
        """Where to read from so that no record of that time (in milliseconds) or later is missed, records that are
        sent during this call included. Partitions that the broker does not know are left out. Raises
        BrokerUnavailable after 3 s."""
