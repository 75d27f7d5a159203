"""Webhooks: which ends an address wants to hear of, when a delivery is tried again, when an address is given up."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from libs.common.domain.endpoint import Endpoint, InvalidEndpoint, parse_endpoint
from libs.common.domain.errors import Invalid
from libs.common.domain.task import TaskStatus

#: The ends that can be asked for, in the order of their bits.
ENDS: Final = (TaskStatus.SUCCESS, TaskStatus.FAILED, TaskStatus.TIMEOUT, TaskStatus.CANCELED)
END_WORDS: Final = tuple(status.word for status in ENDS)
ALL_ENDS: Final = 2 ** len(ENDS) - 1
URL_LIMIT: Final = 2_048

#: Pauses after the first, second, ... failed attempt; after the last attempt the delivery is dead.
_PAUSES: Final = tuple(
    timedelta(seconds=seconds) for seconds in (5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 10 * 3600)
)
ATTEMPTS: Final = len(_PAUSES) + 1
#: An endpoint that has answered nothing but failures for so long is switched off by the next delivery that dies.
GIVE_UP_AFTER: Final = timedelta(days=5)
#: The old secret signs too for so long after a rotation.
OLD_SECRET_LIFE: Final = timedelta(hours=24)


def mask_of(words: Collection[str]) -> int:
    """The bits of these ends; raises KeyError for a word that is none."""
    bits = dict(zip(END_WORDS, range(len(ENDS)), strict=True))
    return sum({1 << bits[word] for word in words})


def words_of(mask: int) -> list[str]:
    """The ends of these bits."""
    return [word for bit, word in enumerate(END_WORDS) if mask & 1 << bit]


def bit_of(status: TaskStatus) -> int:
    """The bit of an end."""
    return 1 << ENDS.index(status)


def pause_after(failures: int) -> timedelta | None:
    """How long to wait after the n-th failed attempt (n from 1); None when that was the last one."""
    return _PAUSES[failures - 1] if failures <= len(_PAUSES) else None


def check_webhook_url(url: str, field: str) -> Endpoint:
    """An address that may be posted to; raises Invalid."""
    if len(url) > URL_LIMIT:
        raise Invalid("webhook_url", f"an address has at most {URL_LIMIT} characters", field=field)
    try:
        return parse_endpoint(url)
    except InvalidEndpoint as error:
        raise Invalid("webhook_url", error.message, field=field) from None


@dataclass(frozen=True, slots=True)
class Secrets:
    """What signs: the newest secret, and the one before it for a while after a rotation."""

    current: str
    old: str | None = None
    old_until: datetime | None = None

    def at(self, now: datetime) -> Sequence[str]:
        """Those that sign now, the newest first."""
        if self.old is None or self.old_until is None or self.old_until <= now:
            return (self.current,)
        return (self.current, self.old)

    def rotated(self, fresh: str, now: datetime) -> Secrets:
        """The fresh one signs, and the present one for a while. One that signs already changes nothing: who repeats a
        rotation has receivers that know the one before it."""
        if fresh == self.current:
            return self
        return Secrets(fresh, self.current, now + OLD_SECRET_LIFE)
