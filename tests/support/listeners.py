"""Listeners of streams, as callers write them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx
from websockets.asyncio.client import connect

from tests.support.api import until


@dataclass
class Heard:
    """What a stream of server-sent events has said so far."""

    status: int
    headers: httpx.Headers
    news: list[dict[str, Any]] = field(default_factory=list)
    places: list[str] = field(default_factory=list)  #: ids, in the order in which they came
    caught_up: list[dict[str, Any]] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)  #: how old each of the news was, in seconds
    beats: int = 0
    ended: bool = False
    body: bytes = b""

    def statuses(self, task: str) -> list[str]:
        return [one["status"] for one in self.news if one["id"] == task]

    async def says(self, task: str, status: str, seconds: float = 5) -> None:
        """Return when it has said so of this task."""
        await until(lambda: status in self.statuses(task), seconds)

    def take(self, lines: list[str]) -> None:
        """One event, or one comment."""
        named = dict(line.split(": ", 1) for line in lines if not line.startswith(":"))
        self.beats += sum(line.startswith(":") for line in lines)
        if "id" in named:
            self.places.append(named["id"])
        if named.get("event") == "caught_up":
            self.caught_up.append(json.loads(named["data"]))
        elif "data" in named:
            self.hear(json.loads(named["data"]))

    def hear(self, told: dict[str, Any]) -> None:
        """One status change. Its age is by this machine's clock, which the database shares."""
        self.news.append(told)
        self.ages.append(time.time() - datetime.fromisoformat(told["at"]).timestamp())


@asynccontextmanager
async def hearing(
    url: str, key: str, path: str, *, headers: dict[str, str] | None = None, **arguments: Any
) -> AsyncIterator[Heard]:
    """A stream that is being read; it has begun when this is entered."""
    async with (
        httpx.AsyncClient(base_url=url, timeout=30, trust_env=False, verify=False) as client,
        client.stream(
            "GET", path, headers={"Authorization": f"Bearer {key}", **(headers or {})}, **arguments
        ) as answer,
    ):
        heard = Heard(answer.status_code, answer.headers)
        if answer.status_code != 200:
            heard.body = await answer.aread()
            yield heard
            return
        reading = asyncio.create_task(_read(answer, heard))
        try:
            yield heard
        finally:
            reading.cancel()
            await asyncio.wait([reading])


@asynccontextmanager
async def hearing_by_websocket(url: str, key: str, path: str) -> AsyncIterator[Heard]:
    """The same by a WebSocket."""
    headers = {"Authorization": f"Bearer {key}"}
    async with connect(f"ws{url.removeprefix('http')}{path}", additional_headers=headers, proxy=None) as socket:
        heard = Heard(101, httpx.Headers())

        async def read() -> None:
            async for message in socket:
                told = json.loads(message)
                if told.get("event") != "caught_up":
                    heard.hear(told)

        reading = asyncio.create_task(read())
        try:
            yield heard
        finally:
            reading.cancel()
            await asyncio.wait([reading])


async def _read(answer: httpx.Response, heard: Heard) -> None:
    lines: list[str] = []
    async for line in answer.aiter_lines():
        if line:
            lines.append(line)
        else:
            heard.take(lines)
            lines = []
    heard.ended = True
