"""How adapters for jobs reach their providers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import ClientError, ClientResponse, ClientSession
from multidict import CIMultiDict

from libs.common.adapters.egress import EgressGuard
from libs.common.adapters.http_client import Broken, about_to_send, open_http_client
from libs.common.adapters.models.exchange import (
    REDIRECTS,
    REDIRECTS_LIMIT,
    body_of,
    redirect_target,
    too_many_redirects,
    wire_body,
    wire_url,
    with_bindings,
)
from libs.common.adapters.models.refusals import connection_error
from libs.common.domain.endpoint import Endpoint, InvalidEndpoint, request_endpoint
from libs.common.domain.header_bindings import InvalidBindings, check_bindings
from libs.common.domain.model_errors import ModelError
from libs.common.ports_jobs import LITTLE_ANSWER, JobAnswer, JobCall
from libs.common.runtime.off_the_clock import off_the_clock

#: The most that is taken of one answer. Outputs may be inside as data URLs; larger ones have to come as links.
ANSWER_BYTES: Final = 64 * 2**20

_HEADERS: Final = CIMultiDict({"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "sluiceway"})


class _Contact:
    """Whether any connection was there for a request: before that, certainly no byte of it was sent."""

    def __init__(self, call: JobCall) -> None:
        self.call = call
        self.made = False

    def make(self) -> None:
        self.call.sends()
        self.made = True


class GuardedJobHttp:
    """Requests to providers through the egress guard: one deadline, one size limit, the origin of base_url only."""

    def __init__(self, session: ClientSession, *, answer_bytes: int = ANSWER_BYTES) -> None:
        self._session = session
        self._limit = answer_bytes

    async def send(
        self,
        call: JobCall,
        method: str,
        path: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> JobAnswer:
        """See JobHttp. Raises ModelError: model_timeout, model_unreachable, egress_refused, redirect_refused,
        answer_too_large, bad_answer, bad_address, bad_bindings, and what `call.sends` raises."""
        endpoint = address(call, path)
        sent_headers = request_headers(call, headers, has_body=body is not None)
        contact = _Contact(call)
        before = about_to_send.set(contact.make)
        try:
            async with asyncio.timeout(call.timeout_seconds) as limit:
                response = await self._follow(endpoint, method, sent_headers, body, contact)
                try:
                    taken = await self._body(response, endpoint, lambda size: off_the_clock(limit, call.room(size)))
                finally:
                    response.close()
                return JobAnswer(response.status, response.headers, taken)
        except TimeoutError:
            message = f"{endpoint.origin}: no complete answer within {call.timeout_seconds:g} s"
            raise ModelError("model_timeout", message, retryable=True, sent=contact.made) from None
        finally:
            about_to_send.reset(before)

    async def _follow(
        self, endpoint: Endpoint, method: str, headers: CIMultiDict[str], body: bytes | None, contact: _Contact
    ) -> ClientResponse:
        for _ in range(REDIRECTS_LIMIT + 1):
            response = await self._request(endpoint, method, headers, body, contact)
            if response.status not in REDIRECTS:
                return response
            try:
                endpoint = redirect_target(endpoint, response, contact.call.headers)
            finally:
                response.close()
        raise too_many_redirects(endpoint, contact.call.headers)

    async def _request(
        self, endpoint: Endpoint, method: str, headers: CIMultiDict[str], body: bytes | None, contact: _Contact
    ) -> ClientResponse:
        try:
            return await self._session.request(
                method, wire_url(endpoint), data=wire_body(body), headers=headers, allow_redirects=False
            )
        except (Broken, ClientError) as error:
            raise connection_error(endpoint.origin, error, sent=contact.made) from None

    async def _body(
        self, response: ClientResponse, endpoint: Endpoint, room: Callable[[int], Awaitable[None]]
    ) -> bytes:
        """All of it, once there is room for what its head says, or for the most that is taken if that says nothing."""
        said = response.content_length if "Content-Encoding" not in response.headers else None
        wanted = self._limit if said is None else said
        taken, size, asked = [], 0, False
        try:
            async for piece in body_of(response, self._limit):
                taken.append(piece)
                size += len(piece)
                if not asked and (size > LITTLE_ANSWER or (said or 0) > LITTLE_ANSWER):
                    asked = True
                    await room(wanted)
        except (ClientError, OSError) as error:
            raise connection_error(endpoint.origin, error) from None
        if asked:
            await room(size)
        return b"".join(taken)


@asynccontextmanager
async def open_job_http(guard: EgressGuard) -> AsyncIterator[GuardedJobHttp]:
    """On a session of its own."""
    async with open_http_client(guard) as session:
        yield GuardedJobHttp(session)


def address(call: JobCall, path: str) -> Endpoint:
    """Where a request goes: an address of base_url's origin, or a path below base_url. Raises ModelError."""
    try:
        return request_endpoint(call.base_url, path)
    except InvalidEndpoint as error:
        raise ModelError("bad_address", error.message, retryable=False, sent=False) from None


def request_headers(call: JobCall, extra: Sequence[tuple[str, str]], *, has_body: bool) -> CIMultiDict[str]:
    """All headers of a request; the model's own ones win. Raises ModelError for what no request may carry."""
    try:
        check_bindings(extra)
        check_bindings(call.headers)
    except InvalidBindings as error:
        raise ModelError("bad_bindings", error.message, retryable=False, sent=False) from None
    headers = with_bindings(_HEADERS, (("Content-Type", "application/json"),)) if has_body else _HEADERS
    return with_bindings(with_bindings(headers, extra), call.headers)
