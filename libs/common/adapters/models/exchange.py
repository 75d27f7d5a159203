"""What every call of a model service does the same way: address, headers and bodies on the wire, redirects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from io import BytesIO
from typing import Final
from urllib.parse import unquote_to_bytes

from aiohttp import ClientError, ClientResponse
from multidict import CIMultiDict
from yarl import URL

from libs.common.adapters.foreign_text import Cleaner
from libs.common.adapters.models.decoding import PIECE_BYTES, decoder_for
from libs.common.adapters.models.refusals import connection_error
from libs.common.domain.endpoint import Endpoint, InvalidEndpoint, follow
from libs.common.domain.model_errors import ModelError
from libs.common.ports_execution import StagingWriter

REDIRECTS_LIMIT: Final = 5
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

#: aiohttp wants larger bodies as files, written piece by piece.
_LARGE_BODY: Final = 512 * 1024
#: Others get their turn after so much was unpacked, in some milliseconds.
_BREATH_BYTES: Final = 2**20
_FOLLOWED: Final = frozenset({307, 308})  #: these keep method and body


def wire_url(endpoint: Endpoint) -> URL:
    """As it is, without a second opinion on its escapes; yarl must see the same host in it as we did."""
    url = URL(endpoint.url, encoded=True)
    if (url.scheme, url.raw_host, url.port) != (endpoint.scheme, endpoint.host, endpoint.port):
        raise ModelError("bad_address", "the model's address can be read in two ways", retryable=False, sent=False)
    return url


def wire_body(body: bytes | None) -> BytesIO | bytes | None:
    """A body as aiohttp wants it."""
    return BytesIO(body) if body is not None and len(body) > _LARGE_BODY else body


def with_bindings(base: CIMultiDict[str], bindings: Sequence[tuple[str, str]]) -> CIMultiDict[str]:
    """The headers with the model's own ones, which win."""
    if not bindings:
        return base
    headers = base.copy()
    for name, value in bindings:
        headers[name] = value
    return headers


def redirect_target(endpoint: Endpoint, response: ClientResponse, bindings: tuple[tuple[str, str], ...]) -> Endpoint:
    """Where a redirect leads, if it may be followed; a refusal names its target, but neither the target's query nor
    what it repeats of the bindings."""
    status, location = response.status, response.headers.get("Location", "")
    try:
        target = follow(endpoint, location) if location else None
    except InvalidEndpoint:
        target = None
    if target is None:
        raise ModelError("redirect_refused", f"the model redirects ({status}) to no readable address", retryable=False)
    if status in _FOLLOWED and target.origin == endpoint.origin:
        return target
    why = "another origin" if target.origin != endpoint.origin else "with a change of method"
    named = _named(target, bindings)
    raise ModelError(
        "redirect_refused", f"the model redirects ({status}, {why}) to {named}, not followed", retryable=False
    )


def too_many_redirects(target: Endpoint, bindings: tuple[tuple[str, str], ...]) -> ModelError:
    """The refusal of a chain without an end; `target` is where it would go on."""
    times = f"more than {REDIRECTS_LIMIT} times, the last one to {_named(target, bindings)}"
    return ModelError("redirect_refused", f"the model redirects {times}, not followed", retryable=False)


def _named(target: Endpoint, bindings: tuple[tuple[str, str], ...]) -> str:
    return Cleaner.of(value for _, value in bindings).clean(unquote_to_bytes(target.shown))


async def pass_on(response: ClientResponse, who: str, sink: StagingWriter, most: int) -> bool:
    """Write the body to a sink as it comes, a buffer of it in memory at most; whether there was any. Raises ModelError,
    and what the sink raises."""
    written = False
    try:
        async for piece in body_of(response, most):
            await sink.write(piece)
            written = True
    except (ClientError, OSError) as error:
        raise connection_error(who, error) from None
    return written


async def body_of(response: ClientResponse, most: int) -> AsyncIterator[bytes]:
    """The body as it was meant, piece by piece. Raises ModelError where it has more than `most` bytes, over the wire or
    unpacked, and the client's own errors."""
    if (response.content_length or 0) > most:
        raise _too_large(most)
    decoder = decoder_for(response.headers.getall("Content-Encoding", ()))
    wire = decoded = breathed = 0
    while chunk := await response.content.readany():
        wire += len(chunk)
        if wire > most:
            raise _too_large(most)
        if decoder is None:
            yield chunk
            continue
        for start in range(0, len(chunk), PIECE_BYTES):
            for piece in decoder.decode(chunk[start : start + PIECE_BYTES]):
                decoded += len(piece)
                if decoded > most:
                    raise _too_large(most)
                yield piece
                if decoded - breathed > _BREATH_BYTES:  # a piece off the wire may hold a thousand times its size
                    breathed = decoded
                    await asyncio.sleep(0)
            await asyncio.sleep(0)  # or thousands of packings with nothing in them
    if decoder is not None:
        decoder.finish()


def _too_large(most: int) -> ModelError:
    return ModelError("answer_too_large", f"the model's answer is larger than {most} bytes", retryable=False)
