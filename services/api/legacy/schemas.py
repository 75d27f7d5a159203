"""What callers of the old routes send and get, as pydantic models: they describe the document and check nothing."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from services.api.schemas import BATCH_LIMIT, BIZ_NAME_LIMIT, INPUT_REF_LIMIT, NAME_LIMIT
from services.api.schemas_out import StatusWord

Data = TypeVar("Data")
#: Numbers are taken as text too.
Number = Annotated[int, WithJsonSchema({"type": ["integer", "string"], "pattern": r"^[+-]?[0-9]{1,9}$"})]
Id = Annotated[str, WithJsonSchema({"type": ["integer", "string"], "pattern": "^[0-9]{1,18}$"})]
Time = Annotated[str | None, Field(description="YYYY-MM-DD HH:MM:SS in SLUICEWAY_TIMEZONE; null when unset.")]


class _Old(BaseModel):
    """Names in camelCase; case, `_`, `-` and spaces do not matter in requests."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Enveloped(BaseModel, Generic[Data]):
    """An answer."""

    code: Literal[0]
    message: Literal["OK"]
    data: Data


class RefusalOut(BaseModel):
    """A refusal: the first three digits of its code are the HTTP status."""

    code: int
    message: str
    data: None


class OldModelChange(_Old):
    """Fields of a model. Absent or null: unchanged, or the default of a new one."""

    model_name: str | None = Field(None, max_length=NAME_LIMIT)
    base_url: str | None = Field(None, description="Empty: unchanged.")
    route: str | None = Field(None, description="Empty: unchanged.")
    http_method: str | None = Field(None, description="GET or POST.")
    api_key: str | None = Field(None, description="Header bindings; the mask changes nothing, empty clears it.")
    enabled: Annotated[int | None, WithJsonSchema({"enum": [0, 1, "0", "1", True, False, None]})] = Field(
        None, description="0 refuses new tasks."
    )
    max_concurrency: Number | None = Field(None, description="0 or less: 10.")
    queue_limit: Number | None = Field(None, description="0 or less: 1000.")
    timeout_seconds: Number | None = Field(None, description="0 or less: 60.")
    expected_seconds: Number | None = None
    retry_times: Number | None = None
    retry_queue_max_seconds: Number | None = None
    auto_clean_seconds: Number | None = Field(None, description="0 or less: 86400.")
    adapter: str | None = None
    adapter_config: dict[str, Any] | None = None
    poll_seconds: Number | None = None
    job_timeout_seconds: Number | None = None
    price: Number | None = None
    remark: str | None = None


class OldModelIn(OldModelChange):
    """A model to be made."""

    model_name: str = Field(min_length=1, max_length=NAME_LIMIT)
    base_url: str = Field(min_length=1)


class OldModelUpdate(OldModelChange):
    """A change of one model."""

    id: Id


class PageIn(_Old):
    """Which page; 0 or less is the first one, and 10 rows."""

    page_num: Number | None = None
    page_size: Number | None = Field(None, description="At most 1,000.")


class OldModelSearch(_Old):
    """What a list of models is narrowed to."""

    page: PageIn | None = None
    model_name: str | None = Field(None, max_length=NAME_LIMIT, description="Part of the name.")


class OldTaskIn(_Old):
    """A task to be run."""

    model_name: str = Field(min_length=1, max_length=NAME_LIMIT)
    biz_name: str | None = Field(None, max_length=BIZ_NAME_LIMIT)
    input_ref: str | None = Field(None, max_length=INPUT_REF_LIMIT, description="The payload of a task without one.")
    request_payload: Annotated[Any, WithJsonSchema({"description": "Any JSON, handed to the model byte for byte."})] = (
        None
    )


class OldTaskIds(_Old):
    """Which tasks to read."""

    task_ids: list[str] = Field(max_length=BATCH_LIMIT)


class OldTaskSearch(_Old):
    """What a list of tasks is narrowed to."""

    page: PageIn | None = None
    model_name: str | None = Field(None, max_length=NAME_LIMIT, description="Part of the name.")
    task_id: str | None = Field(None, max_length=64, description="Part of the id.")
    state: Annotated[int | None, WithJsonSchema({"enum": [0, 1, 2, 3, 4, 5, None]})] = None


class OldStatSearch(_Old):
    """What statistics are narrowed to."""

    page: PageIn | None = None
    start_day: str | None = Field(None, description="YYYY-MM-DD")
    end_day: str | None = Field(None, description="YYYY-MM-DD")
    tenant_id: Id | None = None
    creator: str | None = Field(None, max_length=256, description="Part of the name.")
    model_name: str | None = Field(None, max_length=NAME_LIMIT, description="Part of the name.")


class Nothing(BaseModel):
    """No data."""


class ModelIdOut(BaseModel):
    """The model that was made."""

    id: str


class OldModelOut(_Old):
    """A model."""

    id: str
    tenant_id: str
    model_name: str
    base_url: str
    route: str
    http_method: Literal["GET", "POST"]
    api_key: Literal["", "********"]
    enabled: Literal[0, 1]
    max_concurrency: int
    queue_limit: int
    timeout_seconds: int
    expected_seconds: int
    retry_times: int
    retry_queue_max_seconds: int
    auto_clean_seconds: int
    adapter: str
    adapter_config: dict[str, Any]
    poll_seconds: int
    job_timeout_seconds: int
    price: int
    remark: str
    creator: str
    created_at: Time
    updater: str
    updated_at: Time
    deleted_at: Time


class OldModelPage(BaseModel):
    """Models, newest first."""

    list: list[OldModelOut]
    total: int


class TaskIdOut(_Old):
    """The task that was accepted."""

    task_id: str


class OldTaskOut(_Old):
    """A task."""

    id: str
    tenant_id: str
    task_id: str
    model_name: str
    biz_name: str
    state: int = Field(ge=0, le=5, description="0 waiting, 1 running, 2 success, 3 failed, 4 fetched, 5 canceled")
    status: StatusWord
    progress: float
    oss_file: str
    file_type: str
    file_size: int
    error_msg: str
    started_at: Time
    finished_at: Time
    expire_at: Time
    retry_count: int
    enqueue_at: Time
    phase: Literal[0, 1] = Field(description="1 while an upload is pending")
    tmp_file: Literal[""]
    input_ref: str
    request_payload: Any
    creator: str
    created_at: Time
    updater: str
    updated_at: Time
    deleted_at: Time


class OldTaskPage(BaseModel):
    """Tasks, newest first."""

    list: list[OldTaskOut]
    total: int


class TaskStateOut(_Old):
    """How far a task is."""

    task_id: str
    state: int
    oss_file: str


class TaskStates(BaseModel):
    """Those of the tasks that there are."""

    list: list[TaskStateOut]


class StatOut(_Old):
    """Calls of a model on a day."""

    day: str
    tenant_id: str
    creator: str
    model_name: str
    request_count: int
    created_at: Time
    updated_at: Time


class StatPage(BaseModel):
    """By day, then by count, both descending."""

    list: list[StatOut]
    total: int
