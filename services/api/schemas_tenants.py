"""What operators get of tenants and their API keys on /v1, as pydantic models."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from libs.common.operations.keys import Scope
from services.api.schemas_insight import CountOut


class TenantOut(BaseModel):
    """How a tenant stands beside the others."""

    id: str
    weight: int
    paused: bool
    created_at: datetime


class TenantUseOut(TenantOut):
    """The same in a list, with what it does."""

    models: CountOut
    calls_today: int = Field(description="As far as they are counted by now.")


class TenantPage(BaseModel):
    """Tenants by their numbers."""

    items: list[TenantUseOut]
    next_cursor: str | None


class KeyOut(BaseModel):
    """An API key, without the key itself."""

    id: str
    tenant: str
    name: str
    scopes: list[Scope]
    created_at: datetime
    revoked_at: datetime | None


class KeyItems(BaseModel):
    """A tenant's keys, oldest first."""

    items: list[KeyOut]


class KeyMadeOut(BaseModel):
    """A key that was made just now."""

    id: str
    key: str = Field(description="Shown this once: only its digest is stored.")
    tenant: str
    name: str
    scopes: list[Scope]
