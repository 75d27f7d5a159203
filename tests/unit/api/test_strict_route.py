"""Bodies of the routes that the framework answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from httpx import ASGITransport, AsyncClient
from pydantic import BaseModel, ConfigDict
from starlette.types import Receive, Scope, Send

from libs.common.ports_tasks import KeyOwner
from services.api.routes.context import StrictRoute


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Any = None
    part: Part | None = None


class Noting:
    """Reads at once, and notes for whom and how much."""

    def __init__(self) -> None:
        self.given: list[tuple[int, int]] = []

    async def run(self, tenant_id: int, size: int, work: Callable[[], Any]) -> Any:
        self.given.append((tenant_id, size))
        return work()


_STRANGERS = b"{%b}" % b",".join(b'"%d":0' % name for name in range(1_001))

router = APIRouter(route_class=StrictRoute)


@router.post("/things")
async def make(thing: Thing) -> Any:
    return thing.name


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"name":"x"}', 200),
        (b'{"name":"x","name":"y"}', 400),
        (b'{"other":1}', 422),
        (_STRANGERS, 400),
        (b'{"part":%b}' % _STRANGERS, 400),
    ],
    ids=["good", "twice", "unknown", "a thousand unknown", "a thousand unknown in a part"],
)
async def test_a_body_is_read_where_it_holds_up_nobody(body: bytes, status: int) -> None:
    """A megabyte of lists held up the loop for half a second. Of names that nobody knows the framework would make a
    kilobyte each."""
    app, parsing = FastAPI(strict_content_type=False), Noting()
    app.state.parsing = parsing
    app.include_router(router)

    async def entered(scope: Scope, receive: Receive, send: Send) -> None:
        scope["caller"] = KeyOwner(1, 7, "somebody", frozenset())
        await app(scope, receive, send)

    async with AsyncClient(transport=ASGITransport(entered), base_url="http://api") as client:
        answer = await client.post("/things", content=body)
    assert (answer.status_code, parsing.given) == (status, [(7, len(body))])
