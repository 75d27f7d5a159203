"""What the import asks of an old gateway's tables, and of ours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from libs.common.domain.legacy import Home, LegacyModel, LegacyTask, TakenTask

MODELS = "asynch_models"
TASKS = "asynch_task"
OP_LOG = "asynch_op_log"
STATISTICS = "asynch_model_stat"
#: In the order in which they are copied: tasks find their model, and their biz_name in the operation log.
TABLES = (MODELS, OP_LOG, TASKS, STATISTICS)


@dataclass(frozen=True, slots=True)
class TableFacts:
    """One old table: rows to copy, rows that were deleted softly, and its largest id. `variant` names older columns."""

    rows: int
    deleted: int = 0
    largest_id: int = 0
    variant: str = ""


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """An old database: a name that stays the same however it is addressed, and its tables."""

    name: str
    tables: Mapping[str, TableFacts]
    states: Mapping[str, int]  #: tasks by state
    later_than_now: int  #: tasks created in the future: the time zone is another one
    shared: Collection[UUID] = ()  #: task ids that several tenants have


@dataclass(frozen=True, slots=True)
class LegacyLine:
    """A row of asynch_op_log. Payloads are JSON text."""

    id: int
    tenant_id: int
    creator: str
    created_at: datetime | None
    ip: str
    user_agent: str
    api_path: str
    http_method: str
    biz_name: str
    model_name: str
    task_id: str
    op_type: str
    success: bool
    error_msg: str
    cost_ms: int | None
    request_payload: str | None = field(default=None, repr=False)
    response_payload: str | None = field(default=None, repr=False)


class TakenLine(NamedTuple):
    """A line of the operation log as it is written: masked and cut."""

    line: LegacyLine
    task: UUID | None
    error_msg: str
    request: str | None
    response: str | None


class LegacyCount(NamedTuple):
    """A row of asynch_model_stat; no day where it has one beyond our calendar, which is only `written`."""

    day: date | None
    tenant_id: int
    creator: str
    model_name: str
    request_count: int
    created_at: datetime | None
    updated_at: datetime | None
    written: str | None  #: the day


@dataclass(frozen=True, slots=True)
class RawTask:
    """A task as it is stored. With a path: `payload` is what lies there, `wrapper` what is around it.

    `unwrapped` is False when nothing lies there.
    """

    task: LegacyTask
    payload: str | None = field(repr=False)
    wrapper: str | None = field(default=None, repr=False)
    unwrapped: bool = True


class Note(NamedTuple):
    """A row that was not taken over as it was; one whose code is in LEFT_OUT was not taken over at all."""

    table: str
    id: int
    code: str
    detail: str


class NoteBook(NamedTuple):
    """How many notes there are of each code, and the first of them in the order of tables and ids."""

    counts: Mapping[str, int]
    first: Sequence[Note]


@dataclass(frozen=True, slots=True)
class TakenModel:
    """A model of ours for an old one. `stored` are the columns of a new one; `stand_in` is deleted from the start."""

    id: int
    tenant_id: int
    name: str
    stored: Mapping[str, Any] = field(repr=False)
    stand_in: bool = False


class Written(NamedTuple):
    """What became of a slice: how many rows are new here, and the gate slots to take, by lane."""

    copied: int
    slots: Mapping[int, Sequence[tuple[str, int]]] = {}


class Slice(NamedTuple):
    """Where a slice of a table begins and ends, by id; what has to be said about its rows goes with it."""

    source: str
    table: str
    after: int
    upto: int
    notes: Sequence[Note] = ()


class LegacySource(Protocol):
    """An old gateway's tables, seen as they were at one instant; rows that were deleted softly are left out."""

    async def facts(self) -> SourceFacts:
        """What there is. Raises Invalid when a table or a column that is needed is missing."""

    def models(self) -> AsyncIterator[list[LegacyModel]]:
        """All models, in slices."""

    def tasks(self, after: int) -> AsyncIterator[list[RawTask]]:
        """Tasks past an id, in slices that are bounded by rows and by bytes."""

    def lines(self, after: int) -> AsyncIterator[list[LegacyLine]]:
        """The operation log past an id, in slices."""

    def counts(self) -> AsyncIterator[list[LegacyCount]]:
        """All statistics, in slices."""


class LegacyTarget(Protocol):
    """Our tables. Each add_ method is one transaction, which moves the mark of its table too.

    It raises Conflict when the mark has moved since: another import of the same source is running. It raises Invalid
    with the code UNFIT, and has changed nothing, when one of the rows has a value that no column takes.
    """

    async def begin(self, source: str, largest: Mapping[str, int]) -> None:
        """Make marks, and let our sequences go on above the old ids."""

    async def mark(self, source: str, table: str) -> int:
        """The largest id of a table that was copied."""

    async def copied(self, source: str) -> dict[str, int]:
        """How many rows of each table were copied, by this run and those before it."""

    async def homes(self, source: str) -> dict[tuple[int, str], Home]:
        """The models of ours by tenant and old name."""

    async def add_models(self, part: Slice, models: Sequence[TakenModel]) -> Written:
        """Those without a model of ours get one, with its lane and tenant; a name in use here means that model."""

    async def add_lines(self, part: Slice, lines: Sequence[TakenLine]) -> Written:
        """Lines of the operation log."""

    async def add_tasks(self, part: Slice, tasks: Sequence[TakenTask]) -> Written:
        """Tasks with all that belongs to them; those whose task id is in use here are left out, and noted."""

    async def in_use(self, tasks: Sequence[TakenTask]) -> list[int]:
        """Those of these tasks whose task id is in use here."""

    async def new_counts(self, source: str, counts: Sequence[LegacyCount]) -> int:
        """How many rows of statistics would add something."""

    async def add_counts(self, source: str, counts: Sequence[LegacyCount], notes: Sequence[Note]) -> int:
        """Add what is not in the statistics yet; returns how many rows added something."""

    async def open_without_credential(self) -> int:
        """How many open tasks that were taken over have nothing to show at their upload; a million at most."""

    async def notes(self, source: str) -> NoteBook:
        """What was noted about rows of this source, by this run and those before it."""


class Progress(Protocol):
    """Shows how far a table is."""

    def begin(self, table: str, total: int) -> None:
        """A table begins."""

    def advance(self, table: str, rows: int) -> None:
        """So many more rows are done."""


#: Notes that a NoteBook quotes.
QUOTED = 1_000
#: The code of a row with a value that no column here takes.
UNFIT = "unfit"
#: Codes of rows that have no counterpart here.
LEFT_OUT = frozenset({"unknown_state", "model_name", "same_task_id", "line_is_here", UNFIT})
