"""The OpenAPI document: `python -m services.api.openapi > schemas/openapi.json`."""

from __future__ import annotations

import json
import re
import sys
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from services.api import examples
from services.api.legacy import described as legacy
from services.api.push.asked import MOST_NAMES
from services.api.routes import (
    control,
    dead,
    insight,
    keys,
    models,
    op_log,
    quota,
    replays,
    results,
    tasks,
    tenants,
    webhooks,
)
from services.api.routes.context import Reader, Submitter, TaskId
from services.api.routes.documented import REPLAYED, IdempotencyHeader, answers, problems
from services.api.schemas import TaskBatchIn, TaskIn
from services.api.schemas_out import AcceptedOut, BatchOut, NewsOut, TaskOut

TITLE: Final = "Sluiceway"
VERSION: Final = "1"  #: of the routes, not of the package
DESCRIPTION: Final = """Carries slow AI-model calls for many tenants.

Hand in a task, go on with your life, and read its end here or on Kafka. Every request belongs to the tenant of its API
key. Problems are `application/problem+json` (RFC 9457) with a stable `code`. Times are RFC 3339 in UTC. 429 and 503
say in `Retry-After`, and in `retry_after` of the problem, when to try again; nothing was done unless the code is
`outcome_unknown`.

The routes of the Go gateway answer in its envelope `{code, message, data}`. They take JSON, forms and queries alike;
case, `_`, `-` and spaces do not matter in names.
"""
_CREATE_ERRORS: Final = (
    "bad_json",
    "invalid",
    "bad_idempotency_key",
    "model_unknown",
    "model_disabled",
    "webhook_url",
    "webhook_unsigned",
    "slow_body",
    "body_too_large",
    "payload_too_large",
    "unsupported_media_type",
    "idempotency_mismatch",
    "queue_full",
    "quota_exhausted",
    "outcome_unknown",
)
_BATCH_ERRORS: Final = (
    "bad_json",
    "invalid",
    "bad_idempotency_key",
    "slow_body",
    "body_too_large",
    "unsupported_media_type",
    "outcome_unknown",
)
_ACCEPTED_HEADERS: Final = {
    "Location": {"description": "Where the task is.", "schema": {"type": "string"}},
    **REPLAYED,
    "Preference-Applied": {"description": "`wait=n` where it was waited for.", "schema": {"type": "string"}},
}

#: One event of a stream, as a client's parser hands it over.
_EVENT: Final = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "event": {"enum": ["message", "caught_up"], "default": "message"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/NewsOut"},
        },
    },
}
_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "`data` of a message is a NewsOut, `id` what Last-Event-ID takes. Comments are heartbeats.",
        "model": NewsOut,
        "content": {"text/event-stream": {"schema": _EVENT, "example": examples.NEWS_EVENT}},
    }
}
LastEventHeader = Annotated[
    str | None, Header(alias="Last-Event-ID", description="Where an earlier stream ended.", max_length=100)
]
LastEventQuery = Annotated[
    str | None, Query(description="The same, for who cannot set headers (WebSockets of browsers).", max_length=100)
]


class _EventStream(Response):
    media_type = "text/event-stream"


#: Describes the routes that bypass the framework (routes/create_task.py, push/); nothing is ever served from here.
_described = APIRouter(prefix="/v1/tasks", tags=["tasks"])


@_described.post(
    "",
    summary="Create a task",
    status_code=202,
    responses=answers(AcceptedOut | TaskOut, examples.ACCEPTED, *_CREATE_ERRORS, status=202, headers=_ACCEPTED_HEADERS),
)
def create_task(
    task: Annotated[TaskIn, examples.body(examples.TASK_IN)],
    caller: Submitter,
    idempotency_key: IdempotencyHeader = None,
    prefer: Annotated[
        str | None, Header(alias="Prefer", description="`wait=n`: answer when the task ends, n <= 55 s.")
    ] = None,
) -> None:
    """Accepts a task durably. Refused with 429 and nothing written when the model's queue is full, or when the
    creator's points of the day do not suffice for the model's price times output_count.

    The same Idempotency-Key returns the task that it made first, even when the queue is full now; with another body
    it is refused.

    With `Prefer: wait=n`, from a key that may read, the answer comes when the task has ended, or n seconds later. It is
    202 all the same, and the task as a read shows it; a success is not marked as fetched by that.
    """


@_described.post(
    "/batch",
    summary="Create up to 1,000 tasks",
    status_code=202,
    responses={
        **answers(BatchOut, examples.BATCH, *_BATCH_ERRORS, status=202),
        207: {
            "description": "Some tasks were refused: each place has its own verdict.",
            "model": BatchOut,
            "content": {"application/json": {"example": examples.BATCH_IN_PART}},
        },
    },
)
def create_tasks(
    batch: Annotated[TaskBatchIn, examples.body(examples.TASK_BATCH_IN)],
    caller: Submitter,
    idempotency_key: IdempotencyHeader = None,
) -> None:
    """A verdict for each task in its place: accepted (202) or its own problem. While a store is away for all of them,
    the answer is 503, as to a single create.

    With an Idempotency-Key, repeating a batch that was accepted in part creates only what is missing.
    """


_described_streams = APIRouter(prefix="/v1", tags=["streams"])


