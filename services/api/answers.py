"""How answers leave: JSON bytes straight to ASGI, problems the same way."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Any

from fastapi import Response
from starlette.types import Message, Send

from services.api.problems import CONTENT_TYPE, Problem
from services.api.views import encoded


class JsonAnswer(Response):
    """A document, encoded once and not checked again."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return encoded(content)


class ProblemAnswer(Response):
    """A problem, for handlers of the framework."""

    media_type = CONTENT_TYPE

    def __init__(self, problem: Problem, trace_id: str) -> None:
        super().__init__(problem.encoded(trace_id), problem.status_code, problem.headers)


class Begun:
    """A `send` that remembers whether anything was sent."""

    __slots__ = ("_send", "yes")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.yes = False

    def __call__(self, message: Message) -> Awaitable[None]:
        self.yes = True
        return self._send(message)


async def send_json(send: Send, status: int, document: Any, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Answer a bare ASGI request with a document."""
    await _send(send, status, b"application/json", encoded(document), headers)


async def send_problem(send: Send, problem: Problem, trace_id: str) -> None:
    """Answer a bare ASGI request with a problem."""
    body = problem.encoded(trace_id)
    await _send(send, problem.status_code, CONTENT_TYPE.encode(), body, problem.raw_headers)


async def send_nothing(send: Send) -> None:
    """Answer a bare ASGI request with 204."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def _send(
    send: Send, status: int, content_type: bytes, body: bytes, headers: Iterable[tuple[bytes, bytes]]
) -> None:
    length = str(len(body)).encode()
    head = [(b"content-type", content_type), (b"content-length", length), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
