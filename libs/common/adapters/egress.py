"""The egress guard: which addresses tenants may make us call.

Base URLs, redirects, provider links and webhooks are tenants' input. Only public addresses are dialled, plus what
SLUICEWAY_EGRESS_ALLOW lists. Names are judged by the address that is dialled, in the moment of dialling: a name that
resolves differently the second time gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from libs.common.adapters import names
from libs.common.domain.endpoint import parse_endpoint
from libs.common.domain.errors import WrongSetting
from libs.common.domain.model_errors import EgressRefused

SETTING: Final = "SLUICEWAY_EGRESS_ALLOW"

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Own table: Python's `is_global` differs between patch releases. From the IANA special-purpose registries.
_NOT_PUBLIC_4: Final = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip
#: IPv6 is public inside 2000::/3 only, but for Teredo, ORCHID and their kin, documentation, 6to4.
_PUBLIC_6: Final = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6: Final = tuple(
    ipaddress.IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")

#: Where clouds hand out credentials. Some of these look public, and a listed range does not open them.
_METADATA: Final = frozenset(
    ipaddress.ip_address(address)
    for address in (
        "169.254.169.254", "169.254.170.2", "169.254.170.23", "169.254.42.42", "169.254.0.23", "100.100.100.200",
        "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254",
    )
)  # fmt: skip
#: Names whose address is known before anybody asks a resolver.
_THIS_MACHINE: Final = re.compile(r"(?:.*\.)?localhost|localhost\.localdomain|ip6-(?:localhost|loopback)")
_METADATA_NAMES: Final = frozenset(
    {
        "instance-data", "instance-data.ec2.internal", "metadata", "metadata.goog", "metadata.google.internal",
        "metadata.tencentyun.com",
    }
)  # fmt: skip
_PORT: Final = re.compile(r"\[(?P<v6>[^\]]+)\](?::(?P<v6port>[0-9]{1,5}))?|(?P<rest>.+[^:]):(?P<port>[0-9]{1,5})")
_RESOLVE_SECONDS: Final = 2.0
#: Names that are asked for at the same time; others pass.
_ASKING: Final = threading.BoundedSemaphore(64)


class BadAllowList(WrongSetting):
    """SLUICEWAY_EGRESS_ALLOW has an entry that is neither an address, a range nor a host."""


@dataclass(frozen=True, slots=True)
class _Range:
    network: _Network
    port: int | None

    def covers(self, address: _Address, port: int) -> bool:
        if self.port not in (None, port) or address not in self.network:
            return False
        return address not in _METADATA or self.network.num_addresses == 1


@dataclass(frozen=True, slots=True)
class _Host:
    name: str
    port: int | None

    def covers(self, host: str, port: int) -> bool:
        return self.name == host and self.port in (None, port)


class EgressGuard:
    """Judges addresses by the list that an operator gave: CIDRs, addresses and host names, each optionally `:port`.

    A listed name allows whatever private address it resolves to, under that name only. Cloud metadata addresses are
    refused unless that very address is listed. Raises BadAllowList.
    """

    def __init__(self, allow: Sequence[str] = ()) -> None:
        entries = [_entry(text) for text in map(str.strip, allow) if text]
        self._ranges = tuple(entry for entry in entries if isinstance(entry, _Range))
        self._hosts = tuple(entry for entry in entries if isinstance(entry, _Host))

    @classmethod
    def from_setting(cls, text: str) -> EgressGuard:
        """The guard that SLUICEWAY_EGRESS_ALLOW describes. Raises BadAllowList."""
        return cls(text.split(","))

    def permits(self, host: str, address: str, port: int) -> bool:
        """Whether `address`, reached as `host`, may be dialled. The whole decision is here."""
        dialled = _embedded(ipaddress.ip_address(address.partition("%")[0]))
        if any(entry.covers(dialled, port) for entry in self._ranges):
            return True
        if dialled in _METADATA:
            return False
        return _is_public(dialled) or self._lists(host, port)

    def check_url(self, url: str) -> None:
        """Refuse what is private by its very text: addresses in any notation, names of this machine.

        For the moment of saving; other names are judged when they are dialled. Raises EgressRefused, and
        InvalidEndpoint for what is no address at all.
        """
        endpoint = parse_endpoint(url)
        known = _known_addresses(endpoint.host)
        if known and not any(self.permits(endpoint.host, address, endpoint.port) for address in known):
            raise refusal(endpoint.host, endpoint.port)

    async def check_resolved(self, url: str) -> None:
        """check_url, then the same for what its name resolves to now; a name unknown within 2 s passes.

        Spares the tenant a failing task, nothing more: the call is judged again when it is made.
        """
        self.check_url(url)
        endpoint = parse_endpoint(url)
        if not _ASKING.acquire(blocking=False):
            return
        try:
            async with asyncio.timeout(_RESOLVE_SECONDS):
                found = await asyncio.wrap_future(names.ask(endpoint.host, endpoint.port, over=_ASKING.release))
        except OSError:  # TimeoutError is one
            return
        if found and not any(self.permits(endpoint.host, str(entry[4][0]), endpoint.port) for entry in found):
            raise refusal(endpoint.host, endpoint.port)

    def _lists(self, host: str, port: int) -> bool:
        return any(entry.covers(_plain(host), port) for entry in self._hosts)


def refusal(host: str, port: int) -> EgressRefused:
    """The refusal for a host, by the name that the tenant gave: what it resolves to inside is not the tenant's."""
    entry = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if any(_embedded(ipaddress.ip_address(address)) in _METADATA for address in _known_addresses(host)):
        why = "is a cloud's metadata service"
    else:
        why = "is or leads to a private or reserved address"
    return EgressRefused(f"{host} {why}, which may not be called; an operator can allow it: {SETTING}={entry}")


def _known_addresses(host: str) -> tuple[str, ...]:
    name = _plain(host)
    if _THIS_MACHINE.fullmatch(name):
        return ("127.0.0.1", "::1")
    if name in _METADATA_NAMES:
        return ("169.254.169.254",)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return ()
    return (host,)


def _entry(text: str) -> _Range | _Host:
    rest, port = text, None
    if (match := _PORT.fullmatch(text)) and not _is_network(text):
        rest = match["rest"] or match["v6"]
        digits = match["port"] or match["v6port"]
        port = int(digits) if digits else None
    if port is not None and not 0 < port <= 65_535:
        raise BadAllowList(f"{SETTING}: {text!r} has no port between 1 and 65535")
    if _is_network(rest):
        return _Range(ipaddress.ip_network(rest, strict=False), port)
    name = _plain(rest)
    if not re.fullmatch(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?", name) or re.fullmatch(r"[0-9.]+", name):
        raise BadAllowList(
            f"{SETTING}: {text!r} is neither an address, a range (CIDR) nor a host, each with :port or without"
        )
    return _Host(name, port)


def _embedded(address: _Address) -> _Address:
    """The IPv4 address that an IPv6 one only carries, since that is where the packet goes."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _is_public(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return not _inside(address, _NOT_PUBLIC_4)
    return address in _PUBLIC_6 and not _inside(address, _NOT_PUBLIC_6)


def _inside(address: _Address, networks: Iterable[_Network]) -> bool:
    return any(address in network for network in networks)


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _plain(host: str) -> str:
    return host.lower().rstrip(".")
