"""The plain model call: one request out, its answer into staging."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from aiohttp import ClientError, ClientResponse, ClientSession
from multidict import CIMultiDict

from libs.common.adapters.egress import EgressGuard
from libs.common.adapters.foreign_text import Cleaner
from libs.common.adapters.http_client import Broken, about_to_send, open_http_client
from libs.common.adapters.models.exchange import (
    REDIRECTS,
    REDIRECTS_LIMIT,
    pass_on,
    redirect_target,
    too_many_redirects,
    wire_body,
    wire_url,
    with_bindings,
)
from libs.common.adapters.models.refusals import connection_error, status_error
from libs.common.domain.endpoint import Endpoint, InvalidEndpoint, InvalidQuery, join_endpoint, with_query
from libs.common.domain.header_bindings import InvalidBindings, check_bindings
from libs.common.domain.model_errors import ModelError
from libs.common.domain.output import StagedFile
from libs.common.ports_execution import ModelCall, StagingWriter
from libs.common.runtime.turns import Turns

_REASON_SECONDS: Final = 2.0  #: how long the text of a refusal is waited for

#: A megabyte of names becomes a query in a third of a second.
_QUICK_QUERY_BYTES: Final = 32 * 1024

_HEADERS: Final = CIMultiDict({"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "sluiceway"})
_POST_HEADERS: Final = CIMultiDict({**_HEADERS, "Content-Type": "application/json"})


class PlainHttp:
    """Calls a model once: never a second time on its own, whatever happens to the connection.

    One deadline covers everything from the look-up of the name to the last byte. A non-empty answer of class 2xx is
    the output. Everything else is a ModelError with a code: model_timeout, model_unreachable, model_http_<status>,
    egress_refused, redirect_refused, answer_too_large, bad_answer, empty_output, bad_address, bad_payload,
    bad_bindings. None of them shows a header's value or a query.
    """

    def __init__(self, session: ClientSession, answer_bytes: int) -> None:
        self._session = session
        self._answer_bytes = answer_bytes
        self._turns = Turns()

    async def invoke(self, call: ModelCall, sink: StagingWriter) -> StagedFile:
        """Call the model and stage its answer. Raises ModelError and StagingFull."""
        loop = asyncio.get_running_loop()
        end = loop.time() + call.timeout_seconds
        if call.deadline is not None:
            end = min(end, call.deadline)
        before = about_to_send.set(call.sends)
        try:
            async with asyncio.timeout_at(end):
                content_type = await self._call(call, end, sink)
        except TimeoutError:
            raise ModelError(
                "model_timeout", f"no complete answer within {call.timeout_seconds:g} s", retryable=True
            ) from None
        finally:
            about_to_send.reset(before)
        return await sink.commit(content_type)

    async def _call(self, call: ModelCall, end: float, sink: StagingWriter) -> str:
        """The request and those that same-origin redirects lead to; gives the answer's Content-Type."""
        endpoint, headers, body = await self._ready(call)
        for _ in range(REDIRECTS_LIMIT + 1):
            response = await self._request(call.method, endpoint, headers, body)
            try:
                if 200 <= response.status < 300:
                    await self._receive(response, endpoint, sink)
                    return response.headers.get("Content-Type", "")
                if response.status not in REDIRECTS:
                    raise await _refused(response, call, end)
                endpoint = redirect_target(endpoint, response, call.headers)
            finally:
                response.close()  # a connection that has given its whole answer is back in the pool by now
        raise too_many_redirects(endpoint, call.headers)

    async def _ready(self, call: ModelCall) -> tuple[Endpoint, CIMultiDict[str], bytes | None]:
        """The request, made beside the loop where it is a long query; models take turns."""
        if call.method != "GET" or len(call.payload) <= _QUICK_QUERY_BYTES:
            return _prepared(call)
        return await self._turns.take(hash(call.base_url), lambda: _prepared(call))

    async def _request(
        self, method: str, endpoint: Endpoint, headers: CIMultiDict[str], body: bytes | None
    ) -> ClientResponse:
        try:
            return await self._session.request(
                method, wire_url(endpoint), data=wire_body(body), headers=headers, allow_redirects=False
            )
        except (Broken, ClientError) as error:
            raise connection_error(endpoint.origin, error) from None

    async def _receive(self, response: ClientResponse, endpoint: Endpoint, sink: StagingWriter) -> None:
        if not await pass_on(response, endpoint.origin, sink, self._answer_bytes):
            raise ModelError("empty_output", f"the model answered {response.status} without content", retryable=False)


@asynccontextmanager
async def open_plain_http(guard: EgressGuard, answer_bytes: int) -> AsyncIterator[PlainHttp]:
    """The adapter on a session of its own; of one answer it takes so much at most."""
    async with open_http_client(guard) as session:
        yield PlainHttp(session, answer_bytes)


def _prepared(call: ModelCall) -> tuple[Endpoint, CIMultiDict[str], bytes | None]:
    """Everything that can be wrong with a call before anybody hears of it."""
    try:
        check_bindings(call.headers)
        endpoint = _joined(call.base_url, call.route)
        if call.method != "GET":
            return endpoint, with_bindings(_POST_HEADERS, call.headers), call.payload
        url = with_query(endpoint.url, call.payload)
        return Endpoint(url, endpoint.scheme, endpoint.host, endpoint.port), with_bindings(_HEADERS, call.headers), None
    except InvalidBindings as error:
        raise ModelError("bad_bindings", error.message, retryable=False) from None
    except InvalidEndpoint as error:
        raise ModelError("bad_address", error.message, retryable=False) from None
    except InvalidQuery as error:
        raise ModelError("bad_payload", str(error), retryable=False) from None


@lru_cache(maxsize=4_096)
def _joined(base_url: str, route: str) -> Endpoint:
    return join_endpoint(base_url, route)


async def _refused(response: ClientResponse, call: ModelCall, end: float) -> ModelError:
    """The status decides; what the body says is added if it comes soon."""
    cleaner = Cleaner.of(value for _, value in call.headers)
    body = b""
    try:
        # a little before the call's own end, which would turn the refusal into a timeout
        async with asyncio.timeout_at(min(end - 0.05, asyncio.get_running_loop().time() + _REASON_SECONDS)):
            while len(body) < cleaner.wanted_bytes and (chunk := await response.content.readany()):
                body += chunk
    except (ClientError, OSError):  # TimeoutError is one
        pass
    if response.headers.get("Content-Encoding", "identity") != "identity":
        body = b"(compressed)"
    return status_error(response.status, response.headers, cleaner.clean(body), now=datetime.now(UTC))
