"""X-User-Info: who calls, in each of the ways that gateways write it."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from services.api import strict_json
from services.api.strict_json import BadJson

USER_LIMIT: Final = 256
_REMEMBERED: Final = 4_096  #: a gateway sends the same few again and again
_INTEGER: Final = re.compile(r"-?[0-9]{1,19}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")


class UnreadableUserInfo(ValueError):
    """It names no tenant. The text says why and repeats nothing of it."""


@dataclass(frozen=True, slots=True)
class Named:
    """A tenant, and the user in it; the user may be nameless."""

    tenant_id: int
    user: str


class UserInfoReader:
    """Reads the header; the names of its two fields are settings, the first one found counts."""

    def __init__(self, tenant_names: Sequence[str], user_names: Sequence[str]) -> None:
        self._tenant_names = tuple(tenant_names)
        self._user_names = tuple(user_names)
        self.read = lru_cache(_REMEMBERED)(self._read)

    def _read(self, header: bytes) -> Named:
        """Who it names; raises UnreadableUserInfo."""
        info = _document(header.strip())
        tenant = _first(info, self._tenant_names)
        if tenant is None:
            raise UnreadableUserInfo(f"it has no {self._tenant_names[0]}")
        user = _first(info, self._user_names)
        return Named(tenant_of(tenant), "" if user is None else user_of(user))


def tenant_of(value: Any) -> int:
    """A signed 64-bit number, written as one or as text; raises UnreadableUserInfo."""
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise UnreadableUserInfo("the tenant is not a signed 64-bit integer")
    return value


def user_of(value: Any) -> str:
    """A name, or a number that stands for one; raises UnreadableUserInfo."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or len(value) > USER_LIMIT or _CONTROL.search(value):
        raise UnreadableUserInfo(f"the user is not a name of at most {USER_LIMIT} characters")
    return value


def _document(header: bytes) -> dict[str, Any]:
    for candidate in _candidates(header):
        try:
            info = strict_json.read(candidate)
        except BadJson:
            continue
        if isinstance(info, dict):
            return info
    raise UnreadableUserInfo("it is no JSON object: neither plain, nor percent-encoded, nor base64")


def _candidates(header: bytes) -> Iterator[bytes]:
    written = [header]
    if b"%" in header:
        # Who writes a space as %20 means a plus by a plus; others write a space as one.
        written.append(unquote_to_bytes(header if b"%20" in header else header.replace(b"+", b" ")))
    for text in written:
        yield text
        bare = text.translate(_URL_SAFE).rstrip(b"=")
        try:
            yield base64.b64decode(bare + b"=" * (-len(bare) % 4), validate=True)
        except binascii.Error:
            continue


def _first(info: dict[str, Any], names: Sequence[str]) -> Any:
    return next((info[name] for name in names if info.get(name) is not None), None)
