"""What goes wrong, as RFC 9457 problems: one table of codes, one way to write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from libs.common.domain.errors import (
    Conflict,
    Exhausted,
    Invalid,
    NotFound,
    OutcomeUnknown,
    Refused,
    RowsLocked,
    Unavailable,
)

CONTENT_TYPE: Final = "application/problem+json"
#: So many complaints are said, and so much of a name that is none of ours: a body may hold 100,000 of them.
_ERRORS_LIMIT: Final = 20
_POINTER_LIMIT: Final = 256
TYPE_PREFIX: Final = "urn:sluiceway:problem:"
#: What a caller is asked to wait while a store is away.
OUTAGE_RETRY_SECONDS: Final = 2


class Problem(HTTPException):
    """A request that ends here. `errors` are {"pointer" or "parameter", "detail"}; nothing in it may be secret."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        status: int | None = None,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status or CODES[code].status, detail, dict(headers) if headers else None)
        self.code = code
        self.errors = tuple(errors)

    def body(self, trace_id: str, *, inside: str = "") -> dict[str, Any]:
        """The members of the problem document; pointers lead to what lies at the pointer `inside`."""
        known = CODES.get(self.code)
        errors = [
            {**error, "pointer": inside + error["pointer"]} if "pointer" in error else error for error in self.errors
        ]
        again = (self.headers or {}).get("Retry-After")
        return {
            "type": TYPE_PREFIX + self.code,
            "title": known.title if known else HTTPStatus(self.status_code).phrase,
            "status": self.status_code,
            "code": self.code,
            "detail": self.detail,
            "errors": errors,
            "trace_id": trace_id,
            **({} if again is None else {"retry_after": int(again)}),  # an item of a batch has no headers
        }

    def encoded(self, trace_id: str) -> bytes:
        """The problem document."""
        return orjson.dumps(self.body(trace_id))

    @property
    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """Its headers as ASGI has them."""
        return [(name.lower().encode(), value.encode()) for name, value in (self.headers or {}).items()]


@dataclass(frozen=True, slots=True)
class Code:
    """A stable machine code: its status and its short human name."""

    status: int
    title: str


#: Said where an address leads nowhere.
NO_ROUTE: Final = "There is no such route; /docs lists those that there are."

#: Every code that the API itself gives. Refusals of the domain bring codes of their own (`model_limit`, ...).
CODES: Final[dict[str, Code]] = {
    "bad_json": Code(400, "The body is not strict JSON"),
    "invalid": Code(400, "The request is not valid"),
    "bad_cursor": Code(400, "The cursor is not one of ours"),
    "bad_idempotency_key": Code(400, "The Idempotency-Key cannot be used"),
    "unauthenticated": Code(401, "An API key is needed"),
    "forbidden": Code(403, "The API key may not do this"),
    "not_found": Code(404, "There is nothing here"),
    "webhook_url": Code(400, "The address of the webhook cannot be used"),
    "webhook_secret": Code(400, "The secret of the webhook cannot be used"),
    "webhook_unsigned": Code(400, "Nothing would sign the webhook"),
    "webhook_unknown": Code(404, "There is no such webhook"),
    "delivery_unknown": Code(404, "There is no such delivery"),
    "webhook_exists": Code(409, "There is such a webhook already"),
    "webhook_limit": Code(409, "The tenant has too many webhooks"),
    "webhook_disabled": Code(409, "The webhook is switched off"),
    "model_unknown": Code(404, "There is no such model"),
    "limit_unknown": Code(404, "There is no such limit"),
    "key_unknown": Code(404, "There is no such valid API key"),
    "tenant_unknown": Code(404, "There is no such tenant"),
    "task_unknown": Code(404, "There is no such task"),
    "no_result": Code(404, "The task ended without a result"),
    "file_unknown": Code(404, "The result has no such file"),
    "result_gone": Code(404, "The file is no longer where it was stored"),
    "executor_unknown": Code(404, "There is no such executor"),
    "dead_unknown": Code(404, "Nothing of this id is dead"),
    "replay_unknown": Code(404, "There is no such replay job"),
    "method_not_allowed": Code(405, "This method is not offered here"),
    "slow_body": Code(408, "The body did not arrive in time"),
    "conflict": Code(409, "The present state forbids it"),
    "result_pending": Code(409, "The task has no result yet"),
    "model_disabled": Code(409, "The model is disabled"),
    "model_exists": Code(409, "The name is taken"),
    "model_jobs_open": Code(409, "Jobs of the model need its present adapter"),
    "replay_over": Code(409, "The replay job is over"),
    "version_mismatch": Code(412, "It was changed meanwhile"),
    "body_too_large": Code(413, "The body is too large"),
    "payload_too_large": Code(413, "The payload is too large"),
    "no_such_part": Code(416, "The file has no such bytes"),
    "unsupported_media_type": Code(415, "The body must be plain JSON"),
    "idempotency_mismatch": Code(422, "The Idempotency-Key belongs to another request"),
    "too_many_streams": Code(429, "Too many streams are open"),
    "queue_full": Code(429, "The model's queue is full"),
    "quota_exhausted": Code(429, "The points of the day are used up"),
    "internal": Code(500, "Something went wrong here"),
    "unavailable": Code(503, "A store cannot be reached"),
    "rows_locked": Code(503, "Rows are locked in PostgreSQL"),
    "outcome_unknown": Code(503, "Whether it happened is not known"),
}

