"""Request bodies: read whole, within a size and a time."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Generator, Mapping
from typing import Any, Final

from starlette.types import Message, Receive

from services.api.problems import Problem

#: A client that drips its body, or sends none, is let go after this.
BODY_SECONDS: Final = 30.0
#: A refused body up to this size is still received and dropped: hanging up at once would cost the client the answer.
_DROPPED_BYTES: Final = 64 * 2**20


class ClientGone(Exception):
    """The connection ended in the middle of the body: there is nobody to answer."""


def announced(named: Mapping[bytes, bytes]) -> int:
    """How many bytes a body is said to have; 0 where nothing is said."""
    return int(named.get(b"content-length", 0))


async def read_body(named: Mapping[bytes, bytes], receive: Receive, limit: int) -> bytes:
    """The body, at most `limit` bytes; raises Problem (408, 413) or ClientGone."""
    size = announced(named)
    if size > limit:
        raise _too_large(limit, hang_up=size > _DROPPED_BYTES)
    if named.get(b"content-length") == b"0":
        return b""
    begun = receive().__await__()
    try:
        awaited = next(begun)
    except StopIteration as arrived:
        # What has arrived already needs no timer, which would cost a create 8 us.
        message: Message = arrived.value
        body = _part(message)
        if message.get("more_body"):
            body = await _in_time(receive, limit, first=body)
    else:
        body = await _in_time(receive, limit, coming=_resumed(begun, awaited))
    if len(body) > limit:
        raise _too_large(limit, hang_up=False)
    return body


def require_json(named: Mapping[bytes, bytes]) -> None:
    """Raises Problem (415) for a body that does not call itself plain JSON."""
    require_plain(named)
    kind = named.get(b"content-type")
    if kind is None or kind == b"application/json":
        return
    essence = kind.partition(b";")[0].strip().lower()
    if essence != b"application/json" and not (essence.startswith(b"application/") and essence.endswith(b"+json")):
        raise Problem("unsupported_media_type", "Send the body as application/json.")


def require_plain(named: Mapping[bytes, bytes]) -> None:
    """Raises Problem (415) for a compressed body."""
    coding = named.get(b"content-encoding")
    if coding is not None and coding.lower() != b"identity":
        raise Problem("unsupported_media_type", "Send the body as it is, without Content-Encoding.")


async def until_gone(receive: Receive) -> None:
    """Return when the client has hung up; nothing else is expected of it any more."""
    while (await receive())["type"] != "http.disconnect":
        pass


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that hands out a body which was read already, then what follows."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return pending.pop() if pending else await receive()

    return receive_again


@types.coroutine
def _resumed(begun: Generator[Any, Any, Message], awaited: Any) -> Generator[Any, Any, Message]:
    """Goes on with a `receive` that was begun by hand: the loop has yet to hear what it waits for."""
    yield awaited
    return (yield from begun)


def _part(message: Message) -> bytes:
    if message["type"] == "http.disconnect":
        raise ClientGone
    body: bytes = message.get("body", b"")
    return body


async def _in_time(
    receive: Receive, limit: int, *, first: bytes = b"", coming: Awaitable[Message] | None = None
) -> bytes:
    parts, size, more = [first], len(first), True
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while more:
                message = await (coming or receive())
                coming = None
                parts.append(_part(message))
                size += len(parts[-1])
                if size > limit:
                    raise _too_large(limit, hang_up=True)
                more = message.get("more_body", False)
    except TimeoutError:
        detail = f"The body did not arrive within {BODY_SECONDS:.0f} s."
        raise Problem("slow_body", detail, headers=_HANG_UP) from None
    return b"".join(parts)


def _too_large(limit: int, *, hang_up: bool) -> Problem:
    detail = f"The body may have at most {limit} bytes."
    return Problem("body_too_large", detail, headers=_HANG_UP if hang_up else None)


_HANG_UP: Final = {"Connection": "close"}
