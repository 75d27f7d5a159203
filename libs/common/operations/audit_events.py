"""The events topic against PostgreSQL: every end is announced once, as it was, and nothing else is (I5, I6, I7).

PostgreSQL is read first, then the topic to its end: an event that had left the outbox by the first look is in the topic
by the second. Ends that the topic does not reach back to (retention, a broker that lost its memory) are not missed. An
event of a task that is not there is taken for a cleaned task's, unless there are more such tasks of a tenant's creator
than were cleaned.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Final, TypeAlias
from uuid import UUID

import orjson
from pydantic import ValidationError

from libs.common.contracts.completion_event import TaskEvent, event_id, event_type, rfc3339
from libs.common.domain.task import TaskStatus
from libs.common.operations.audit_findings import Findings, Violation
from libs.common.operations.audit_ledger import End, Ledger, Said, open_ledger
from libs.common.ports_audit import AuditedTasks, FirstRecord, Log, LogRecord, TaskEnd

#: A broker that lost its memory gets the ends of its last moments again, and those before them not.
_MARGIN_MS: Final = 5_000
#: What the columns of these names hold.
_VERSIONS: Final = range(2**31)
_TENANTS: Final = range(-(2**63), 2**63)
_REPUBLISH: Final = "sluiceway events republish sends it again"


_Owner: TypeAlias = tuple[int, str]  #: a tenant's creator


@dataclass(frozen=True, slots=True)
class _NotOurs(Exception):
    """A record that is no event of ours; says why."""

    why: str


class EventChecks:
    """Compares ends and events on disk."""

    name = "kafka events"

    def __init__(self, tasks: AuditedTasks, log: Log, topic: str) -> None:
        self._tasks = tasks
        self._log = log
        self._topic = topic

    async def run(self, found: Findings) -> None:
        for invariant in ("I5", "I6", "I7"):
            found.looked(invariant, 0)
        since_ms = _held_since(await self._log.begins(self._topic))
        with open_ledger() as ledger:
            if since_ms is not None:
                await self._read_ends(ledger, since_ms, found)
            await self._read_topic(ledger, found)
            self._compare(ledger, since_ms, found)
            await self._judge_unknown(ledger, found)

    async def _read_ends(self, ledger: Ledger, since_ms: int, found: Findings) -> None:
        since = datetime.fromtimestamp(since_ms / 1_000, UTC)
        async for part in self._tasks.slices():
            ends = await self._tasks.ends(part, since)
            ledger.expect(
                End(end.public_id, end.version, _facts_of_row(end), _ms(end.finished_at), end.waiting) for end in ends
            )
            found.looked("I7", len(ends))

    async def _read_topic(self, ledger: Ledger, found: Findings) -> None:
        async for batch in self._log.read([self._topic]):
            events = []
            for record in batch:
                try:
                    events.append(_parse(record))
                except _NotOurs as error:
                    found.add(Violation("I7", _place(record), f"a record that is no event of ours: {error.why}"))
            for event, elsewhere in ledger.note(events):
                detail = f"says another thing than {elsewhere} about the same end"
                found.add(Violation("I6", event_id(event.task, event.version), f"{event.place} {detail}"))
            found.looked("I6", len(batch))

    def _compare(self, ledger: Ledger, since_ms: int | None, found: Findings) -> None:
        for event in ledger.wrong():
            found.add(_wrong(event))
        if since_ms is None:
            return
        for task, version in ledger.unsaid(since_ms + _MARGIN_MS):
            detail = "has ended, but its event is neither in the outbox nor in the topic"
            found.add(Violation("I7", event_id(task, version), detail, _REPUBLISH))

    async def _look_up(self, page: Sequence[Said], found: Findings) -> list[Said]:
        """Judge events that the first look did not expect: of younger ends, or of earlier ones. Returns those of tasks
        that are gone."""
        gone = []
        now = {end.public_id: end for end in await self._tasks.tasks_now([(said.tenant, said.task) for said in page])}
        for event in page:
            end = now.get(event.task)
            if end is None:
                gone.append(event)
            elif end.version == event.version and _facts_of_row(end) != event.facts:
                found.add(_wrong(event))
            elif end.version < event.version:
                detail = f"{event.place} announces an end that was never written: the task has version {end.version}"
                found.add(Violation("I7", event_id(event.task, event.version), detail))
            elif end.version > event.version:
                found.looked("I5")
                if end.replayed is None or end.replayed <= event.version:
                    detail = f"was announced, then changed to version {end.version} without a recorded replay"
                    found.add(Violation("I5", event_id(event.task, event.version), detail))
        return gone

    async def _judge_unknown(self, ledger: Ledger, found: Findings) -> None:
        """Events of tasks that are gone may be most of the topic: they are counted, and read again only where there are
        more than were cleaned."""
        tasks, last = Counter[_Owner](), None
        for page in ledger.unknown():
            for event in await self._look_up(page, found):
                tasks[event.tenant, event.creator] += event.task != last
                last = event.task
        cleaned = await self._tasks.cleaned(list(tasks)) if tasks else {}
        beyond = {owner: (number, gone) for owner, number in tasks.items() if number > (gone := cleaned.get(owner, 0))}
        for page in ledger.unknown() if beyond else ():
            for event in await self._look_up(page, Findings()):
                owner = (event.tenant, event.creator)
                if owner in beyond:
                    number, gone = beyond[owner]
                    known = f"of a task that does not exist ({number} such of tenant {owner[0]}, {gone} were cleaned)"
                    detail = f"{event.place} is an event {known}"
                    found.add(Violation("I7", event_id(event.task, event.version), detail))


def _held_since(firsts: Sequence[FirstRecord]) -> int | None:
    """The instant from which on the topic holds everything; None when it holds nothing."""
    if not firsts:
        return None
    cut = [first.timestamp_ms for first in firsts if first.offset > 0]
    since = max([min(first.timestamp_ms for first in firsts), *cut])
    return min(since, int(time.time() * 1_000))  # a producer may date its record as it likes


def _parse(record: LogRecord) -> Said:
    headers = dict(record.headers)
    try:
        event = TaskEvent.model_validate_json(record.value or b"")
        task, sequence, tenant = UUID(event.taskId), int(headers.get("ce_sequence") or b""), int(event.tenantId)
        status = TaskStatus[event.status.upper()]
        content = orjson.dumps(orjson.loads(record.value or b""), option=orjson.OPT_SORT_KEYS)
        facts = _facts(
            event.tenantId, event.creator, event.bizName, event.status, event.attempt, rfc3339(event.finishedAt),
            event.ossFile, event.fileType, event.fileSize, event.errorCode,
        )  # fmt: skip
    except ValidationError as error:
        raise _NotOurs(f"its value does not read as an event ({error.error_count()} errors)") from error
    except (ValueError, TypeError, OverflowError) as error:
        raise _NotOurs("its id, its sequence or a value of it does not read") from error
    if sequence not in _VERSIONS or tenant not in _TENANTS or "\0" in event.creator:
        raise _NotOurs("no version, tenant or creator is written so")
    if headers.get("ce_id") != event_id(task, sequence).encode():
        raise _NotOurs("its ce_id is not its task's id and sequence")
    if record.key != event.taskId.encode() or headers.get("ce_type") != event_type(status).encode():
        raise _NotOurs("its key or its type is another task's")
    return Said(task, sequence, facts, _digest(content), tenant, event.creator, _place(record))


def _facts_of_row(end: TaskEnd) -> bytes:
    return _facts(
        str(end.tenant_id), end.creator, end.biz_name, end.status.word, end.attempt,
        rfc3339(end.finished_at) if end.finished_at is not None else None,
        end.oss_file, end.file_type, end.file_size, end.error_code or None,
    )  # fmt: skip


def _facts(*values: str | int | None) -> bytes:
    return _digest(orjson.dumps(values))


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()


def _wrong(event: Said) -> Violation:
    return Violation("I6", event_id(event.task, event.version), f"{event.place} does not say what the task's row says")


def _place(record: LogRecord) -> str:
    return f"{record.topic}/{record.partition}@{record.offset}"


def _ms(at: datetime | None) -> int:
    return int(at.timestamp() * 1_000) if at is not None else 0
