"""How answers leave: JSON bytes straight to ASGI, problems the same way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import Response
from starlette.types import Send

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


async def send_json(send: Send, status: int, document: Any, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Answer a bare ASGI request with a document."""
    await _send(send, status, b"application/json", encoded(document), headers)


async def send_problem(send: Send, problem: Problem, trace_id: str) -> None:
    """Answer a bare ASGI request with a problem."""
    headers = [(name.lower().encode(), value.encode()) for name, value in (problem.headers or {}).items()]
    await _send(send, problem.status_code, CONTENT_TYPE.encode(), problem.encoded(trace_id), headers)


async def _send(
    send: Send, status: int, content_type: bytes, body: bytes, headers: Iterable[tuple[bytes, bytes]]
) -> None:
    length = str(len(body)).encode()
    head = [(b"content-type", content_type), (b"content-length", length), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
