"""Creates that are costly to read."""

from __future__ import annotations

import asyncio
import tracemalloc
from dataclasses import replace
from typing import Any, cast
from urllib.parse import quote

import pytest
from starlette.types import Message, Scope

from libs.common.domain.errors import DatabaseUnavailable
from libs.common.ports_tasks import KeyOwner
from services.api.legacy.face import CREATE, LegacyFace
from services.api.legacy.tasks import LegacyTasks
from services.api.operation_log import OperationLog
from services.api.orders import Misformed, Orders
from services.api.parsing import Parsing
from services.api.problems import Problem
from services.api.reading import Reading
from services.api.routes.create_task import CreateTask
from services.api.submission import Order
from tests.support.turns import slowest_turn

CALLER = KeyOwner(1, 1, "somebody", frozenset({"submit"}))
SCOPE: Scope = {
    "type": "http", "method": "POST", "path": "/v1/tasks/batch", "named": {}, "headers": [], "client": None,
    "began": 0.0,
}  # fmt: skip


class Noted:
    def note(self, *_: Any, **__: Any) -> None: ...


@pytest.mark.parametrize("one", [True, False], ids=["task", "batch"])
async def test_others_do_not_wait_while_a_large_create_is_read(one: bool) -> None:
    """Whoever may submit had stopped an API process for seconds, time and again, by megabytes of little values."""
    none: Any = None
    create = CreateTask(none, Orders(2**20), cast("OperationLog", Noted()), Parsing(), none)
    task = b'{"model": "m", "payload": [%s]}' % b",".join([b'{"a":1}'] * 1_000_000)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    if one:
        creating: asyncio.Future[Any] = asyncio.ensure_future(create.single(SCOPE, task, CALLER, "0" * 55))
    else:
        creating = asyncio.ensure_future(create.batch(SCOPE, b'{"tasks": [%s]}' % task, CALLER, "0" * 55, send))
    assert await slowest_turn(creating) < 0.4
    if one:
        with pytest.raises(Problem, match="at most"):
            await creating
    else:
        await creating
        assert sent[0]["status"] == 207


@pytest.mark.parametrize(
    ("around", "verdict"),
    [
        (b'{"tasks":[{"model":"m","payload":%b},{"model":"m","biz_name":"\\ud83d\\ude00"}]}', "payload_too_large"),
        (b'{"tasks":[{"model":"m","other":%b},{"model":"m"}]}', "invalid"),
        (b'{"tasks":[%b,{"model":"m"}]}', "invalid"),
        (b'{"tasks":%b}', None),
        (b'{"other":%b}', None),
        (b"%b", None),
    ],
    ids=["payload", "member", "task", "tasks", "no tasks", "no object"],
)
def test_what_is_too_long_for_its_place_in_a_batch_is_not_read(around: bytes, verdict: str | None) -> None:
    """Five million lists took 400 MB, and kept every thread of the process waiting for seconds: they are made in one
    go. Of the list of tasks itself no more is read than a batch may have."""
    orders, body = Orders(2**17), around % (b"[" + b"[]," * 500_000 + b"[]]")
    tracemalloc.start()
    try:
        if verdict is None:
            with pytest.raises(Problem, match="not valid"):
                orders.batch(body, "t", b"key")
        else:
            (_, first), (_, second) = orders.batch(body, "t", b"key")
            assert isinstance(first, Misformed)
            assert first.code == verdict
            assert isinstance(second, Order)
        assert tracemalloc.get_traced_memory()[1] < 8 * len(body)
    finally:
        tracemalloc.stop()


def test_names_that_are_not_known_take_little_memory() -> None:
    """Each took a kilobyte, to be complained of; 20 are."""
    body = b'{"model":"m","priority":"x",%b}' % b",".join(b'"%d":0' % number for number in range(50_000))
    tracemalloc.start()
    try:
        with pytest.raises(Problem) as refused:
            Orders(2**20).single(body, "t", None)
        assert tracemalloc.get_traced_memory()[1] < 30 * len(body)
    finally:
        tracemalloc.stop()
    named = [error["pointer"] for error in refused.value.errors]
    assert (len(named), named[0], named[-1]) == (20, "/priority", "/18")


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded"])
async def test_nor_while_a_large_create_of_the_old_routes_is_read(kind: str) -> None:
    payload = b"[%s]" % b",".join([b'{"a":1}'] * 300_000)
    body = b'{"modelName": "m", "requestPayload": %s}' % payload
    if kind != "application/json":
        body = b"modelName=m&requestPayload=" + quote(payload).encode()
    parsing = Parsing()
    none: Any = None
    tasks = LegacyTasks(none, none, none, none, parsing, payload_limit=2**20)
    routes = {("POST", CREATE): ("submit", tasks.create)}
    face = LegacyFace(routes, cast("OperationLog", Noted()), parsing, refuse_with_200=False)
    scope: Scope = {**SCOPE, "path": CREATE, "query_string": b"", "named": {b"content-type": kind.encode()}}
    creating = asyncio.ensure_future(face.answer(scope, body, CALLER, "0" * 55, none))
    assert await slowest_turn(creating) < 0.4
    with pytest.raises(Problem, match="at most"):
        await creating


async def test_what_was_accepted_stays_so_where_its_end_cannot_be_waited_for() -> None:
    none: Any = None

    class Away:
        async def outcome(self, *_: Any) -> Any:
            raise DatabaseUnavailable("away")

    create = CreateTask(none, none, none, none, cast("Reading", Away()))
    scope: Scope = {**SCOPE, "headers": [(b"prefer", b"wait=5")]}
    accepted = {"id": "01939d5c-6f3e-7b1a-9c55-2f6f0b6f7a10"}
    caller = replace(CALLER, scopes=frozenset({"submit", "read"}))
    assert await create.wait(scope, none, caller, accepted) == (accepted, [])
