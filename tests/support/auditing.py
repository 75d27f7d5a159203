"""A house with all its stores, for the auditor: results and staging on disk, Kafka in memory."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

from libs.common.adapters.object_storage.audited import AuditedObjects
from libs.common.adapters.postgres.audit import PostgresAudit, open_audit_database
from libs.common.adapters.postgres.dispatch_queue import PostgresEvents
from libs.common.adapters.staging import Staging, open_staging
from libs.common.contracts.dispatch_message import DispatchMessage
from libs.common.contracts.topics import EVENT_PARTITIONS, events_topic, model_topic
from libs.common.domain.model import Model
from libs.common.domain.outcome import ResultFile
from libs.common.operations.audit import Audit, Report
from libs.common.operations.audit_database import DatabaseChecks
from libs.common.operations.audit_events import EventChecks
from libs.common.operations.audit_gate import GateChecks
from libs.common.operations.audit_objects import ResultChecks, StagingChecks
from libs.common.operations.audit_road import RoadChecks
from libs.common.operations.event_records import event_record
from libs.common.ports_attempts import Attempt
from libs.common.ports_audit import FirstRecord, LogRecord
from libs.common.ports_dispatch import Headers, LeasedRow
from tests.support.house import House

PREFIX = "p"
EVENTS = events_topic(PREFIX)


@dataclass
class FakeLog:
    """Topics in memory, of one partition each."""

    records: dict[str, list[LogRecord]] = field(default_factory=dict)

    def append(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        timestamp_ms: int | None = None,
    ) -> LogRecord:
        log = self.records.setdefault(topic, [])
        at = timestamp_ms if timestamp_ms is not None else int(time.time() * 1_000)
        record = LogRecord(topic, 0, len(log), at, key, value, tuple(headers))
        log.append(record)
        return record

    def again(self, record: LogRecord, **changes: object) -> None:
        """The same record once more, changed or not."""
        log = self.records[record.topic]
        log.append(replace(record, offset=len(log), **changes))  # type: ignore[arg-type]

    async def begins(self, topic: str) -> list[FirstRecord]:
        return [FirstRecord(record.offset, record.timestamp_ms) for record in self.records.get(topic, [])[:1]]

    async def read(self, topics: Sequence[str]) -> AsyncIterator[list[LogRecord]]:
        for topic in topics:
            log = self.records.get(topic, [])
            for start in range(0, len(log), 3):
                yield log[start : start + 3]


@dataclass
class Audited:
    """All stores of a house, and the auditor."""

    house: House
    tasks: PostgresAudit
    log: FakeLog
    objects: Path
    staging: Staging
    apart_seconds: float = 0.0

    @property
    def audit(self) -> Audit:
        return Audit(
            [
                DatabaseChecks(self.tasks, self.house.gate),
                GateChecks(self.tasks, self.house.gate, self.house.permits, apart_seconds=self.apart_seconds),
                EventChecks(self.tasks, self.log, EVENTS),
                RoadChecks(self.tasks, self.log, PREFIX),
                ResultChecks(self.tasks, AuditedObjects(self.objects.as_uri())),
                StagingChecks(self.house.sweeps, self.staging),
            ],
            confirm_seconds=0.0,
        )

    async def run(self, *, fix: bool = False) -> Report:
        return await self.audit.run(fix=fix)

    async def found(self) -> set[str]:
        """The invariants that are violated."""
        return {violation.invariant for violation in (await self.run()).violations}

    async def succeed(self, attempt: Attempt, content: bytes = b"result") -> Path:
        """Finish an attempt with a result in the object store."""
        return (await self.succeed_with(attempt, content))[0]

    async def succeed_with(self, attempt: Attempt, *contents: bytes) -> list[Path]:
        """Finish an attempt with several files in the object store."""
        paths, files = [], []
        for index, content in enumerate(contents):
            key = f"{attempt.tenant_id}/{attempt.public_id}-{attempt.number}-{index}.txt"
            path = self.objects / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            paths.append(path)
            files.append(ResultFile(f"{self.objects.as_uri()}/{key}", "txt", len(content), digest, path.name))
        assert await self.house.finish(attempt, *files)
        return paths

    async def announce(self) -> list[LogRecord]:
        """Send what waits in the outbox, as the relay does."""
        events = PostgresEvents(self.house.database)
        rows = await events.after(0, 1_000, [])
        sent = []
        for row in rows:
            record = event_record(row, topic=EVENTS, source="/test", partitions=EVENT_PARTITIONS)
            sent.append(
                self.log.append(
                    EVENTS,
                    record.value,
                    key=record.key,
                    headers=record.headers,
                    timestamp_ms=record.timestamp_ms,
                )
            )
        await events.sent([row.key for row in rows])
        return sent

    def publish(self, model: Model, rows: Sequence[LeasedRow]) -> None:
        """Put the messages of leased rows onto their topic."""
        for row in rows:
            message = DispatchMessage(
                row.id, row.lane, model.tenant_id, model.id, row.attempt, row.lease, row.phase, row.input_size
            )
            self.log.append(self.topic(model), message.encode())

    def topic(self, model: Model) -> str:
        return model_topic(PREFIX, model.id, model.name)

    async def stage(self, task: UUID, *, age: float = 0.0, commit: bool = True) -> str:
        """A file in staging, so old."""
        writer = self.staging.create(task, 1, 7)
        await writer.write(b"x" * (300_000 if not commit else 30_000))
        if commit:
            await writer.commit()
        path = max(self.staging.root.iterdir(), key=lambda item: item.stat().st_mtime_ns)
        os.utime(path, (time.time() - age, time.time() - age))
        return f"local:{path.name}"


@asynccontextmanager
async def open_audited(house: House, folder: Path, *, slice_tasks: int = 2) -> AsyncIterator[Audited]:
    """All stores of an empty house; small slices, so that every walk takes several."""
    objects = folder / "objects"
    objects.mkdir()
    async with (
        open_audit_database(house.database_url) as tasks,
        open_staging(folder / "staging", "local", max_file_bytes=10**6, max_total_bytes=10**9) as staging,
    ):
        tasks._slice_tasks = slice_tasks
        yield Audited(house, tasks, FakeLog(), objects, staging)
