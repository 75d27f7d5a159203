"""The model topics against PostgreSQL: nothing that an owner has read past is lost, poison included (I10)."""

from __future__ import annotations

from typing import Final

from libs.common.contracts.dispatch_message import MalformedMessage, decode
from libs.common.contracts.topics import model_topic
from libs.common.operations.audit_findings import Findings, Violation
from libs.common.ports_audit import AuditedTasks, Log, LogRecord

_TOPICS: Final = 100
_Spot = tuple[str, int]


class RoadChecks:
    """Poison below a claimed message has its row among the dead: positions only move on when both are settled."""

    name = "kafka road"

    def __init__(self, tasks: AuditedTasks, log: Log, prefix: str) -> None:
        self._tasks = tasks
        self._log = log
        self._prefix = prefix

    async def run(self, found: Findings) -> None:
        found.looked("I10", 0)
        names = [model_topic(self._prefix, id_, name) for id_, name in await self._tasks.models()]
        for start in range(0, len(names), _TOPICS):
            await self._check(names[start : start + _TOPICS], found)

    async def _check(self, topics: list[str], found: Findings) -> None:
        poison: dict[_Spot, list[int]] = {}
        last: dict[_Spot, tuple[int, int, int]] = {}
        async for batch in self._log.read(topics):
            for record in batch:
                _sort(record, poison, last)
            found.looked("I10", len(batch))
        claimed = await self._tasks.claimed([last[spot][1:] for spot in poison if spot in last])
        for spot, offsets in poison.items():
            if spot not in last or last[spot][1:] not in claimed:
                continue  # nobody need have read so far yet
            read_past = [offset for offset in offsets if offset < last[spot][0]]
            buried = await self._tasks.buried(*spot, read_past)
            for offset in read_past:
                if offset not in buried:
                    detail = "cannot be understood, was read past, and is not among the dead messages"
                    found.add(Violation("I10", f"{spot[0]}/{spot[1]}@{offset}", detail))


def _sort(record: LogRecord, poison: dict[_Spot, list[int]], last: dict[_Spot, tuple[int, int, int]]) -> None:
    spot = (record.topic, record.partition)
    try:
        message = decode(record.value)
    except MalformedMessage:
        poison.setdefault(spot, []).append(record.offset)
    else:
        last[spot] = (record.offset, message.task, message.lease)
