"""Who calls: whom a trusted peer vouches for, else the owner of an API key. One answer for old and new routes."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from starlette.types import Scope

from libs.common.domain.errors import WrongSetting
from libs.common.ports_tasks import Credentials, KeyOwner
from services.api.auth import Callers, unauthenticated
from services.api.problems import Problem
from services.api.user_info import UnreadableUserInfo, UserInfoReader, tenant_of, user_of

#: What callers of the old gateway could do. An operator's rights need a key that has them.
VOUCHED_SCOPES: Final = frozenset({"submit", "read", "admin"})
PEER_HEADER: Final = b"x-sluiceway-peer"
#: Both headers are stored with the task while its upload needs them.
_HEADER_LIMIT: Final = 16_384
_NOT_BELIEVED: Final = (
    "X-User-Info is not believed from this address, nor with this X-Sluiceway-Peer: an operator can trust its sender "
    "(SLUICEWAY_TRUSTED_PEERS, SLUICEWAY_TRUSTED_SECRET). Without that a key is needed."
)
_ADDRESSES_REMEMBERED: Final = 4_096


class TrustedPeers:
    """The gateways in front of us: by their address, or by a secret that they share with us."""

    def __init__(self, networks: str, secret: str) -> None:
        """The values of both settings; raises WrongSetting."""
        try:
            self._networks = [ipaddress.ip_network(part.strip()) for part in networks.split(",") if part.strip()]
        except ValueError as error:
            raise WrongSetting(f"SLUICEWAY_TRUSTED_PEERS: {error}; write CIDRs, comma separated.") from None
        self._secret = secret.encode()
        self._near = lru_cache(_ADDRESSES_REMEMBERED)(self._listed)

    def trust(self, scope: Scope, named: Mapping[bytes, bytes]) -> bool:
        """Whether what this request says about its sender is believed."""
        if self._networks and scope.get("client") and self._near(scope["client"][0]):
            return True
        return bool(self._secret) and hmac.compare_digest(named.get(PEER_HEADER, b""), self._secret)

    def _listed(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return any((mapped or address) in network for network in self._networks)


class Identity:
    """Answers who sent a request."""

    def __init__(
        self, keys: Callers, peers: TrustedPeers, user_info: UserInfoReader, default: KeyOwner | None = None
    ) -> None:
        self._keys = keys
        self._peers = peers
        self._user_info = user_info
        self._default = default

    async def identify(self, scope: Scope, named: Mapping[bytes, bytes]) -> KeyOwner:
        """The caller. Raises Problem (400, 401), DatabaseUnavailable when nobody can tell whose key it is.

        Where a trusted peer says for whom it speaks, that address stands in the scope as `sender`.
        """
        authorization = named.get(b"authorization")
        if self._peers.trust(scope, named):
            scope["sender"] = _first_address(named.get(b"x-forwarded-for", b""))
            user_info = named.get(b"x-user-info")
            if user_info is not None:
                return self._vouched(user_info, authorization or b"")
            if authorization is None and self._default is not None:
                return self._default
            return await self._by_key_alone(authorization, "X-User-Info is missing, and without it a key is needed.")
        if b"x-user-info" in named:
            return await self._by_key_alone(authorization, _NOT_BELIEVED)
        return await self._keys.identify(authorization)

    async def _by_key_alone(self, authorization: bytes | None, why: str) -> KeyOwner:
        """The owner of a key; who has none is told, too, why it needs one."""
        try:
            return await self._keys.identify(authorization)
        except Problem as refused:
            raise unauthenticated(f"{why} {refused.detail}") from None

    def _vouched(self, user_info: bytes, authorization: bytes) -> KeyOwner:
        if max(len(user_info), len(authorization)) > _HEADER_LIMIT:
            raise Problem("invalid", f"Authorization and X-User-Info may have at most {_HEADER_LIMIT} bytes.")
        try:
            who = self._user_info.read(user_info)
        except UnreadableUserInfo as error:
            raise unauthenticated(f"X-User-Info cannot be used: {error}.") from None
        # As it came, byte for byte: Latin-1 names every byte.
        sent = Credentials(authorization.decode("latin-1"), user_info.decode("latin-1"))
        return KeyOwner(0, who.tenant_id, who.user, VOUCHED_SCOPES, sent)


def _first_address(forwarded: bytes) -> str:
    """Who sent the request to the first of the peers that X-Forwarded-For lists; empty where it says nothing usable."""
    try:
        return str(ipaddress.ip_address(forwarded.partition(b",")[0].strip().decode("latin-1")))
    except ValueError:
        return ""


def default_identity(text: str) -> KeyOwner | None:
    """The caller that SLUICEWAY_DEFAULT_IDENTITY describes, if it is set; raises WrongSetting."""
    if not text:
        return None
    tenant, mark, user = text.partition(":")
    try:
        if not mark:
            raise UnreadableUserInfo("it has no colon")
        return KeyOwner(0, tenant_of(tenant), user_of(user), VOUCHED_SCOPES)
    except UnreadableUserInfo as error:
        raise WrongSetting(f"SLUICEWAY_DEFAULT_IDENTITY: {error}; write tenant:user.") from None


def names_of(setting: str, text: str) -> list[str]:
    """The names in a setting; raises WrongSetting when there are none."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise WrongSetting(f"{setting}: it is empty; name a field of X-User-Info.")
    return names


def tenants_of(setting: str, text: str) -> frozenset[int]:
    """The tenants in a setting; raises WrongSetting."""
    try:
        return frozenset(tenant_of(part.strip()) for part in text.split(",") if part.strip())
    except UnreadableUserInfo as error:
        raise WrongSetting(f"{setting}: {error}; write tenant ids, comma separated.") from None
