"""Where a model is called: base_url and route as one address that cannot point anywhere else."""

from __future__ import annotations

import ipaddress
import json
import re
import socket
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from libs.common.domain.errors import Invalid
from libs.common.domain.payload import is_empty

ADDRESS_LIMIT: Final = 4_096

_HOST_LIMIT: Final = 253
_LABEL_LIMIT: Final = 63
_PORTS: Final = {"http": 80, "https": 443}
#: Control characters and spaces vanish in some parsers; a backslash is a slash for others.
_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f\\]")
_HOST_NAME: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?")
#: What ends a label of a name that is not ASCII (RFC 3490).
_DOTS: Final = re.compile("[.\u3002\uff0e\uff61]")
_BRACKETED: Final = re.compile(r"\[[0-9A-Fa-f:.]+\](:[0-9]*)?")
#: Judged before anything reads it: releases of Python differ in what brackets they take for a host.
_HOST_WITH_BRACKETS: Final = re.compile(r"https?://(?P<host>[^/?#@]*[\[\]][^/?#@]*)(?:[/?#]|$)", re.IGNORECASE)
#: Parsers take a host whose last label looks like a number for an IPv4 address, in every form that C ever knew.
_NUMERIC: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?")
_PATH_SAFE: Final = "/%:@!$&'()*+,;=~-._[]?"
_JSON_SPACE: Final = " \t\r\n"
_STRING_OR_SPACE: Final = re.compile(r'("[^"\\]*+(?:\\.[^"\\]*+)*+")|[ \t\r\n]+', re.DOTALL)


class InvalidEndpoint(Invalid):
    """An address that a model cannot have."""

    def __init__(self, code: str, message: str, *, field: str = "/base_url") -> None:
        super().__init__(code, message, field=field)


class InvalidQuery(ValueError):
    """A payload that cannot become a query string; the message shows nothing of it."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address ready to be requested: ASCII, numeric hosts in their one plain form."""

    url: str
    scheme: str
    host: str
    port: int

    @property
    def origin(self) -> str:
        """Scheme, host and port: all of an address that may stand in an error or a log."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS[self.scheme] else f":{self.port}")

    @property
    def shown(self) -> str:
        """The address without its query, which may hold a payload."""
        return self.url.partition("?")[0]


def join_endpoint(base_url: str, route: str = "") -> Endpoint:
    """base_url and route joined by exactly one `/`; the route cannot change the host. Raises InvalidEndpoint."""
    base_url, route = base_url.strip(), route.strip()
    base = parse_endpoint(base_url)
    if not route:
        return base
    if "?" in base_url:
        raise InvalidEndpoint("endpoint_query", "base_url has a query, so route must be empty", field="/route")
    try:
        joined = parse_endpoint(f"{base_url.rstrip('/')}/{route.lstrip('/')}")
    except InvalidEndpoint as error:
        raise InvalidEndpoint(error.code, f"with route: {error.message}", field="/route") from None
    if joined.origin != base.origin:
        raise InvalidEndpoint("endpoint_origin", "route leads to another host than base_url", field="/route")
    return joined


def request_endpoint(base_url: str, path: str) -> Endpoint:
    """`path` if it is an address of base_url's origin, else as a path below base_url. Raises InvalidEndpoint."""
    base = parse_endpoint(base_url.strip())
    target = parse_endpoint(path) if path.startswith(("http://", "https://")) else join_endpoint(base_url, path)
    if target.origin != base.origin:
        message = f"{target.origin} is not where the model is: its base_url names {base.origin}"
        raise InvalidEndpoint("endpoint_origin", message)
    return target


def parse_endpoint(url: str) -> Endpoint:
    """An absolute http or https address. Raises InvalidEndpoint, whose message does not repeat the address."""
    if len(url) > ADDRESS_LIMIT:
        raise InvalidEndpoint("endpoint_long", f"the address is longer than {ADDRESS_LIMIT} characters")
    if _FORBIDDEN.search(url):
        raise InvalidEndpoint("endpoint_characters", "the address has spaces, control characters or a backslash")
    if (named := _HOST_WITH_BRACKETS.match(url)) and not _BRACKETED.fullmatch(named["host"]):
        raise _no_host()
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _unreadable() from None
    if parts.scheme not in _PORTS:
        raise InvalidEndpoint("endpoint_scheme", "the address must start with http:// or https://")
    if "@" in parts.netloc:
        raise InvalidEndpoint("endpoint_user_info", "the address has a user name before an @, which is never sent")
    if "#" in url:
        raise InvalidEndpoint("endpoint_fragment", "the address has a #, which is never sent to a server")
    if port == 0 or parts.netloc.endswith(":"):
        raise InvalidEndpoint("endpoint_port", "the address names no port after its colon")
    return _endpoint(parts, _host(parts.hostname or ""), port)


