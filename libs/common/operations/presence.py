"""A dispatcher's or janitor's sign of life, for those who ask why nothing moves. Nothing depends on it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from importlib.metadata import version
from typing import Final

from libs.common.domain.errors import OutcomeUnknown, Unavailable
from libs.common.ports_insight import NO_BROKER, Broker, Presence, Role
from libs.common.runtime.periodic import Periodic
from libs.common.runtime.redaction import redact_text

BEAT_SECONDS: Final = 3.0


class SignOfLife:
    """Says every few seconds that this process lives; says so when it stops in good order."""

    def __init__(self, presence: Presence, role: Role, broker: Callable[[], Broker] = lambda: NO_BROKER) -> None:
        self.periodic = Periodic("presence", timedelta(seconds=BEAT_SECONDS), self.say)
        self._presence = presence
        self._role = role
        self._broker = broker
        self._version = version("sluiceway")  # a look at the disk
        self._number: int | None = None

    async def say(self) -> None:
        """I live. Raises DatabaseUnavailable or OutcomeUnknown."""
        reachable, error, refused, events = self._broker()
        whys = {lane: redact_text(why) for lane, why in refused.items()}
        broker = Broker(reachable, "" if reachable else redact_text(error), whys, redact_text(events))
        self._number = await self._presence.beat(
            self._number, self._role, f"{socket.gethostname()}-{os.getpid()}", self._version, broker
        )

    async def leave(self) -> None:
        """A clean stop; if PostgreSQL is away, silence says it."""
        if self._number is not None:
            with suppress(Unavailable, OutcomeUnknown):
                await self._presence.leave(self._number)
