"""Completion events as outsiders read them: CloudEvents, the contract's model, and the published schema agree."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import jsonschema
import orjson
import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary
from cloudevents.core.formats.json import JSONFormat

from libs.common.contracts import schemas
from libs.common.contracts.completion_event import TaskEvent
from libs.common.domain.task import TaskStatus
from libs.common.operations.event_records import event_record
from libs.common.ports_dispatch import EventRow

FILES = [{"url": "https://s/x.png", "type": "image/png", "size": 3, "sha256": "ab", "name": "x.png", "index": 0}]
ROW = EventRow(
    id=5,
    public_id=UUID("01890000-0000-7000-8000-000000000001"),
    tenant_id=-(2**62),
    creator="anna",
    biz_name="büro \u2028 ✓",
    model_name="Bild / 1",
    version=7,
    status=TaskStatus.SUCCESS,
    attempt=2,
    created_at=datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC),
    started_at=datetime(2026, 11, 23, 14, 0, 1, tzinfo=timezone(timedelta(hours=2))),
    finished_at=datetime(2026, 11, 23, 12, 0, 2, 999999, tzinfo=UTC),
    oss_file="https://s/x.png",
    file_type="image/png",
    file_size=3,
    files=json.dumps(FILES),
    error_code=None,
    error_message=None,
    sends=0,
)
FAILED = replace(
    ROW,
    status=TaskStatus.FAILED,
    started_at=None,
    oss_file=None,
    file_type=None,
    file_size=None,
    files=None,
    error_code="model_status",
    error_message='500: "x" \u0000 \\',
)
ROWS = [ROW, FAILED, replace(FAILED, status=TaskStatus.TIMEOUT), replace(FAILED, status=TaskStatus.CANCELED)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.status.word)
def test_the_record_is_a_cloud_event_in_binary_mode(row: EventRow) -> None:
    record = event_record(row, topic="t", source="/sluiceway", partitions=12)
    event = from_binary(KafkaMessage(dict(record.headers), record.key, record.value), JSONFormat())
    assert event.get_id() == f"{row.public_id}:7"
    assert event.get_type() == f"sluiceway.task.{row.status.word}.v1"
    assert event.get_source() == "/sluiceway"
    assert event.get_subject() == str(row.public_id)
    assert event.get_time() == datetime(2026, 11, 23, 12, 0, 2, 999000, tzinfo=UTC)
    assert event.get_specversion() == "1.0"
    assert event.get_extension("sequence") == "7"
    assert event.get_data() == json.loads(record.value)
    assert record.key == str(row.public_id).encode()
    assert record.partition == row.public_id.int % 12


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.status.word)
def test_the_data_is_exactly_the_contract(row: EventRow) -> None:
    record = event_record(row, topic="t", source="/s", partitions=12)
    data = orjson.loads(record.value)
    assert list(data) == list(TaskEvent.model_fields)
    event = TaskEvent.model_validate_json(record.value, strict=True)
    assert event.taskId == str(row.public_id)
    assert event.tenantId == str(row.tenant_id)
    assert event.status == row.status.word
    assert data["finishedAt"] == "2026-11-23T12:00:02.999Z"
    assert data["files"] == (FILES if row.files else None)
    jsonschema.validate(data, schemas.task_event_schema(), format_checker=jsonschema.FormatChecker())


def test_the_schema_refuses_what_is_no_event() -> None:
    data = orjson.loads(event_record(ROW, topic="t", source="/s", partitions=12).value)
    for broken in (
        {**data, "status": "done"},
        {**data, "tenantId": 7},
        {k: v for k, v in data.items() if k != "taskId"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schemas.task_event_schema())


def test_the_published_schemas_are_current() -> None:
    events = schemas.FOLDER / "events"
    written = {str(file.relative_to(schemas.FOLDER)): file.read_text() for file in events.rglob("*.json")}
    assert written == schemas.documents(), "run: python -m libs.common.contracts.schemas"
