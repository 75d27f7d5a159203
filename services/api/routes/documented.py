"""How operations are described: each answer and each problem with an example, headers included."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from types import UnionType
from typing import Annotated, Any, Final

from fastapi import Header
from pydantic import BaseModel

from services.api.problems import CODES, CONTENT_TYPE, Problem

_TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
#: What every operation can answer.
_ALWAYS: Final = ("unauthenticated", "forbidden", "internal", "unavailable", "rows_locked")
#: What a route that takes a body can answer besides.
BODY_ERRORS: Final = ("bad_json", "invalid", "body_too_large", "unsupported_media_type")
_SUCCESS: Final = {200: "As asked.", 201: "It is made.", 202: "It is accepted and will be done.", 204: "It is gone."}
REPLAYED: Final = {
    "Idempotent-Replayed": {
        "description": "`true` when an earlier request with the same key made it.",
        "schema": {"type": "string"},
    }
}
IdempotencyHeader = Annotated[
    str | None,
    Header(alias="Idempotency-Key", min_length=1, max_length=255, description="A name of yours, kept for a day."),
]
RETRY_AFTER: Final = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
_ETAG: Final = {"ETag": {"description": "The version.", "schema": {"type": "string"}}}
_LOCATION: Final = {"Location": {"description": "Where it is.", "schema": {"type": "string"}}}


def answers(
    model: type[BaseModel] | UnionType | None, example: Any, *codes: str, status: int = 200, **more: Any
) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an operation: its success, the problems of these codes, and those that always may come."""
    return {status: _success(model, example, status, more), **problems(*codes)}


def problems(*codes: str, but: Collection[str] = ()) -> dict[int | str, dict[str, Any]]:
    """Problems by status, with an example of each code; `but` never come, although they always may elsewhere."""
    by_status: dict[int, list[str]] = defaultdict(list)
    for code in (*codes, *(code for code in _ALWAYS if code not in but)):
        by_status[CODES[code].status].append(code)
    return {status: _problem(status, by_status[status]) for status in sorted(by_status)}


def _success(
    model: type[BaseModel] | UnionType | None, example: Any, status: int, more: dict[str, Any]
) -> dict[str, Any]:
    described: dict[str, Any] = {"description": _SUCCESS[status], **more}
    if model is not None:
        described["model"] = model
        described["content"] = {"application/json": {"example": example}}
    headers = (_ETAG if isinstance(example, dict) and "version" in example else {}) | (
        _LOCATION if status == 201 else {}
    )
    if headers:
        described["headers"] = headers
    return described


def _problem(status: int, codes: list[str]) -> dict[str, Any]:
    shown = {code: {"value": Problem(code, CODES[code].title + ".").body(_TRACE)} for code in codes}
    described: dict[str, Any] = {
        "description": "; ".join(f"`{code}`: {CODES[code].title}" for code in codes) + ".",
        "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemOut"}, "examples": shown}},
    }
    if status in (429, 503):
        described["headers"] = RETRY_AFTER
    return described
