"""API keys of tenants, as every face makes and revokes them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, Literal, TypeAlias, get_args

from libs.common.domain.errors import Invalid, NotFound
from libs.common.ports_tasks import ApiKeys

Scope: TypeAlias = Literal["submit", "read", "operate", "admin"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
KEY_NAME_LIMIT: Final = 64
_RANDOM_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A key in the only moment in which it is known."""

    id: int
    key: str = field(repr=False)
    tenant_id: int
    name: str
    scopes: Sequence[str]


class Keys:
    """A key is told by what makes it, and never again: only its digest is stored. Who makes and who revokes one is on
    record as other actions of operators."""

    def __init__(self, stored: ApiKeys) -> None:
        self._stored = stored

    async def create(self, tenant_id: int, name: str, scopes: Sequence[str], by: str) -> MadeKey:
        """A fresh key. Raises Invalid."""
        if len(name) > KEY_NAME_LIMIT or any(ord(character) < 32 for character in name):
            raise Invalid("invalid", f"at most {KEY_NAME_LIMIT} characters, none of control", field="/name")
        if not scopes or not set(scopes) <= set(SCOPES):
            raise Invalid("invalid", f"choose of {', '.join(SCOPES)}", field="/scopes")
        key = f"sw_{secrets.token_urlsafe(_RANDOM_BYTES)}"
        ordered = [scope for scope in SCOPES if scope in scopes]
        key_id = await self._stored.create(tenant_id, name, sha256(key.encode()).digest(), ordered, by)
        return MadeKey(key_id, key, tenant_id, name, ordered)

    async def list_of(self, tenant_id: int) -> list[dict[str, Any]]:
        """A tenant's keys, oldest first, without the keys themselves."""
        return await self._stored.list_of(tenant_id)

    async def revoke(self, key_id: int, by: str) -> None:
        """Make it useless everywhere within a second. Raises NotFound when there is no such valid key."""
        if not await self._stored.revoke(key_id, by):
            raise NotFound("key_unknown", f"there is no valid key {key_id}")
