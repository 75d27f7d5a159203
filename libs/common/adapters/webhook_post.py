"""Posting to the addresses of tenants: one request, no redirects, a little of the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import ClientError, ClientResponse, ClientSession

from libs.common.adapters.egress import EgressGuard
from libs.common.adapters.http_client import Broken, open_http_client
from libs.common.adapters.models.refusals import own_lack
from libs.common.domain.model_errors import EgressRefused
from libs.common.ports_webhooks import Answer

TOTAL_SECONDS: Final = 15.0
#: Of an answer, for the log of deliveries.
KEPT_BYTES: Final = 1_024


class WebhookPost:
    """Implements ports_webhooks.Poster. Raises NoSocket where nobody could be called from here."""

    def __init__(self, client: ClientSession, seconds: float) -> None:
        self._client = client
        self._seconds = seconds

    async def post(self, url: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        began = time.monotonic()
        code, kept, error = None, b"", None
        try:
            async with asyncio.timeout(self._seconds):
                sent = [*headers, ("accept-encoding", "identity")]
                async with self._client.post(url, data=body, headers=sent, allow_redirects=False) as answer:
                    code, error = answer.status, _complaint(answer)
                    kept = await _beginning(answer)
        except TimeoutError:
            code, error = None, f"no whole answer within {self._seconds:g} s"
        except EgressRefused as refused:
            error = str(refused)
        except (Broken, ClientError, OSError) as broken:
            # The text of such errors may repeat addresses and headers: their kind says enough.
            cause = broken.error if isinstance(broken, Broken) else broken
            if (ours := own_lack(cause)) is not None:
                raise ours from None
            code, error = None, f"the connection failed: {type(cause).__name__}"
        text = kept.decode("utf-8", "replace").replace("\x00", "\ufffd")
        return Answer(code, error, text, round((time.monotonic() - began) * 1_000))


@asynccontextmanager
async def open_webhook_post(guard: EgressGuard, *, seconds: float = TOTAL_SECONDS) -> AsyncIterator[WebhookPost]:
    """A client that reaches what the guard permits, and nothing else."""
    async with open_http_client(guard) as client:
        yield WebhookPost(client, seconds)


def _complaint(answer: ClientResponse) -> str | None:
    if 200 <= answer.status < 300:
        return None
    return f"status {answer.status}" + (", and redirects are not followed" if 300 <= answer.status < 400 else "")


async def _beginning(answer: ClientResponse) -> bytes:
    kept = b""
    while len(kept) < KEPT_BYTES:
        piece = await answer.content.read(KEPT_BYTES - len(kept))
        if not piece:
            break
        kept += piece
    return kept
