"""The audit of all stores, from the console: what is wrong, what it means, and what repairs it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from starlette.responses import Response, StreamingResponse

from libs.common.domain.errors import Conflict, OutcomeUnknown, Unavailable
from libs.common.operations.audit import Report
from libs.common.operations.audit_findings import MEANINGS
from libs.common.runtime.logging import get_logger
from services.api.console.rendering import HEADERS, page, part, split_page
from services.api.console.tools import Tools
from services.api.console.visit import Visit
from services.api.tracing import trace_id_of

log = get_logger()

#: While it looks, the connection is kept by a sign that no reader sees.
_KEEP_SECONDS: Final = 5.0
_SIGN: Final = b"<!-- -->\n"


async def show(tools: Tools, visit: Visit) -> Response:
    """What the audit does, and the button that starts it."""
    return page(visit, "audit.html", running=False, meaning=MEANINGS)


async def run(tools: Tools, visit: Visit) -> Response:
    """Look at all stores, and repair what is safe to repair if that is asked for. The page comes in two parts: its head
    at once, the report when it is there."""
    if tools.auditing.locked():
        raise Conflict("audit_running", "an audit runs here already: wait for its end")
    fix = bool(visit.form.get("fix"))
    head, foot = split_page(visit, "audit.html", running=True, meaning=MEANINGS)
    return StreamingResponse(_told(tools, visit, head, foot, fix=fix), headers=HEADERS, media_type="text/html")


async def _told(tools: Tools, visit: Visit, head: str, foot: str, *, fix: bool) -> AsyncIterator[bytes]:
    yield head.encode()
    async with tools.auditing:
        looking = asyncio.create_task(tools.audit(fix), name="console-audit")
        try:
            while not looking.done():
                await asyncio.wait([looking], timeout=_KEEP_SECONDS)
                yield _SIGN
            yield _report(visit, looking).encode()
        finally:
            looking.cancel()
    yield foot.encode()


def _report(visit: Visit, looked: asyncio.Task[Report]) -> str:
    """The report, or why there is none: the page has begun, so this is the only place left to say it."""
    try:
        report, problem = looked.result(), ""
    except (Unavailable, OutcomeUnknown) as error:
        report, problem = None, str(error) or type(error).__name__
    except (Exception, asyncio.CancelledError) as error:  # canceled: by what it works with, its reader is still there
        trace_id = trace_id_of(visit.request.scope["trace"])
        log.error("audit.failed", trace_id=trace_id, exc_info=error)
        report, problem = None, f"this is our fault; quote trace {trace_id} when you report it"
    return part(visit, "_audit.html", report=report, meaning=MEANINGS, problem=problem)
