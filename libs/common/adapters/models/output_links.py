"""Outputs of jobs, fetched from the links that providers give."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout
from multidict import CIMultiDict

from libs.common.adapters.egress import EgressGuard
from libs.common.adapters.http_client import CONNECT_SECONDS, Broken, open_http_client
from libs.common.adapters.models.exchange import REDIRECTS, REDIRECTS_LIMIT, pass_on, wire_url, with_bindings
from libs.common.adapters.models.provider_outputs import BadOutput, file_of
from libs.common.adapters.models.refusals import RETRYABLE_STATUSES, connection_error, retry_after
from libs.common.domain.endpoint import Endpoint, InvalidEndpoint, follow, parse_endpoint
from libs.common.domain.header_bindings import InvalidBindings, check_bindings
from libs.common.domain.model_errors import ModelError
from libs.common.domain.output import StagedFile
from libs.common.ports_execution import OutputLink, StagingWriter

_HEADERS: Final = CIMultiDict({"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "sluiceway"})
#: A server that says nothing for so long is asked again, within the time that its caller gives to everything.
_SILENCE_SECONDS: Final = 30.0
#: What servers of files answer when a signed link is too old, or its file was deleted.
_GONE: Final = frozenset({403, 404, 410})
#: How errors of calls are named when they are a link's.
_CODES: Final = {
    "model_unreachable": "output_unreachable",
    "answer_too_large": "output_too_large",
    "bad_answer": "bad_output",
    "bad_address": "bad_output",
    "bad_bindings": "bad_bindings",
}


class GuardedOutputLinks:
    """Implements ports_execution.OutputLinks behind the egress guard.

    Redirects are followed wherever the guard allows, each judged anew, from https to https only. The model's headers go
    to the model's own origin alone. Errors show the origin of a link: path and query may be signed. Their codes:
    output_link_expired, output_http_<status>, output_unreachable, output_too_large, output_redirect_refused,
    bad_output, empty_output, egress_refused, bad_bindings.
    """

    def __init__(self, session: ClientSession, output_bytes: int) -> None:
        self._session = session
        self._output_bytes = output_bytes

    async def fetch(self, link: OutputLink, sink: StagingWriter) -> StagedFile:
        """See OutputLinks. The caller bounds the time."""
        try:
            if link.url[:5].lower() == "data:":
                return await _inline(link, sink)
            return await self._follow(_address(link.url), link, sink)
        except ModelError as error:
            raise _renamed(error) from None

    async def _follow(self, endpoint: Endpoint, link: OutputLink, sink: StagingWriter) -> StagedFile:
        for _ in range(REDIRECTS_LIMIT + 1):
            response = await self._request(endpoint, link)
            try:
                if response.status not in REDIRECTS:
                    return await self._receive(response, endpoint, link, sink)
                endpoint = _target(endpoint, response)
            finally:
                response.close()
        raise _redirect_refused(endpoint, f"redirects more than {REDIRECTS_LIMIT} times")

    async def _request(self, endpoint: Endpoint, link: OutputLink) -> ClientResponse:
        try:
            return await self._session.get(
                wire_url(endpoint),
                headers=_headers_for(endpoint, link),
                allow_redirects=False,
                timeout=ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=_SILENCE_SECONDS),
            )
        except (Broken, ClientError) as error:
            raise connection_error(endpoint.origin, error) from None

    async def _receive(
        self, response: ClientResponse, endpoint: Endpoint, link: OutputLink, sink: StagingWriter
    ) -> StagedFile:
        if not 200 <= response.status < 300 or response.status == 206:
            raise _refused(endpoint, response)
        if not await pass_on(response, endpoint.origin, sink, self._output_bytes):
            raise ModelError("empty_output", f"{endpoint.origin}: the output is empty", retryable=False)
        return await sink.commit(link.content_type or response.headers.get("Content-Type", ""))


@asynccontextmanager
async def open_output_links(guard: EgressGuard, output_bytes: int) -> AsyncIterator[GuardedOutputLinks]:
    """On a session of its own; of one output it takes so much at most."""
    async with open_http_client(guard) as session:
        yield GuardedOutputLinks(session, output_bytes)


async def _inline(link: OutputLink, sink: StagingWriter) -> StagedFile:
    try:
        output = file_of(link.url)
    except BadOutput as error:
        raise ModelError("bad_output", str(error), retryable=False) from None
    if not output.content:
        raise ModelError("empty_output", "the output is empty", retryable=False)
    await sink.write(output.content)
    return await sink.commit(link.content_type or output.content_type)


def _address(url: str) -> Endpoint:
    try:
        return parse_endpoint(url.partition("#")[0])
    except InvalidEndpoint as error:
        raise ModelError("bad_output", f"an output's link cannot be called: {error.message}", retryable=False) from None


def _headers_for(endpoint: Endpoint, link: OutputLink) -> CIMultiDict[str]:
    if not link.headers or endpoint.origin != _origin(link.base_url):
        return _HEADERS
    try:
        check_bindings(link.headers)
    except InvalidBindings as error:
        raise ModelError("bad_bindings", error.message, retryable=False) from None
    return with_bindings(_HEADERS, link.headers)


def _origin(base_url: str) -> str:
    try:
        return parse_endpoint(base_url.strip()).origin
    except InvalidEndpoint:
        return ""


def _target(endpoint: Endpoint, response: ClientResponse) -> Endpoint:
    try:
        target = follow(endpoint, response.headers.get("Location", ""))
    except InvalidEndpoint:
        raise _redirect_refused(endpoint, f"redirects ({response.status}) to no readable address") from None
    if endpoint.scheme == "https" and target.scheme != "https":
        raise _redirect_refused(endpoint, f"redirects ({response.status}) from https to {target.origin}, not followed")
    return target


def _redirect_refused(endpoint: Endpoint, what: str) -> ModelError:
    return ModelError("output_redirect_refused", f"{endpoint.origin} {what}", retryable=False)


def _refused(endpoint: Endpoint, response: ClientResponse) -> ModelError:
    status = response.status
    if status in _GONE:
        message = f"{endpoint.origin} answered {status}: the link has expired or its file is gone"
        return ModelError("output_link_expired", message, retryable=False)
    retryable = status in RETRYABLE_STATUSES or 500 <= status < 600
    return ModelError(
        f"output_http_{status}",
        f"{endpoint.origin} answered {status}",
        retryable=retryable,
        retry_after=retry_after(response.headers, datetime.now(UTC)) if retryable else None,
    )


def _renamed(error: ModelError) -> ModelError:
    """The same error as one of an output; what is no error of the call stays as it is."""
    code = _CODES.get(error.code)
    if code is None:
        return error
    message = error.message.replace("the model's answer", "the output").replace("the model's address", "its link")
    return ModelError(code, message, retryable=error.retryable, retry_after=error.retry_after)
