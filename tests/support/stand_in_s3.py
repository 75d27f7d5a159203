"""The few calls of S3 that uploads need, with faults: enough to see what goes over the wire, no object store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from aiohttp import web

from tests.support.serving import serving


@dataclass
class StandInS3:
    """Objects by key, the requests seen, whose keys signed them, and how many bytes of objects were read.

    `status` is what every request is answered with while it is set; what an `expired` key signs is refused. Reading
    takes `pace` seconds for each MiB. While `goes_on` is not set, the second part of an object gets no answer.
    """

    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    signers: list[str] = field(default_factory=list)
    expired: set[str] = field(default_factory=set)
    sent: int = 0
    status: int = 0
    pace: float = 0
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.goes_on.set()

    async def answer(self, request: web.Request) -> web.Response:
        key, body = request.match_info["key"], await request.read()
        self.requests.append(f"{request.method} {request.path_qs}")
        self.signers.append(request.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0])
        if self.signers[-1] in self.expired:
            return web.Response(status=400, text="<Error><Code>ExpiredToken</Code></Error>")
        if self.status:
            return web.Response(status=self.status, text="<Error><Code>Told</Code></Error>")
        if request.method == "POST" and "uploads" in request.query:
            self.parts[key] = {}
            self.headers[key] = dict(request.headers)
            return web.Response(text=f"<R><Bucket>b</Bucket><Key>{key}</Key><UploadId>u1</UploadId></R>")
        if request.method == "PUT" and "partNumber" in request.query:
            if request.query["partNumber"] == "2":
                await self.goes_on.wait()
            self.parts[key][int(request.query["partNumber"])] = body
            return web.Response(headers={"ETag": '"part"'})
        if request.method == "POST":
            self.objects[key] = b"".join(part for _, part in sorted(self.parts.pop(key).items()))
            return web.Response(text='<R><Location>l</Location><ETag>"whole"</ETag></R>')
        if request.method == "PUT":
            self.objects[key], self.headers[key] = body, dict(request.headers)
            return web.Response(headers={"ETag": '"whole"'})
        if request.method in ("GET", "HEAD") and key in self.objects:
            answer = _read(self.objects[key], request)
            if request.method == "GET":
                size = len(answer.body)  # type: ignore[arg-type]  # bytes, as _read made it
                self.sent += size
                await asyncio.sleep(self.pace * size / 2**20)
            return answer
        if request.method == "DELETE":
            self.parts.pop(key, None)
            return web.Response(status=204)
        return web.Response(status=404)


def _read(content: bytes, request: web.Request) -> web.Response:
    asked = request.http_range
    part = content[asked]
    headers = {"ETag": '"whole"', "Last-Modified": "Mon, 23 Nov 2026 09:00:00 GMT"}
    if asked.start is None:
        return web.Response(body=part, headers=headers)
    place = f"bytes {asked.start}-{asked.start + len(part) - 1}/{len(content)}"
    return web.Response(status=206, body=part, headers={**headers, "Content-Range": place})


@asynccontextmanager
async def lending_keys(seconds: float) -> AsyncIterator[str]:
    """Where a container gets keys `lent-1`, `lent-2`, ... that last so long."""
    lent = 0

    async def lend(_: web.Request) -> web.Response:
        nonlocal lent
        lent += 1
        until = datetime.now(UTC) + timedelta(seconds=seconds)
        key = {"AccessKeyId": f"lent-{lent}", "SecretAccessKey": "s", "Token": "t"}
        return web.json_response({**key, "Expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ")})

    app = web.Application()
    app.router.add_get("/keys", lend)
    async with serving(app) as url:
        yield f"{url}/keys"


@asynccontextmanager
async def stand_in_s3() -> AsyncIterator[StandInS3]:
    """The stand-in on a free port; buckets are the first part of the path."""
    store = StandInS3()
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_route("*", "/{bucket}/{key:.*}", store.answer)
    async with serving(app) as store.url:
        yield store
