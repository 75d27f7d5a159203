"""A browser without scripts: cookies, forms and links of the console, as its pages give them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import unescape
from html.parser import HTMLParser
from typing import Any

import httpx

_CSRF = re.compile(r'name="csrf" value="([0-9a-f]{64})"')


@dataclass
class Browser:
    """Somebody in front of the console."""

    client: httpx.AsyncClient
    csrf: str = ""

    async def get(self, path: str, expect: int = 200, **arguments: Any) -> str:
        """A page, redirects followed."""
        return self._seen(await self.client.get(path, **arguments), expect)

    async def post(self, path: str, expect: int = 200, **fields: str) -> str:
        """Send a form with the token of the page seen last, and see where it leads."""
        return self._seen(await self.client.post(path, data={"csrf": self.csrf, **fields}), expect)

    async def sign_in(self, key: str) -> str:
        """The first page."""
        await self.get("/console/sign-in")
        return await self.post("/console/sign-in", key=key)

    def _seen(self, answer: httpx.Response, expect: int) -> str:
        assert answer.status_code == expect, (answer.status_code, answer.url, text_of(answer.text)[:800])
        found = _CSRF.search(answer.text)
        if found:
            self.csrf = found.group(1)
        return answer.text


@asynccontextmanager
async def browser(url: str) -> AsyncIterator[Browser]:
    """A browser with no cookies yet."""
    async with httpx.AsyncClient(
        base_url=url, timeout=20, trust_env=False, verify=False, follow_redirects=True
    ) as client:
        yield Browser(client)


def text_of(page: str) -> str:
    """What a reader sees of a page, blanks made one."""
    reader = _Reader()
    reader.feed(page)
    return " ".join(" ".join(reader.parts).split())


def links_of(page: str) -> list[str]:
    """Where a page leads to, and what it loads."""
    return [unescape(found) for found in re.findall(r'(?:href|src|action|hx-[a-z:]+)="([^"]*)"', page)]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)
