"""What callers of /v1 send, as pydantic models: they check requests and describe them in the OpenAPI document."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from libs.common.domain.task import TaskStatus
from libs.common.domain.webhook import END_WORDS, URL_LIMIT
from libs.common.operations.keys import KEY_NAME_LIMIT, SCOPES, Scope
from libs.common.operations.quota import MOST_POINTS, WEIGHTS

BATCH_LIMIT: Final = 1_000
PAGE_LIMIT: Final = 1_000
PAGE_USUAL: Final = 50
BIZ_NAME_LIMIT: Final = 512
INPUT_REF_LIMIT: Final = 8_192
NAME_LIMIT: Final = 128
_NAME: Final = "Routing key, unique inside the tenant; any text but `.` and `..`, which name nothing in an address."
OUTPUTS_LIMIT: Final = 1_000
API_KEY_LIMIT: Final = 16_384
_SMALLEST_INT: Final = -2_147_483_647
_LARGEST_INT: Final = 2_147_483_647

#: How an instant begins; pydantic reads the rest, and would take numbers of seconds and dates alone as well.
_DATE_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d")
STATUS_BY_WORD: Final = {status.word: status for status in TaskStatus}


def _storable(text: str) -> str:
    if "\x00" in text:
        raise PydanticCustomError("nul", "a NUL character cannot be stored")
    return text


def _instant_text(value: Any) -> Any:
    if not isinstance(value, str) or not _DATE_TIME.match(value):
        raise PydanticCustomError("instant", "write an instant as RFC 3339 text with an offset")
    return value


def _in_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("instant", "lies outside of the calendar") from None


def _integer(value: Any) -> Any:
    """JSON knows one kind of number: 1.0 is the integer 1 (JSON Schema agrees), while true and "1" are none."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _flag(value: Any) -> Any:
    return bool(value) if type(value) in (int, float) and value in (0, 1) else value


Text = Annotated[str, AfterValidator(_storable)]
TenantId = Annotated[int, Field(ge=-(2**63), le=2**63 - 1, description="A signed 64-bit number.")]
Integer = Annotated[int, BeforeValidator(_integer)]
#: Text in JSON; pydantic's strict mode would want a datetime object, its lax mode would take numbers too.
Instant = Annotated[AwareDatetime, BeforeValidator(_instant_text), AfterValidator(_in_utc), Field(strict=False)]
#: Also 0 and 1, as the old routes have it.
Flag = Annotated[bool, BeforeValidator(_flag), WithJsonSchema({"enum": [False, True, 0, 1]})]
Int32 = Annotated[Integer, Field(ge=_SMALLEST_INT, le=_LARGEST_INT)]
Limit = Annotated[int, Field(ge=1, le=PAGE_LIMIT)]
Cursor = Annotated[str | None, Field(description="next_cursor of the page before.", max_length=200)]
Ends = Annotated[
    list[Literal["success", "failed", "timeout", "canceled"]], Field(min_length=1, max_length=len(END_WORDS))
]
AnyJson = Annotated[Any, WithJsonSchema({"description": "Any JSON value, handed to the model byte for byte."})]


class Request(BaseModel):
    """Strict, frozen, and closed: an unknown field is a misunderstanding and is said."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    def given(self) -> dict[str, Any]:
        """The fields that say something."""
        return {name: value for name in self.model_fields_set if (value := getattr(self, name)) is not None}


class Query(BaseModel):
    """The same of an address: query parameters are text, so numbers in text are what is meant."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskIn(Request):
    """A task to be run."""

    model: Text = Field(min_length=1, max_length=NAME_LIMIT, description="Name of one of the tenant's models.")
    payload: AnyJson = Field(None, description="What the model gets.")
    biz_name: Text = Field(
        "", max_length=BIZ_NAME_LIMIT, description="The caller's own name for it; can be filtered by."
    )
    input_ref: Text = Field("", max_length=INPUT_REF_LIMIT, description="Reference to input that lies elsewhere.")
    priority: Integer = Field(0, ge=-32_768, le=32_767, description="Smaller starts first, inside one model.")
    not_before: Instant | None = Field(None, description="Does not start earlier; at most a year ahead.")
    start_by: Instant | None = Field(
        None, description="Not started by then, it ends as `timeout` (`not_started`); not before not_before."
    )
    deadline: Instant | None = Field(
        None, description="Not done by then, it ends as `timeout` (`deadline_exceeded`); not before start_by."
    )
    output_count: Integer = Field(
        1, ge=1, le=OUTPUTS_LIMIT, description="Outputs that it asks for; with the model's price, what it costs."
    )
    webhook_url: Text | None = Field(
        None, min_length=1, max_length=URL_LIMIT, description="Where its end is told; see /v1/webhooks, kind tasks."
    )
    webhook_events: Ends | None = Field(
        None, description="Only these ends are told to webhook_url; left out: all. It narrows no other webhook."
    )


class WebhookChange(Request):
    """What is to change of a webhook."""

    url: Text | None = Field(None, min_length=1, max_length=URL_LIMIT, description="Where ends are told.")
    events: Ends | None = Field(None, description="Only these ends; left out: all.")
    description: Text | None = Field(None, max_length=500)
    paused: bool | None = Field(None, description="Deliveries wait meanwhile.")
    enabled: bool | None = Field(None, description="Off: nothing is told, and what waits is given up.")


