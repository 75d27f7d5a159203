"""What quota and weights are read from and written to, beside the creates that spend points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

from libs.common.domain.count import Count


@dataclass(frozen=True, slots=True)
class Spent:
    """A user's points of today, and the limit that holds: the user's `own`, or the tenant's for all others."""

    day: date
    used: int
    points_per_day: int | None  #: None: no limit
    own: bool


@dataclass(frozen=True, slots=True)
class UserLimit:
    """A limit; the user '' stands for all who have none of their own, `used` is then its namesake's."""

    user: str
    points_per_day: int
    updated_at: datetime
    used: int


class QuotaBook(Protocol):
    """Limits of users and what they have used. Every method raises DatabaseUnavailable or OutcomeUnknown."""

    async def today(self, tenant_id: int, user: str) -> Spent:
        """A user's account of today."""

    async def limits(self, tenant_id: int, after: str | None, limit: int) -> Sequence[UserLimit]:
        """Limits in the order of the users' names, from after a name."""

    async def set_limit(self, tenant_id: int, user: str, points_per_day: int) -> None:
        """Set or change a limit; it holds from the next create on."""

    async def clear_limit(self, tenant_id: int, user: str) -> bool:
        """Take a limit away; False when there was none."""


@dataclass(frozen=True, slots=True)
class TenantRecord:
    """How a tenant stands beside the others."""

    id: int
    weight: int
    paused: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class TenantUse:
    """A tenant, and what it does: models up to a hundred; calls of today, of two hundred pairs of user and model."""

    tenant: TenantRecord
    models: Count
    calls: int


class Tenants(Protocol):
    """Tenants, whom nobody has to make: each is there with its first key or model."""

    async def page(self, after: int | None, limit: int) -> list[TenantUse]:
        """Tenants in the order of their numbers, from after one."""

    async def find(self, tenant_id: int) -> TenantRecord | None:
        """The tenant; None when nobody has heard of it."""

    async def weigh(self, tenant_id: int, weight: int) -> TenantRecord:
        """Give it a weight; it need not be known before."""
