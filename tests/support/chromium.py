"""A real browser for tests: Debian's Chromium under Playwright, watched for errors and for requests that leave."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
DESKTOP: Final = {"width": 1360, "height": 860}
PHONE: Final = {"width": 390, "height": 844}


def executable() -> str | None:
    """Where the browser of this machine is."""
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """The browser; a page of it is opened by `watched`."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=executable(), args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Watched:
    """A page, and what it did that no page of ours may do."""

    page: Page
    host: str
    complaints: list[str] = field(default_factory=list)

    def hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"console {message.type}: {message.text}")

    def fail(self, error: Any) -> None:
        self.complaints.append(f"error in the page: {error}")

    def send(self, request: Request) -> None:
        if urlsplit(request.url).netloc != self.host and not request.url.startswith(("data:", "blob:")):
            self.complaints.append(f"a request left: {request.url}")


@asynccontextmanager
async def watched(browser: Browser, url: str, **context: Any) -> AsyncIterator[Watched]:
    """A fresh page with cookies of its own."""
    options = {"viewport": DESKTOP, "base_url": url, "reduced_motion": "reduce", **context}
    opened = await browser.new_context(**options)
    opened.set_default_timeout(15_000)
    try:
        page = await opened.new_page()
        seen = Watched(page, urlsplit(url).netloc)
        page.on("console", seen.hear)
        page.on("pageerror", seen.fail)
        page.on("request", seen.send)
        yield seen
    finally:
        await opened.close()


async def sign_in(page: Page, key: str) -> None:
    """Through the form."""
    await page.goto("/console/sign-in")
    await page.get_by_label("API key").fill(key)
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url("**/console")
