"""The OpenAPI document: `python -m services.api.openapi > schemas/openapi.json`."""

from __future__ import annotations

import json
import re
import sys
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from services.api import examples
from services.api.legacy import described as legacy
from services.api.problems import CONTENT_TYPE
from services.api.routes import models, op_log, tasks
from services.api.routes.context import Submitter
from services.api.routes.documented import answers
from services.api.schemas import TaskBatchIn, TaskIn
from services.api.schemas_out import AcceptedOut, BatchOut

TITLE: Final = "Sluiceway"
VERSION: Final = "1"  #: of the routes, not of the package
DESCRIPTION: Final = """Carries slow AI-model calls for many tenants.

Hand in a task, go on with your life, and read its end here or on Kafka. Every request belongs to the tenant of its API
key. Problems are `application/problem+json` (RFC 9457) with a stable `code`. Times are RFC 3339 in UTC. 429 and 503
say in `Retry-After` when to try again; nothing was done unless the code is `outcome_unknown`.

The routes of the Go gateway answer in its envelope `{code, message, data}`. They take JSON, forms and queries alike;
case, `_`, `-` and spaces do not matter in names.
"""
_CREATE_ERRORS: Final = (
    "bad_json",
    "invalid",
    "bad_idempotency_key",
    "model_unknown",
    "model_disabled",
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
)
_REPLAYED: Final = {
    "Location": {"description": "Where the task is.", "schema": {"type": "string"}},
    "Idempotent-Replayed": {
        "description": "`true` when an earlier request with the same key made it.",
        "schema": {"type": "string"},
    },
}
IdempotencyHeader = Annotated[
    str | None,
    Header(alias="Idempotency-Key", min_length=1, max_length=255, description="A name of yours, kept for a day."),
]

#: Describes the routes that bypass the framework (routes/create_task.py); nothing is ever served from here.
_described = APIRouter(prefix="/v1/tasks", tags=["tasks"])


@_described.post(
    "",
    summary="Create a task",
    status_code=202,
    responses=answers(AcceptedOut, examples.ACCEPTED, *_CREATE_ERRORS, status=202, headers=_REPLAYED),
)
def create_task(
    task: Annotated[TaskIn, examples.body(examples.TASK_IN)],
    caller: Submitter,
    idempotency_key: IdempotencyHeader = None,
) -> None:
    """Accepts a task durably. Refused with 429 and nothing written when the model's queue is full, or when the
    creator's points of the day do not suffice for the model's price times output_count.

    The same Idempotency-Key returns the task that it made first, even when the queue is full now; with another body
    it is refused.
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
            "content": {"application/json": {"example": examples.BATCH}},
        },
    },
)
def create_tasks(
    batch: Annotated[TaskBatchIn, examples.body(examples.TASK_BATCH_IN)],
    caller: Submitter,
    idempotency_key: IdempotencyHeader = None,
) -> None:
    """A verdict for each task in its place: accepted (202) or its own problem.

    With an Idempotency-Key, repeating a batch that was accepted in part creates only what is missing.
    """


def document() -> dict[str, Any]:
    """The document of the whole API, the bypassing routes included."""
    routers = (_described, tasks.router, models.router, op_log.router, legacy.router)
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
    """Which methods a path has, the bypassing routes included: what `Allow` must say."""

    def __init__(self, described: dict[str, Any]) -> None:
        # Literal paths first: /v1/tasks/batch is no task id.
        paths = sorted(described["paths"].items(), key=lambda item: "{" in item[0])
        self._known = [(_template(path), sorted(map(str.upper, operations))) for path, operations in paths]

    def of(self, path: str) -> list[str]:
        """The methods; empty for a path that is not described."""
        return next((methods for template, methods in self._known if template.fullmatch(path)), [])


def _template(path: str) -> re.Pattern[str]:
    return re.compile(re.escape(path).replace(r"\{task_id\}", "[^/]+").replace(r"\{name\}", ".+"), re.DOTALL)


def _mend(operation: dict[str, Any], route: APIRoute) -> None:
    if CONTENT_TYPE not in operation["responses"].get("422", {}).get("content", {}):
        operation["responses"].pop("422", None)  # FastAPI's own answer to what is invalid; ours is 400
    for status, answer in route.responses.items():
        media = answer.get("content", {}).get("application/json", {})
        for shown in ("example", "examples"):  # FastAPI leaves their nulls out
            if shown in media:
                operation["responses"][str(status)]["content"]["application/json"][shown] = media[shown]


def main() -> None:
    """Print the document."""
    json.dump(document(), sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
