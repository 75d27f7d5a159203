"""From the bytes of a create to orders: the form is checked here, once, for single and batch creates."""

from __future__ import annotations

from hashlib import sha256
from itertools import islice
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from libs.common.domain.webhook import ALL_ENDS, mask_of
from libs.common.ports_tasks import IdempotencyKey
from services.api import strict_json
from services.api.operation_log import REQUEST_BYTES
from services.api.problems import Problem, bare, invalid, pointed
from services.api.schemas import BATCH_LIMIT, BIZ_NAME_LIMIT, NAME_LIMIT, TaskIn
from services.api.strict_json import BadJson, Payload, Reader, TooMany
from services.api.submission import Order

CREATE_ROUTE: Final = "POST /v1/tasks"
BATCH_ROUTE: Final = "POST /v1/tasks/batch"
_KEY_LIMIT: Final = 255

_TASK: Final = strict_json.members({"payload": strict_json.payload})
#: More than anything else in a task has, escapes counted.
_OTHER_LIMIT: Final = 65_536
_check: Final = TypeAdapter(TaskIn).validate_python
_FIELDS: Final = TaskIn.model_fields.keys()
_STRANGERS: Final = 20


class Misformed(Problem):
    """What is wrong with the form of a task, and the names in it by which the operation log finds it."""

    def __init__(self, problem: Problem, members: Any) -> None:
        bare(problem)  # every exception keeps what it was made of
        super().__init__(problem.code, problem.detail, errors=problem.errors)
        self.model = _said(members, "model", NAME_LIMIT)
        self.biz_name = _said(members, "biz_name", BIZ_NAME_LIMIT)


class Orders:
    """Reads orders; `payload_limit` is in bytes."""

    def __init__(self, payload_limit: int) -> None:
        self._payload_limit = payload_limit
        self._batch = _batch(payload_limit)

    def single(self, body: bytes, trace: str, key: bytes | None) -> Order:
        """The order of POST /v1/tasks; raises Problem (400, 413)."""
        members = _read(body, _TASK)
        try:
            return self._order(members, trace, None if key is None else key_of(CREATE_ROUTE, key, body))
        except Problem as problem:
            raise Misformed(problem, members) from None

    def batch(self, body: bytes, trace: str, key: bytes | None) -> list[tuple[bytes, Order | Misformed]]:
        """Of each place of POST /v1/tasks/batch how it was written (cut as the operation log cuts it), and its order or
        what is wrong with it; raises Problem when there is no list.

        With an Idempotency-Key each place in the list has a key of its own: repeating a batch that was accepted in
        part creates only what is missing.
        """
        try:
            members = _read(body, self._batch)
        except TooMany:
            members = None
        items = members.get("tasks") if isinstance(members, dict) else None
        if not isinstance(items, list) or not 1 <= len(items) <= BATCH_LIMIT or len(members) > 1:
            raise invalid([{"pointer": "/tasks", "detail": f"send an object with 1 to {BATCH_LIMIT} tasks alone"}])
        if key is not None:
            _checked(key)
        return [(item.start, self._item(item.value, trace, key, place)) for place, item in enumerate(items)]

    def _item(self, item: Any, trace: str, key: bytes | None, place: int) -> Order | Misformed:
        try:
            own = None if key is None else _key(BATCH_ROUTE, b"%s\n%d" % (key, place), _canonical(item))
            return self._order(item, trace, own)
        except Problem as problem:
            return Misformed(problem, item)

    def _order(self, members: Any, trace: str, key: IdempotencyKey | None) -> Order:
        try:
            task = _check(_fewer(members))
        except ValidationError as error:
            raise invalid(pointed(error.errors(include_url=False, include_input=False))) from None
        raw = task.payload.raw if isinstance(task.payload, Payload) else b""
        if len(raw) > self._payload_limit:
            raise Problem("payload_too_large", f"A payload may have at most {self._payload_limit} bytes.")
        return Order(
            model=task.model,
            payload=raw,
            biz_name=task.biz_name,
            input_ref=task.input_ref,
            priority=task.priority,
            not_before=task.not_before,
            start_by=task.start_by,
            deadline=task.deadline,
            output_count=task.output_count,
            webhook_url=task.webhook_url,
            webhook_events=mask_of(task.webhook_events) if task.webhook_events else ALL_ENDS,
            trace=trace,
            key=key,
        )


def _batch(payload_limit: int) -> Reader:
    """Reads a batch. What is too long for its place is not read: a batch may be much larger than any payload."""
    other = strict_json.within(_OTHER_LIMIT)
    task = strict_json.members({"payload": strict_json.payload_within(payload_limit)}, other)
    # One byte more than the operation log keeps: it sees that there was more.
    tasks = strict_json.elements(strict_json.quoted(task, REQUEST_BYTES + 1), BATCH_LIMIT, other)
    return strict_json.members({"tasks": tasks}, other)


def _fewer(members: Any) -> Any:
    """The same with only a few of the names that are not known: each is complained of, in a kilobyte of memory."""
    if not isinstance(members, dict) or len(members) <= len(_FIELDS) + _STRANGERS:
        return members
    strangers = islice((name for name in members if name not in _FIELDS), _STRANGERS)
    return {name: members[name] for name in (*(_FIELDS & members.keys()), *strangers)}


def _said(members: Any, name: str, limit: int) -> str:
    """A text of a task, cut; what is none is empty."""
    said = members.get(name) if isinstance(members, dict) else None
    return said[:limit] if isinstance(said, str) else ""


def _read(body: bytes, reader: Reader) -> Any:
    try:
        return strict_json.read(body, reader)
    except BadJson as error:
        raise Problem("bad_json", f"The body is not strict JSON: {error}.") from None


def key_of(route: str, key: bytes, said: bytes) -> IdempotencyKey:
    """The key of a request that says this, as its caller named it; raises Problem (400)."""
    return _key(route, _checked(key), said)


def _key(route: str, key: bytes, said: bytes) -> IdempotencyKey:
    return IdempotencyKey(route, sha256(key).digest(), sha256(said).digest())


def _checked(key: bytes) -> bytes:
    if not 1 <= len(key) <= _KEY_LIMIT or not all(32 < byte < 127 for byte in key):
        raise Problem("bad_idempotency_key", f"An Idempotency-Key has 1 to {_KEY_LIMIT} visible ASCII characters.")
    return key


def _canonical(item: Any) -> bytes:
    """What makes two items of a batch the same: all their members, the payload to the byte."""
    if not isinstance(item, dict):
        return b""
    return repr([(name, item[name]) for name in sorted(item)]).encode("utf-8", "backslashreplace")
