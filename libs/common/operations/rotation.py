"""Rotation: everything sealed gets sealed by the newest key, while services run.

A value is replaced only where the bytes that were read still stand: what a service wrote meanwhile is not overwritten,
but looked at in the next walk. What the newest key sealed is passed over, so a run that was interrupted is repeated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from libs.common.ports_secrets import KeyedRing, SealedPlace, SealedValue
from libs.common.runtime.failpoints import failpoint

_PAGE: Final = 500
#: Walks while services keep changing what is being walked over.
_WALKS: Final = 5
_NAMED: Final = 100


@dataclass(slots=True)
class PlaceReport:
    """One place: values by the key that sealed them before, those sealed anew, those that no key opens."""

    keys: Counter[str] = field(default_factory=Counter)
    resealed: int = 0
    unreadable: list[str] = field(default_factory=list)
    left: int = 0

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints of it."""
        return {
            "values": self.keys.total(),
            "keys": dict(sorted(self.keys.items())),
            "resealed": self.resealed,
            "left": self.left,
            "unreadable": self.unreadable[:_NAMED],
        }


class Rotation:
    """Seals anew."""

    def __init__(self, ring: KeyedRing, places: Sequence[SealedPlace]) -> None:
        self._ring = ring
        self._places = places

    async def run(self, *, dry_run: bool) -> dict[str, PlaceReport]:
        """Walk over all places; `left` is what the newest key has not sealed at the end."""
        reports = {}
        for place in self._places:
            report = reports[place.name] = PlaceReport()
            for walk in range(_WALKS):
                moved = await self._walk(place, report, first=walk == 0, dry_run=dry_run)
                if dry_run or not moved:
                    break
        return reports

    async def _walk(self, place: SealedPlace, report: PlaceReport, *, first: bool, dry_run: bool) -> bool:
        """Once over a place; returns whether something changed under it, so that another walk is needed."""
        moved, after = False, 0
        report.left, report.unreadable = 0, []
        while page := await place.page(after, _PAGE):
            after = page[-1].id
            if first:
                report.keys.update(self._ring.key_of(value.sealed) for value in page)
            old = [value for value in page if self._ring.key_of(value.sealed) != self._ring.newest]
            fresh = self._sealed_anew(old, report)
            if dry_run:
                report.left += len(old)
                continue
            done = 0
            if fresh:
                await failpoint("cli/before-reseal")
                done = len(await place.replace(fresh))
            report.resealed += done
            report.left += len(old) - done
            moved = moved or done < len(fresh)
        return moved

    def _sealed_anew(self, values: Sequence[SealedValue], report: PlaceReport) -> list[tuple[SealedValue, bytes]]:
        fresh = []
        for value in values:
            try:
                clear = self._ring.open(value.sealed, value.owner)
            except ValueError as error:
                report.unreadable.append(f"{value.owner}, id {value.id}: {error}")
                continue
            fresh.append((value, self._ring.seal(clear, value.owner)))
        return fresh