_BY_CLASS: Final = ((Invalid, 400), (NotFound, 404), (Conflict, 409), (Exhausted, 429))


def problem_of(error: Exception) -> Problem:
    """The problem that an exception means; anything unexpected becomes a 500 that tells nothing.

    It has no traceback: that would keep whoever names the problem, and with it the request's body, until the garbage
    collector looks, which is seldom.
    """
    match error:
        case Problem():
            return bare(error)
        case Refused():
            return _refusal(error)
        case OutcomeUnknown():
            detail = (
                "Nobody can tell yet whether this was done: look first; a create is repeated with its Idempotency-Key."
            )
            return _outage("outcome_unknown", detail)
        case RowsLocked():
            detail = "Somebody's transaction keeps rows locked that this needs. Nothing was done; try again."
            return _outage("rows_locked", detail)
        case Unavailable():
            return _outage("unavailable", "Nothing was done; try again.")
        case RequestValidationError():
            return invalid(pointed(error.errors()))
        case HTTPException():
            return _plain(error)
        case _:
            return Problem("internal", "This is our fault. Quote the trace_id when you report it.")


def invalid(errors: Sequence[Mapping[str, str]]) -> Problem:
    """What a request is told of which these things are wrong."""
    return Problem("invalid", "Something in the request is not valid.", errors=errors)


def bare(problem: Problem) -> Problem:
    """The same without tracebacks, its own and those of what it was raised from: their frames would keep alive whatever
    called them."""
    link: BaseException | None = problem
    while link is not None:
        link.__traceback__ = None
        link = link.__context__
    return problem


def pointed(errors: Sequence[Any]) -> list[dict[str, str]]:
    """Pydantic's complaints as {"pointer" or "parameter", "detail"}; values that were sent are never repeated."""
    return [_pointed(list(error["loc"]), complaint(error)) for error in errors[:_ERRORS_LIMIT]]


def complaint(error: Mapping[str, Any]) -> str:
    """What pydantic says of a field, also where it does not know any more that the field is a text."""
    said: str = error["msg"]
    if error["type"] in ("too_long", "too_short") and error["ctx"]["field_type"] == "Value":
        few = error["type"] == "too_short"
        limit = error["ctx"]["min_length" if few else "max_length"]
        return f"String should have at {'least' if few else 'most'} {limit} character{'' if limit == 1 else 's'}"
    return said


def _pointed(location: list[Any], message: str) -> dict[str, str]:
    part = location.pop(0) if location and location[0] in ("body", "query", "path", "header") else "body"
    if part == "body":
        return {"pointer": pointer(*location)[:_POINTER_LIMIT], "detail": message}
    return {"parameter": ".".join(str(name) for name in location)[:_POINTER_LIMIT], "detail": message}


def pointer(*path: object) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _refusal(error: Refused) -> Problem:
    known = CODES.get(error.code)
    status = known.status if known else next((status for kind, status in _BY_CLASS if isinstance(error, kind)), 400)
    errors = [{"pointer": error.field, "detail": error.message}] if error.field else []
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, Exhausted) else None
    return Problem(error.code, error.message, status=status, errors=errors, headers=headers)


def _outage(code: str, detail: str) -> Problem:
    return Problem(code, detail, headers={"Retry-After": str(OUTAGE_RETRY_SECONDS)})


def _plain(error: HTTPException) -> Problem:
    """What the framework itself refuses: unknown paths and methods."""
    if error.status_code == 404:
        return Problem("not_found", NO_ROUTE)
    code = "method_not_allowed" if error.status_code == 405 else "invalid"
    return Problem(code, str(error.detail), status=error.status_code, headers=error.headers)
