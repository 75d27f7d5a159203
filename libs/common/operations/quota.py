"""Points of users and weights of tenants, as every face shows and sets them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final
from zoneinfo import ZoneInfo

from libs.common.contracts import hints as wire
from libs.common.domain.errors import Invalid, NotFound
from libs.common.domain.quota import day_ends
from libs.common.ports import Hints
from libs.common.ports_quota import QuotaBook, TenantRecord, Tenants, TenantUse, UserLimit

USER_LIMIT: Final = 256
#: The largest whole number that every JSON reader keeps.
MOST_POINTS: Final = 2**53 - 1
WEIGHTS: Final = range(1, 1_001)


@dataclass(frozen=True, slots=True)
class Account:
    """A user's points of today; without a limit there is no rest."""

    user: str
    day: date
    used: int
    limit: int | None
    own_limit: bool
    resets_at: datetime

    @property
    def rest(self) -> int | None:
        """What can still be spent; nothing when a limit was lowered below what is used."""
        return None if self.limit is None else max(self.limit - self.used, 0)


class Quota:
    """Accounts and limits of one tenant's users. Days are those of `zone`."""

    def __init__(self, book: QuotaBook, zone: ZoneInfo) -> None:
        self._book = book
        self._zone = zone

    async def account(self, tenant_id: int, user: str) -> Account:
        """A user's account of today; one that nobody has heard of has spent nothing."""
        _check_user(user)
        spent = await self._book.today(tenant_id, user)
        resets_at = day_ends(datetime.now(UTC), self._zone)
        return Account(user, spent.day, spent.used, spent.points_per_day, spent.own, resets_at)

    async def limits(self, tenant_id: int, after: str | None, limit: int) -> tuple[Sequence[UserLimit], str | None]:
        """A page of limits by the users' names, that of all others ('') first, and the name to go on after."""
        rows = await self._book.limits(tenant_id, after, limit + 1)
        return rows[:limit], rows[limit - 1].user if len(rows) > limit else None

    async def set_limit(self, tenant_id: int, user: str, points_per_day: int) -> None:
        """Set a user's limit, or with '' that of all who have none of their own. Raises Invalid."""
        _check_user(user)
        if not 0 <= points_per_day <= MOST_POINTS:
            raise Invalid("invalid", f"points_per_day must be from 0 to {MOST_POINTS}", field="/points_per_day")
        await self._book.set_limit(tenant_id, user, points_per_day)

    async def clear_limit(self, tenant_id: int, user: str) -> None:
        """Take a limit away. Raises NotFound when there is none."""
        _check_user(user)
        if not await self._book.clear_limit(tenant_id, user):
            raise NotFound("limit_unknown", "there is no such limit")


class Weights:
    """How tenants share what all of them wait for."""

    def __init__(self, tenants: Tenants, hints: Hints) -> None:
        self._tenants = tenants
        self._hints = hints

    async def read(self, tenant_id: int) -> TenantRecord:
        """How a tenant stands. Raises NotFound."""
        tenant = await self._tenants.find(tenant_id)
        if tenant is None:
            raise NotFound("tenant_unknown", "nobody has heard of this tenant")
        return tenant

    async def page(self, after: int | None, limit: int) -> tuple[list[TenantUse], int | None]:
        """A page of tenants with what each does, and the number to go on after."""
        rows = await self._tenants.page(after, limit + 1)
        return rows[:limit], rows[limit - 1].tenant.id if len(rows) > limit else None

    async def weigh(self, tenant_id: int, weight: int) -> TenantRecord:
        """Give a tenant its weight; dispatchers go by it within a second. Raises Invalid."""
        if weight not in WEIGHTS:
            raise Invalid("invalid", f"weight must be from {WEIGHTS[0]} to {WEIGHTS[-1]}", field="/weight")
        tenant = await self._tenants.weigh(tenant_id, weight)
        self._hints.publish_soon(wire.DISPATCH, wire.MODELS_CHANGED)
        return tenant


def _check_user(user: str) -> None:
    if len(user) > USER_LIMIT or any(character == "\x00" or 0xD800 <= ord(character) <= 0xDFFF for character in user):
        raise Invalid("invalid", f"a user's name has at most {USER_LIMIT} characters, none of them NUL", field="/user")
