"""Futures whose end nobody may be there to hear."""

from __future__ import annotations

import asyncio
from typing import Any


def seen(future: asyncio.Future[Any]) -> None:
    """To be called when it is done: whoever waited has its error and may be gone, and one at which nobody has looked is
    logged by asyncio as lost."""
    if not future.cancelled():
        future.exception()
