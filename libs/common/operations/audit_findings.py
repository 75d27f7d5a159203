"""What an audit finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

Fix: TypeAlias = Callable[[], Awaitable[bool]]

#: Of one invariant; the rest is counted. A broken store can break a million tasks.
_MOST: Final = 1_000
BY_HAND: Final = "needs an operator"


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant (docs/invariants.md) that does not hold, and what repairs it; `fix` does so if that is safe."""

    invariant: str
    subject: str
    detail: str
    repair: str = BY_HAND
    fix: Fix | None = field(default=None, compare=False, repr=False)

    @property
    def key(self) -> tuple[str, str]:
        """What it is about, whatever the figures in its text."""
        return self.invariant, self.subject

    def as_dict(self) -> dict[str, str]:
        return {
            "invariant": self.invariant,
            "subject": self.subject,
            "detail": self.detail,
            "repair": self.repair,
        }


class Findings:
    """Violations, how much was looked at, and what could not be."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.checked: Counter[str] = Counter()
        self.unchecked: dict[str, str] = {}
        self._found: Counter[str] = Counter()

    def looked(self, invariant: str, number: int = 1) -> None:
        """So many things were held against an invariant; zero says that it was checked at all."""
        self.checked[invariant] += number

    def add(self, violation: Violation) -> None:
        """Keep it, or count it when there are very many of its kind."""
        self._found[violation.invariant] += 1
        if self._found[violation.invariant] <= _MOST:
            self.violations.append(violation)

    def summarise(self) -> None:
        """Say of each invariant how many more violations there were than are kept."""
        for invariant, number in self._found.items():
            if number > _MOST:
                self.violations.append(Violation(invariant, "...", f"and {number - _MOST} more"))