class WebhookIn(Request):
    """A webhook to be made."""

    kind: Literal["endpoint", "tasks"] = Field(
        "endpoint", description="tasks: signs for the webhook_url of tasks; has no url, and there is one of it."
    )
    url: Text | None = Field(None, min_length=1, max_length=URL_LIMIT, description="Where ends are told.")
    secret: Text | None = Field(
        None, max_length=200, description="Your own: whsec_ and base64 of 24 to 64 bytes. Left out: one is made."
    )
    events: Ends | None = Field(None, description="Only these ends; left out: all.")
    description: Text = Field("", max_length=500)


class RotateIn(Request):
    """A fresh secret."""

    secret: Text | None = Field(None, max_length=200, description="Your own, as when it was made.")


class TaskBatchIn(Request):
    """Tasks to be run, each judged on its own."""

    tasks: list[TaskIn] = Field(min_length=1, max_length=BATCH_LIMIT)


class TaskIdsIn(Request):
    """Which tasks to read."""

    ids: list[str] = Field(min_length=1, max_length=BATCH_LIMIT, description="Task ids; unknown ones are left out.")


class TaskQuery(Query):
    """What a list of tasks is narrowed to."""

    model: Text | None = Field(None, max_length=NAME_LIMIT, description="Name of a model.")
    status: str | None = Field(None, description="Status words, comma separated.", examples=["submitted,queued"])
    biz_name: Text | None = Field(None, max_length=BIZ_NAME_LIMIT)
    limit: Limit = PAGE_USUAL
    cursor: Cursor = None


class OperationQuery(Query):
    """What the operation log is narrowed to."""

    task_id: UUID | None = Field(None, alias="taskId", description="Entries of one task.")
    biz_name: Text | None = Field(None, alias="bizName", max_length=BIZ_NAME_LIMIT)
    limit: Limit = PAGE_USUAL
    cursor: Cursor = None


class PageQuery(Query):
    """Which page of a list."""

    limit: Limit = PAGE_USUAL
    cursor: Cursor = None


class QuotaLimitIn(Request):
    """What may be spent."""

    points_per_day: Integer = Field(ge=0, le=MOST_POINTS, description="Points a day.")


class KeyIn(Request):
    """A new API key."""

    name: Text = Field("", max_length=KEY_NAME_LIMIT, description="Who uses it; becomes the creator of its tasks.")
    scopes: list[Scope] = Field(min_length=1, max_length=len(SCOPES), description="None that the caller's key has not.")


class TenantIn(Request):
    """How a tenant stands beside the others."""

    weight: Integer = Field(ge=WEIGHTS[0], le=WEIGHTS[-1], description="Starts for each one of a tenant of weight 1.")


class ModelChange(Request):
    """The fields of a model that a caller may set. Absent or null: unchanged, or the default of a new one."""

    name: Text | None = Field(None, min_length=1, max_length=NAME_LIMIT, description=_NAME)
    base_url: Text | None = Field(None, min_length=1, max_length=2_048, description="Joined with route by one slash.")
    route: Text | None = Field(None, max_length=2_048)
    http_method: Text | None = Field(
        None, max_length=8, description="GET or POST; GET makes the payload a query string."
    )
    api_key: Text | None = Field(
        None,
        max_length=API_KEY_LIMIT,
        description="Header bindings `Name:Value`, comma separated. Shown as a mask only.",
    )
    enabled: Flag | None = Field(None, description="false or 0 refuses new tasks.")
    max_concurrency: Int32 | None = Field(None, description="Calls at once; 0 or less: 10.")
    queue_limit: Int32 | None = Field(None, description="Tasks waiting or running; 0 or less: 1000.")
    timeout_seconds: Int32 | None = Field(None, description="One call; 0 or less: 60.")
    expected_seconds: Int32 | None = Field(None, description="Typical duration of a call.")
    retry_times: Int32 | None = Field(None, description="Further attempts after the first failed one.")
    retry_queue_max_seconds: Int32 | None = Field(None, description="0: retries go to the head of the queue.")
    auto_clean_seconds: Int32 | None = Field(None, description="How long a fetched task is kept; 0 or less: 86400.")
    adapter: Text | None = Field(
        None,
        max_length=64,
        description="How the model is called: plain-http, replicate, submit-poll, cog, or one of an installed package.",
    )
    adapter_config: dict[str, Any] | None = Field(
        None, description="Options of the adapter, checked when the model is saved."
    )
    poll_seconds: Int32 | None = Field(None, description="Pause between polls of a provider; 0 or less: 3.")
    job_timeout_seconds: Int32 | None = Field(None, description="Longest provider job; 0 or less: 3600.")
    price: Int32 | None = Field(None, description="Quota points per output.")
    remark: Text | None = Field(None, max_length=10_000)


class ModelIn(ModelChange):
    """A model to be made."""

    name: Text = Field(min_length=1, max_length=NAME_LIMIT, description=_NAME)
    base_url: Text = Field(min_length=1, max_length=2_048, description="Joined with route by one slash.")