def follow(endpoint: Endpoint, location: str) -> Endpoint:
    """Where a redirect from `endpoint` leads. Raises InvalidEndpoint."""
    try:
        target = urljoin(endpoint.url, location.partition("#")[0])
    except ValueError:
        raise _unreadable() from None
    return parse_endpoint(target)


def with_query(url: str, payload: bytes) -> str:
    """The address with a JSON object's top-level names as its query, after the query that it has.

    Strings go in as they are, numbers as they are written, nested values as compact JSON; null is left out. Raises
    InvalidQuery for anything but an object, or a payload that is empty.
    """
    if is_empty(payload):
        return url
    try:
        text = payload.decode().strip(_JSON_SPACE)
        if not isinstance(json.loads(text, parse_constant=_no_json), dict):
            raise InvalidQuery("a GET model takes a JSON object: its names become the query")
        query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in _members(text))
    except InvalidQuery:
        raise
    except (ValueError, RecursionError):  # a lone surrogate is a ValueError, too
        raise InvalidQuery("the payload is not JSON that can be sent") from None
    return f"{url}{'&' if '?' in url else '?'}{query}" if query else url


def _endpoint(parts: SplitResult, host: str, port: int | None) -> Endpoint:
    try:
        path = quote(parts.path or "/", safe=_PATH_SAFE)
        query = quote(parts.query, safe=_PATH_SAFE)
    except UnicodeEncodeError:  # a lone surrogate
        raise InvalidEndpoint("endpoint_characters", "the address has characters that cannot be sent") from None
    netloc = (f"[{host}]" if ":" in host else host) + ("" if port is None else f":{port}")
    url = f"{parts.scheme}://{netloc}{path}{'?' if query else ''}{query}"
    return Endpoint(url, parts.scheme, host, port or _PORTS[parts.scheme])


def _host(host: str) -> str:
    try:
        if ":" in host:
            # As RFC 5952 writes it in each version of Python: str() changed for mapped addresses.
            return socket.inet_ntop(socket.AF_INET6, ipaddress.IPv6Address(host).packed)
        if not host.isascii():
            # The codec looks at each letter a dozen times, at all that it stands for: 4,000 of some took 0.2 s.
            if not _fits(unicodedata.normalize("NFKC", host)):
                raise _no_host()
            host = host.encode("idna").decode().lower()
        if _NUMERIC.fullmatch(host):
            return socket.inet_ntoa(socket.inet_aton(host.rstrip(".")))
    except (ValueError, OSError):
        raise _no_host() from None
    if not _fits(host) or not _HOST_NAME.fullmatch(host):
        raise _no_host()
    return host


def _fits(host: str) -> bool:
    return len(host) <= _HOST_LIMIT and all(len(label) <= _LABEL_LIMIT for label in _DOTS.split(host))


def _unreadable() -> InvalidEndpoint:
    return InvalidEndpoint("endpoint_unreadable", "the address cannot be read: check host and port")


def _no_host() -> InvalidEndpoint:
    return InvalidEndpoint("endpoint_host", "the address has no host that could be called")


def _members(text: str) -> Iterator[tuple[str, str]]:
    """Names and values of a well-formed JSON object, each value as it is written: 1.0 and 1e2 stay what they are."""
    decode = json.JSONDecoder().raw_decode
    place = _after_space(text, 1)
    while text[place] != "}":
        name, place = decode(text, place)
        start = _after_space(text, _after_space(text, place) + 1)  # behind the colon
        value, end = decode(text, start)
        if value is not None:
            yield name, value if isinstance(value, str) else _compact(text[start:end])
        place = _after_space(text, end)
        if text[place] == ",":
            place = _after_space(text, place + 1)


def _after_space(text: str, place: int) -> int:
    while text[place] in _JSON_SPACE:
        place += 1
    return place


def _compact(raw: str) -> str:
    return _STRING_OR_SPACE.sub(lambda match: match.group(1) or "", raw)


def _no_json(constant: str) -> None:
    raise InvalidQuery(f"{constant} is not JSON")
