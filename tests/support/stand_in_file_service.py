"""The HTTP file service, with faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.serving import serving


@dataclass(frozen=True, slots=True)
class Upload:
    """One request as the service saw it."""

    authorization: str
    user_info: str
    part: str
    file_name: str
    content_type: str
    content: bytes


@dataclass
class StandInFileService:
    """`files` is what it keeps by name, `uploads` all that was sent to it; the other fields are its faults."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    uploads: list[Upload] = field(default_factory=list)
    accepted: tuple[str, ...] = ()  #: values of Authorization; empty accepts all
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    answer: Any = None  #: in place of the right one
    loses_answers: bool = False
    hangs: bool = False
    refuses_early: bool = False
    accepts_early: bool = False
    compresses: bool = False  #: whatever it was asked for
    released: asyncio.Event = field(default_factory=asyncio.Event)
    under_way: int = 0  #: uploads that it has not answered yet, whether or not their senders still live

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.under_way += 1
        try:
            answer = await self._serve(request)
            answer.headers.update(self.headers)
            if self.compresses:
                answer.enable_compression(web.ContentCoding.gzip)
            return answer
        finally:
            self.under_way -= 1

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if self.refuses_early:
            return web.json_response({"message": "too large"}, status=413)
        if self.accepts_early:
            return web.json_response(self.answer or {"fileURL": f"{self.url}/f/early"})
        upload = await _upload(request)
        self.uploads.append(upload)
        if self.accepted and upload.authorization not in self.accepted:
            return web.json_response({"message": f"{upload.authorization} is expired"}, status=401)
        if self.hangs:
            await self.released.wait()
        if self.status != 200:
            return web.Response(status=self.status, text="out of order")
        if self.answer is not None:
            return web.json_response(self.answer)
        self.files[upload.file_name] = upload.content
        if self.loses_answers:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(
            {"code": 0, "message": "OK", "data": {"fileURL": f"{self.url}/f/{upload.file_name}", "fileFormat": "png"}}
        )


async def _upload(request: web.Request) -> Upload:
    assert request.content_length is not None, "some file services take no chunked requests"
    reader = await request.multipart()
    part = await reader.next()
    assert part is not None
    content = await part.read(decode=False)  # type: ignore[union-attr]
    assert await reader.next() is None
    return Upload(
        request.headers.get("Authorization", ""),
        request.headers.get("X-User-Info", ""),
        part.name or "",  # type: ignore[union-attr]
        part.filename or "",  # type: ignore[union-attr]
        part.headers["Content-Type"],
        bytes(content),
    )


@asynccontextmanager
async def stand_in_file_service(path: str = "/oss/file/uploadFile") -> AsyncIterator[StandInFileService]:
    """The service on a free port."""
    service = StandInFileService()
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_post(path, service.serve)
    async with serving(app, handler_cancellation=True) as service.url:
        try:
            yield service
        finally:
            service.released.set()
