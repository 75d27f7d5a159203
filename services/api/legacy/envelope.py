"""The old envelope: `code`, `message` and `data`, for answers and refusals alike."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from services.api.legacy.fields import MODEL_FIELDS
from services.api.problems import Problem

OK: Final = 0
#: Every code that a refusal can have.
CODES: Final = {
    40_000: "the request is malformed",
    40_001: "the body is not strict JSON",
    40_002: "a field is missing or is not what it should be",
    40_003: "a model cannot be configured like that",
    40_004: "the model's address cannot be used",
    40_005: "the model's apiKey cannot be used",
    40_006: "the body or its payload is too large",
    40_007: "the body must be JSON or a form",
    40_008: "the body did not arrive in time",
    40_009: "the Idempotency-Key cannot be used",
    401: "nobody knows who calls",
    403: "the caller may not do this",
    404: "there is no such model, task or route",
    405: "the route takes other methods",
    409: "it is being changed by others",
    40_901: "the name is taken",
    40_902: "the model is disabled",
    40_903: "jobs of the model need its present adapter",
    422: "the Idempotency-Key belongs to another request",
    429: "the model's queue is full",
    42_901: "the caller's points of the day are used up",
    500: "something went wrong here",
    503: "a store cannot be reached, or rows are locked in it",
}
#: By what /v1 calls the problem. Others are the HTTP status itself.
_BY_PROBLEM: Final = {
    "bad_json": 40_001,
    "invalid": 40_002,
    "body_too_large": 40_006,
    "payload_too_large": 40_006,
    "unsupported_media_type": 40_007,
    "slow_body": 40_008,
    "bad_idempotency_key": 40_009,
    "model_exists": 40_901,
    "model_disabled": 40_902,
    "model_jobs_open": 40_903,
    "quota_exhausted": 42_901,
}
#: What is wrong with a model's configuration, by the first word of its code.
_FAMILIES: Final = {"model": 40_003, "endpoint": 40_004, "egress": 40_004, "bindings": 40_005}
_MALFORMED: Final = 40_000
#: Refusals of the domain name fields as /v1 writes them.
_WRITTEN: Final = {wire.column: name for name, wire in MODEL_FIELDS.items() if "_" in wire.column}
_COLUMN: Final = re.compile(r"\b(" + "|".join(_WRITTEN) + r")\b")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A code that callers may rely on, and a message for people."""

    code: int
    message: str

    @property
    def status(self) -> int:
        """The HTTP status: the first three digits."""
        return int(str(self.code)[:3])


def refusal_of(problem: Problem) -> Refusal:
    """How the old routes put a problem."""
    code = _BY_PROBLEM.get(problem.code, problem.status_code)
    if code == 400:
        code = _FAMILIES.get(problem.code.partition("_")[0], _MALFORMED)
    message = str(problem.detail)
    if code < 40_100 and code > 400:
        message = _COLUMN.sub(lambda found: _WRITTEN[found[1]], message)
    return Refusal(code, message)


def enveloped(data: Any) -> dict[str, Any]:
    """An answer."""
    return {"code": OK, "message": "OK", "data": data}


def enveloped_refusal(refusal: Refusal) -> dict[str, Any]:
    """A refusal."""
    return {"code": refusal.code, "message": refusal.message, "data": None}
