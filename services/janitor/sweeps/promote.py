"""Promote: drafts, refused rows and parked uploads are ready when their time has come."""

from __future__ import annotations

from typing import Final

from libs.common.operations.wake import Wake
from libs.common.ports_sweeps import Sweeps
from libs.common.runtime.failpoints import failpoint
from services.janitor.report import did

_PAGE: Final = 1_000
_PAGES: Final = 20


class Promote:
    """Makes due rows ready."""

    def __init__(self, sweeps: Sweeps, wake: Wake) -> None:
        self._sweeps = sweeps
        self._wake = wake

    async def sweep(self) -> int:
        """One round; returns how many rows became ready."""
        ready = 0
        for _ in range(_PAGES):
            await failpoint("janitor/before-promote")
            moved = await self._sweeps.promote_due(_PAGE)
            self._wake.moved(moved)
            ready += len(moved)
            if len(moved) < _PAGE:
                break
        return did("promote", ready)
