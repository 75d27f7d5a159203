"""Rows of the old Go gateway, and what becomes of each of them here."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any, Final
from uuid import NAMESPACE_URL, UUID, uuid5

from libs.common.domain.errors import Invalid
from libs.common.domain.model import DAY_SECONDS, HTTP_METHODS, MAX_INT, NAME_LIMIT
from libs.common.domain.settle import MESSAGE_LIMIT, RetryPolicy, goes_to_head
from libs.common.domain.task import DispatchState, TaskStatus

#: The old gateway dates a retry that jumps the queue about a hundred years back.
_HEAD_JUMP: Final = timedelta(days=50 * 365)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: Positions of ours are numbers of a sequence, so positive: what was taken over stands before all of them.
_FIRST_POSITION: Final = -(2**62)
_RETRY_TIMES_LIMIT: Final = 1_000
_ATTEMPTS_LIMIT: Final = 30_000  #: attempt numbers are 16 bits wide


class LegacyState(IntEnum):
    """asynch_task.state."""

    WAITING = 0
    RUNNING = 1
    SUCCESS = 2
    FAILED = 3
    FETCHED = 4


@dataclass(frozen=True, slots=True)
class LegacyModel:
    """A row of asynch_models. None: the installation has no such column, or nothing in it."""

    id: int
    tenant_id: int
    name: str
    base_url: str = ""
    route: str = ""
    http_method: str = "POST"
    api_key: str = field(default="", repr=False)
    enabled: bool = True
    max_concurrency: int = 10
    queue_limit: int = 1_000
    timeout_seconds: int | None = None
    timeout_ms: int | None = None
    retry_times: int = 0
    retry_queue_max_seconds: int | None = None
    expected_seconds: int | None = None
    auto_clean_seconds: int = DAY_SECONDS
    remark: str = ""
    creator: str = ""
    updater: str = ""
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LegacyTask:
    """A row of asynch_task. `payload` is what the model gets; `authorization` and `user_info` were found beside it."""

    id: int
    tenant_id: int
    creator: str
    model_name: str
    task_id: str
    state: int
    payload: bytes = field(default=b"", repr=False)
    authorization: str = field(default="", repr=False)
    user_info: str = field(default="", repr=False)
    input_ref: str = ""
    oss_file: str = ""
    file_type: str = ""
    file_size: int | None = None
    error_msg: str = ""
    retry_count: int = 0
    phase: int = 0
    created_at: datetime | None = None
    updated_at: datetime | None = None
    enqueue_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expire_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Home:
    """The model of ours that a task belongs to, and its lane."""

    model_id: int
    lane: int
    retry: RetryPolicy
    auto_clean_seconds: int
    slot_ttl_ms: int


@dataclass(frozen=True, slots=True)
class TakenTask:
    """A task as it is written. Open ones have a `state` of their dispatch row, final ones have none.

    `attempts` counts what the old gateway began; `outcome` is how the last of them ended, where that is known.
    """

    id: int
    public_id: UUID
    tenant_id: int
    home: Home
    creator: str
    input_ref: str
    payload: bytes = field(repr=False)
    status: TaskStatus
    attempts: int
    retries: int
    created_at: datetime
    outcome: str | None = None
    sealed: bytes | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    fetched_at: datetime | None = None
    expire_at: datetime | None = None
    oss_file: str | None = None
    file_type: str | None = None
    file_size: int | None = None
    error_message: str | None = None
    state: DispatchState | None = None
    head: bool = False
    position: int = 0


def model_values(model: LegacyModel) -> tuple[dict[str, Any], list[str]]:
    """What is stored of a model, and what had to be changed for it. Raises Invalid where nothing can be made of it."""
    changes: list[str] = []
    if not model.name.strip() or len(model.name) > NAME_LIMIT:
        raise Invalid("model_name", f"its name must have 1 to {NAME_LIMIT} characters")
    if model.queue_limit <= 0:
        changes.append(f"queue_limit {model.queue_limit} meant no limit and becomes {MAX_INT}")
    method = model.http_method.strip().upper() or "POST"
    if method not in HTTP_METHODS:
        changes.append(f"http_method {model.http_method!r} becomes POST")
        method = "POST"
    timeout = _timeout(model)
    if timeout > DAY_SECONDS:
        changes.append(f"a timeout of {timeout} s becomes {DAY_SECONDS} s, the longest there is")
        timeout = DAY_SECONDS
    retry_times = min(max(model.retry_times, 0), _RETRY_TIMES_LIMIT)
    if retry_times != model.retry_times:
        changes.append(f"retry_times {model.retry_times} becomes {retry_times}")
    values = {
        "name": model.name,
        "base_url": model.base_url,
        "route": model.route,
        "http_method": method,
        "enabled": model.enabled,
        "max_concurrency": model.max_concurrency if model.max_concurrency > 0 else 10,
        "queue_limit": model.queue_limit if model.queue_limit > 0 else MAX_INT,
        "timeout_seconds": timeout,
        "expected_seconds": max(model.expected_seconds or 0, 0),
        "retry_times": retry_times,
        "retry_queue_max_seconds": max(model.retry_queue_max_seconds or 0, 0),
        "auto_clean_seconds": model.auto_clean_seconds if model.auto_clean_seconds > 0 else DAY_SECONDS,
        "remark": model.remark,
    }
    return values, changes


def _timeout(model: LegacyModel) -> int:
    """Whole seconds; older installations count milliseconds. Nothing, zero and less mean the default."""
    if model.timeout_seconds is not None:
        return model.timeout_seconds if model.timeout_seconds > 0 else 60
    milliseconds = model.timeout_ms or 0
    return -(-milliseconds // 1_000) if milliseconds > 0 else 60


def public_id(tenant_id: int, text: str) -> tuple[UUID, str]:
    """The id that callers of ours name the task by, and what became of the old one: '', 'respelled' or 'derived'.

    A UUID in another spelling (without dashes, in braces) is that UUID. Any other text gets an id derived from it, the
    same at every run.
    """
    try:
        found = UUID(text.strip())
    except ValueError:
        return uuid5(NAMESPACE_URL, f"asynch_task:{tenant_id}:{text}"), "derived"
    return found, "" if str(found) == text.strip().lower() else "respelled"


def taken_task(task: LegacyTask, home: Home, now: datetime, retry_within: timedelta) -> TakenTask:
    """What is written of a task. A running one waits again; a failed one with attempts left waits for its retry, unless
    it failed longer ago than `retry_within`: then the old gateway had given it up. Raises Invalid for an unknown state.
    """
    created = task.created_at or task.updated_at or now
    common: dict[str, Any] = {
        "id": task.id,
        "public_id": public_id(task.tenant_id, task.task_id)[0],
        "tenant_id": task.tenant_id,
        "home": home,
        "creator": task.creator,
        "input_ref": task.input_ref,
        "payload": task.payload,
        "created_at": created,
    }
    done = min(max(task.retry_count, 0), _ATTEMPTS_LIMIT)
    match task.state:
        case LegacyState.WAITING | LegacyState.RUNNING:
            return TakenTask(**common, **_waiting(task, created, done))
        case LegacyState.SUCCESS | LegacyState.FETCHED:
            return TakenTask(**common, **_success(task, home, created, done, now))
        case LegacyState.FAILED:
            return TakenTask(**common, **_failed(task, home, created, done, now, retry_within))
        case _:
            raise Invalid("unknown_state", f"state {task.state} is not one of 0 to 4")


def position(enqueued: datetime) -> int:
    """A place in the queue by the time of enqueueing, before everything that is created here."""
    return _FIRST_POSITION + (enqueued - _EPOCH) // timedelta(microseconds=1)


def _waiting(task: LegacyTask, created: datetime, done: int) -> dict[str, Any]:
    enqueued = task.enqueue_at or created
    running = task.state == LegacyState.RUNNING or task.phase == 1
    outcome = "staging_lost" if task.phase == 1 else "lost"
    return {
        "status": TaskStatus.SUBMITTED,
        "state": DispatchState.READY,
        "attempts": done + (1 if running else 0),
        "outcome": outcome if running else None,
        "retries": done,
        "started_at": task.started_at if running else None,
        "head": created - enqueued > _HEAD_JUMP,
        "position": position(enqueued),
    }


def _success(task: LegacyTask, home: Home, created: datetime, done: int, now: datetime) -> dict[str, Any]:
    finished = task.finished_at or task.updated_at or created
    values = {
        "status": TaskStatus.SUCCESS,
        "attempts": done + 1,
        "outcome": "success",
        "retries": done,
        "started_at": task.started_at,
        "finished_at": finished,
        "oss_file": task.oss_file,
        "file_type": task.file_type or None,
        "file_size": task.file_size,
    }
    if task.state == LegacyState.FETCHED:
        fetched = min(task.updated_at or finished, now)
        clean = timedelta(seconds=home.auto_clean_seconds)
        values |= {"fetched_at": fetched, "expire_at": task.expire_at or fetched + clean}
    return values


def _failed(
    task: LegacyTask, home: Home, created: datetime, done: int, now: datetime, retry_within: timedelta
) -> dict[str, Any]:
    finished = task.finished_at or task.updated_at or created
    values: dict[str, Any] = {
        "attempts": done + 1,
        "outcome": "failed",
        "started_at": task.started_at,
        "error_message": task.error_msg[:MESSAGE_LIMIT] or "failed at the old gateway",
    }
    if done < home.retry.retry_times and now - finished <= retry_within:
        head = goes_to_head(home.retry, (now - created).total_seconds())
        return values | {
            "status": TaskStatus.SUBMITTED,
            "state": DispatchState.RETRY,
            "retries": done + 1,
            "head": head,
            "position": position(task.enqueue_at or created),
        }
    return values | {"status": TaskStatus.FAILED, "retries": done, "finished_at": finished}