@_described_streams.get(
    "/tasks/{task_id}/events",
    summary="Follow a task",
    response_class=_EventStream,
    responses={
        **_STREAM,
        204: {"description": "The task is over, and the caller has its last status: do not come again."},
        **problems("invalid", "task_unknown", "too_many_streams"),
    },
)
def follow_task(
    task_id: TaskId, caller: Reader, last_event_id: LastEventQuery = None, last_event: LastEventHeader = None
) -> None:
    """Server-sent events (or a WebSocket, see docs/push.md): where the task is now, then every change until its end.

    Last-Event-ID is `<task id>:<sequence>`. A status that lasted shorter than about 200 ms may be skipped.
    """


@_described_streams.get(
    "/events",
    summary="Follow all tasks",
    response_class=_EventStream,
    responses={**_STREAM, **problems("invalid", "too_many_streams")},
)
def follow_tasks(
    caller: Reader,
    model: Annotated[list[str] | None, Query(description="Only of these models.", max_length=MOST_NAMES)] = None,
    task: Annotated[list[str] | None, Query(description="Only these tasks.", max_length=MOST_NAMES)] = None,
    last_event_id: LastEventQuery = None,
    last_event: LastEventHeader = None,
) -> None:
    """Server-sent events (or a WebSocket, see docs/push.md): every status change of the tenant's tasks from now on.

    With Last-Event-ID, a time: open tasks and those that ended since first, then an event `caught_up`.
    """


_called_back = APIRouter(prefix="/v1/callbacks", tags=["callbacks"])
_CALLBACK_ERRORS: Final = ("not_found", "slow_body", "body_too_large", "unsupported_media_type", "invalid")


@_called_back.post(
    "/{token}",
    summary="A provider calls back",
    status_code=204,
    responses={
        204: {"description": "It is taken, whatever has become of the job."},
        **problems(*_CALLBACK_ERRORS, but=("unauthenticated", "forbidden")),
    },
    openapi_extra={
        "security": [],
        "requestBody": {
            "content": {"application/json": {"schema": {}, "example": {"id": "p1", "status": "succeeded"}}}
        },
    },
)
def call_back(token: Annotated[str, Path(max_length=512, description="As it was given to the provider.")]) -> None:
    """For providers alone: the address comes with each job that is submitted while SLUICEWAY_PUBLIC_URL is set, and its
    token is the credential. Of a provider that can be asked a callback is only a hint to ask now; of one that cannot
    its body says how the job stands. Late, repeated and foreign callbacks change nothing.
    """


def document() -> dict[str, Any]:
    """The document of the whole API, the bypassing routes included."""
    routers = (
        _described,
        _called_back,
        _described_streams,
        tasks.router,
        results.router,
        models.router,
        op_log.router,
        dead.router,
        replays.router,
        quota.router,
        tenants.router,
        keys.router,
        insight.router,
        control.router,
        webhooks.router,
        legacy.router,
    )
    routes = [route for router in routers for route in router.routes]
    described = get_openapi(
        title=TITLE, version=VERSION, openapi_version="3.1.0", description=DESCRIPTION, routes=routes
    )
    for route in routes:
        if isinstance(route, APIRoute):
            for method in route.methods or ():
                _mend(described["paths"][route.path_format][method.lower()], route)
    for unused in ("HTTPValidationError", "ValidationError"):
        described["components"]["schemas"].pop(unused, None)
    return described


class Methods:
    """Which methods a path has, the bypassing routes included: what `Allow` must say. HEAD is taken wherever GET is,
    described or not, but for streams, which have no end."""

    def __init__(self, described: dict[str, Any]) -> None:
        # Literal paths first: /v1/tasks/batch is no task id.
        # And the longer ones: what is asked of a model is no part of its name.
        paths = sorted(described["paths"].items(), key=lambda item: ("{" in item[0], -len(item[0])))
        self._known = [(_template(path), set(map(str.upper, operations))) for path, operations in paths]
        self._streams = [
            _template(path)
            for path, operations in paths
            if _EVENT_STREAM in str(operations.get("get", {}).get("responses"))
        ]

    def of(self, path: str) -> list[str]:
        """The methods; empty for a path that is not described."""
        described = self._described(path)
        return sorted(described | {"HEAD"} if self.looks(path) else described)

    def looks(self, path: str) -> bool:
        """Whether HEAD is answered there by what answers GET."""
        described = self._described(path)
        stream = any(template.fullmatch(path) for template in self._streams)
        return "GET" in described and "HEAD" not in described and not stream

    def _described(self, path: str) -> set[str]:
        return next((methods for template, methods in self._known if template.fullmatch(path)), set())


_EVENT_STREAM: Final = "text/event-stream"
#: Names may hold slashes, ids none.
_NAMES: Final = re.compile(r"\\\{(?:name|user)\\\}")
_ONE_PART: Final = re.compile(r"\\\{\w+\\\}")


def _template(path: str) -> re.Pattern[str]:
    return re.compile(_ONE_PART.sub("[^/]+", _NAMES.sub(".+", re.escape(path))), re.DOTALL)


def _mend(operation: dict[str, Any], route: APIRoute) -> None:
    if 422 not in route.responses:
        operation["responses"].pop("422", None)  # FastAPI's own answer to what is invalid; ours is 400
    for status, answer in route.responses.items():
        for kind, media in answer.get("content", {}).items():
            for shown in ("schema", "example", "examples"):  # FastAPI leaves nulls out, and adds a schema
                if shown in media:
                    operation["responses"][str(status)]["content"][kind][shown] = media[shown]


def main() -> None:
    """Print the document."""
    json.dump(document(), sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
