"""A completion event as webhooks tell of it: the same data, and a link instead of the output."""

from __future__ import annotations

import orjson

from libs.common.contracts.completion_event import event_id, rfc3339
from libs.common.domain.endpoint import InvalidEndpoint, parse_endpoint
from libs.common.domain.webhook import bit_of
from libs.common.operations.event_records import event_data
from libs.common.ports_dispatch import EventRow
from libs.common.ports_webhooks import HookedEvent


def hooked_event(row: EventRow, public_url: str) -> HookedEvent:
    """The body is written once: every attempt, at every address, sends the same bytes."""
    kind, bit = f"task.{row.status.word}", bit_of(row.status)
    link = f"{public_url.rstrip('/')}/v1/tasks/{row.public_id}"
    body = {"type": kind, "timestamp": rfc3339(row.finished_at), "data": {**event_data(row), "link": link}}
    url = row.webhook_url if row.webhook_events & bit else None
    return HookedEvent(
        id=row.id,
        tenant_id=row.tenant_id,
        task_id=row.public_id,
        bit=bit,
        message_id=event_id(row.public_id, row.version),
        type=kind,
        body=orjson.dumps(body).decode(),
        url=url,
        line=_origin(url) if url else "",
        finished_at=row.finished_at,
    )


def _origin(url: str) -> str:
    try:
        return parse_endpoint(url).origin
    except InvalidEndpoint:  # it was one when the task was made
        return ""
