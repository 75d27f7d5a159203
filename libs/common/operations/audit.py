"""The audit: the invariants of docs/invariants.md, over all stores.

Live traffic moves while we look, and two stores are never seen at one instant. So what is found is looked at a second
time, a moment later, and only what both looks found is a violation. Numbers as in that page:

    I2 I3 I4 I5 I8 I15 I16 I23 I24 I27 I28   PostgreSQL alone       audit_database.py
    I11 I13                      Redis and PostgreSQL       audit_gate.py
    I5 I6 I7 I10                 Kafka and PostgreSQL       audit_events.py, audit_road.py
    I17 I19 I20                  objects, staging           audit_objects.py
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from libs.common.domain.errors import OutcomeUnknown, Unavailable
from libs.common.operations.audit_findings import Findings, Fix, Violation

#: Longer than anything that is under way between two stores takes when nothing is wrong.
CONFIRM_SECONDS: Final = 2.0
_PAUSE_SECONDS: Final = 1.0


class Check(Protocol):
    """One store's part of the audit."""

    @property
    def name(self) -> str: ...

    async def run(self, found: Findings) -> None:
        """Look once. Raises Unavailable when the store cannot be reached."""


@dataclass(frozen=True, slots=True)
class Report:
    """What an audit has to say. `unchecked` names stores that could not be looked at, and why."""

    violations: Sequence[Violation]
    checked: dict[str, int]
    unchecked: dict[str, str]
    repaired: Sequence[Violation] = ()

    @property
    def clean(self) -> bool:
        return not self.violations and not self.unchecked

    def as_dict(self) -> dict[str, Any]:
        """The object that `--json` prints; `unchecked` and `repaired` are left out when there is nothing in them."""
        said: dict[str, Any] = {
            "violations": [violation.as_dict() for violation in self.violations],
            "checked": dict(sorted(self.checked.items(), key=lambda item: int(item[0][1:]))),
        }
        if self.unchecked:
            said["unchecked"] = dict(self.unchecked)
        if self.repaired:
            said["repaired"] = [violation.as_dict() for violation in self.repaired]
        return said


class Audit:
    """Runs checks, confirms, waits and repairs."""

    def __init__(self, checks: Sequence[Check], *, confirm_seconds: float = CONFIRM_SECONDS) -> None:
        self._checks = checks
        self._confirm = confirm_seconds

    async def run(self, *, wait_seconds: float = 0.0, fix: bool = False) -> Report:
        """Audit all stores; with `wait_seconds` again and again until they are clean or the time is up."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_seconds
        report, seen_at = await self._confirmed()
        while not report.clean and loop.time() < deadline:
            await asyncio.sleep(_PAUSE_SECONDS)
            report, seen_at = await self._confirmed()
        return await self._repair(report, seen_at) if fix and report.violations else report

    async def _confirmed(self) -> tuple[Report, float]:
        """What two looks found, and when the first of them was over."""
        first, guilty = await self._look(self._checks)
        seen_at = asyncio.get_running_loop().time()
        confirmed = first.violations
        if confirmed:
            await asyncio.sleep(self._confirm)
            second, _ = await self._look(guilty)
            again = {violation.key for violation in second.violations}
            confirmed = [violation for violation in confirmed if violation.key in again]
            first.unchecked |= second.unchecked
        return Report(confirmed, first.checked, first.unchecked), seen_at

    async def _look(self, checks: Sequence[Check]) -> tuple[Findings, list[Check]]:
        """One look; also gives the checks that found something."""
        found = Findings()
        guilty = []
        for check in checks:
            before = len(found.violations)
            try:
                await check.run(found)
            except (Unavailable, OutcomeUnknown) as error:
                found.unchecked[check.name] = str(error) or type(error).__name__
            if len(found.violations) > before:
                guilty.append(check)
        found.summarise()
        return found, guilty

    async def _repair(self, report: Report, seen_at: float) -> Report:
        """Repair what can be repaired safely, and say what is still wrong afterwards."""
        loop = asyncio.get_running_loop()
        repaired = []
        for violation in sorted(report.violations, key=lambda one: one.apart_seconds):
            if violation.fix is not None:
                await asyncio.sleep(seen_at + violation.apart_seconds - loop.time())
                if await _done(violation.fix):
                    repaired.append(violation)
        after, _ = await self._confirmed()
        return Report(after.violations, report.checked, after.unchecked, repaired)


async def _done(fix: Fix) -> bool:
    try:
        return await fix()
    except (Unavailable, OutcomeUnknown):
        return False
