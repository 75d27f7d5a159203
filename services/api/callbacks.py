"""POST /v1/callbacks/{token}: what providers call back with, about jobs that they were given a token for.

The token is the credential. A caller with one learns nothing else: whether the job is open, over or gone, the answer is
the same; without one there is nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.types import Receive, Scope, Send

from libs.common.contracts import hints as wire
from libs.common.operations.callback_tokens import CallbackTokens
from libs.common.ports import Hints
from libs.common.ports_provider_jobs import CallbackBox
from libs.common.runtime.failpoints import failpoint
from services.api.answers import send_nothing
from services.api.bodies import read_body, require_plain
from services.api.headers import named_headers
from services.api.problems import Problem

_FACE: Final = "/v1/callbacks/"
#: How such an address is called in logs and metrics.
SHOWN: Final = "/v1/callbacks/{token}"
#: What a provider's signature may need is kept of the headers; credentials of whoever stands in between are not.
_DROPPED: Final = (b"authorization", b"cookie", b"proxy-authorization")
_HEADERS: Final = 64
_HEADER_BYTES: Final = 2_048


class Callbacks:
    """Keeps a callback where it is the truth, and tells the executor of the job to look."""

    def __init__(self, tokens: CallbackTokens, box: CallbackBox, hints: Hints, *, limit: int) -> None:
        self._tokens = tokens
        self._box = box
        self._hints = hints
        self._limit = limit

    def owns(self, path: str) -> bool:
        """Whether requests to this path come here."""
        return path.startswith(_FACE)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """204 for every token of ours. Raises Problem, ClientGone and DatabaseUnavailable."""
        if scope["method"] != "POST":
            raise Problem("method_not_allowed", "Callbacks are sent by POST.", headers={"Allow": "POST"})
        token = scope["path"].removeprefix(_FACE)
        key = self._tokens.read(token)
        if key is None:
            raise Problem("not_found", "There is nothing here.")
        named = named_headers(scope)
        require_plain(named)
        body = await read_body(named, receive, self._limit)
        await failpoint("api/before-callback")
        task = await self._box.keep(key, _kept(named, token.encode()), body)
        await failpoint("api/after-callback")
        if task is not None:
            self._hints.publish_soon(wire.JOBS, str(task))
        await send_nothing(send)


def _kept(named: Mapping[bytes, bytes], token: bytes) -> dict[str, str]:
    kept: dict[str, str] = {}
    for name, value in named.items():
        if token in value:  # proxies repeat the address
            continue
        if name not in _DROPPED and len(value) <= _HEADER_BYTES and len(kept) < _HEADERS:
            kept[name.decode("latin-1")] = value.decode("latin-1").replace("\x00", "")
    return kept
