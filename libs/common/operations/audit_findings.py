"""What an audit finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

Fix: TypeAlias = Callable[[], Awaitable[bool]]

#: Of one invariant; the rest is counted. A broken store can break a million tasks.
_MOST: Final = 1_000
_THEN: Final = "repair those that are named, then run this again"
_STRANGER: Final = "find who else writes to the tables or the topics: nothing of ours does that"
#: What an operator does about an invariant where no repair is named, or none is safe beside running services.
BY_HAND: Final[dict[str, str]] = {
    "I2": "nothing; the key is forgotten a day after its request, a client that needs the task sends another key",
    "I3": "look again when its attempt is over (sluiceway task attempts ID)",
    "I4": "look whether janitors and executors live (sluiceway doctor), then at sluiceway task why ID",
    "I5": f"compare sluiceway task attempts ID with sluiceway task history ID; {_STRANGER}",
    "I6": f"sluiceway task get ID says what is true: tell consumers that acted on the other event; {_STRANGER}",
    "I7": f"sluiceway task get ID says what is true: tell consumers that acted on the event; {_STRANGER}",
    "I8": "the dispatcher's log says why the broker refuses it: mend that, it is sent again by itself",
    "I10": "read the record with a Kafka client; if somebody needs it, have its sender send it again, understandably",
    "I11": "give the slots back that nobody owns (I13)",
    "I13": "run this again with --fix",
    "I15": "sluiceway task attempts ID says which executors had it: look in their logs for one that stood still",
    "I16": f"no repair: the statistics stay off by the difference; {_STRANGER}",
    "I17": "do not use this result: restore it from a copy of the store, or hand the task in again",
    "I18": "ask the provider, at the model's base_url, what became of the job; cancel it unless its task needs it",
    "I19": "restore its files from a copy of the store, or hand the task in again",
    "I20": "delete it where it is staged",
    "I23": f"sluiceway quota show says what was spent; the account is closed with its day; {_STRANGER}",
    "I24": f"no repair; {_STRANGER}",
    "I27": f"compare sluiceway dead show, sluiceway replays show and sluiceway task history ID; {_STRANGER}",
    "I28": "run this again with --fix",
}
#: What it means for callers and operators when an invariant (docs/invariants.md) does not hold.
MEANINGS: Final[dict[str, str]] = {
    "I2": "a repeated request may be answered with a task that is not there",
    "I3": "the task will never run, or something may run that has ended",
    "I4": "the task waits for nobody: it stands still until this is repaired",
    "I5": "the task's story contradicts itself: somebody else wrote to the tables, or a fault did",
    "I6": "consumers were told something else than what is stored",
    "I7": "an end was announced to nobody, or something was announced that did not happen",
    "I8": "a row was sent more often than allowed: a broker refuses it and nobody gave up",
    "I10": "a published task is not picked up, or a record is in the way of others",
    "I11": "more tasks are open than the model's queue_limit lets in",
    "I13": "a place in a queue or a permit is taken by nobody, or used without being taken: too few, or too many, run",
    "I15": "an attempt that had been given up wrote its end: the model may have been called twice",
    "I16": "the daily statistics count more or fewer calls than there were",
    "I17": "the stored result is not what the model gave",
    "I18": "a job at a provider is followed by nobody, or was submitted twice and is paid for twice",
    "I19": "a success whose files cannot be read",
    "I20": "staged output that nobody needs takes room",
    "I23": "a user's points are not what its tasks cost: too much is refused, or too little",
    "I24": "a task has no entry, or a wrong one, in the operation log",
    "I27": "the list of the dead, or the record of its replays, does not say what happened",
    "I28": "something is paused and nobody can see why, or shown as paused and is not",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant (docs/invariants.md) that does not hold, and what repairs it: BY_HAND unless it is named.

    `fix` does so where that is safe, and returns whether it did, since the system works on meanwhile. It is called no
    sooner than `apart_seconds` after the first look."""

    invariant: str
    subject: str
    detail: str
    repair: str = ""
    fix: Fix | None = field(default=None, compare=False, repr=False)
    apart_seconds: float = field(default=0.0, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.repair:
            object.__setattr__(self, "repair", BY_HAND[self.invariant])

    @property
    def key(self) -> tuple[str, str]:
        """What it is about, whatever the figures in its text."""
        return self.invariant, self.subject

    def as_dict(self) -> dict[str, str | bool]:
        return {
            "invariant": self.invariant,
            "subject": self.subject,
            "detail": self.detail,
            "repair": self.repair,
            "meaning": MEANINGS.get(self.invariant, ""),
            "fixable": self.fix is not None,
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
                self.violations.append(Violation(invariant, "...", f"and at least {number - _MOST} more", _THEN))
