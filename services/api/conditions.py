"""Conditional requests: versions as entity tags."""

from __future__ import annotations

import re
from typing import Final

from services.api.problems import Problem

_TAG: Final = re.compile(r'(W/)?"([^"]*)"')


def etag(version: int, *, weak: bool = False) -> str:
    """The tag of a version; weak where the same version may be written differently (a heartbeat moved on)."""
    return f'W/"{version}"' if weak else f'"{version}"'


def is_known(version: int, if_none_match: str | None) -> bool:
    """Whether the caller has this version already."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or str(version) in {tag for _, tag in _TAG.findall(if_none_match)}


def wanted_versions(if_match: str | None) -> frozenset[int] | None:
    """The versions that a change is meant for; None for any. Raises Problem (400) for what holds no tag."""
    if if_match is None or if_match.strip() == "*":
        return None
    tags = _TAG.findall(if_match)
    if not tags:
        complaint = {"parameter": "If-Match", "detail": 'write it as "<version>", with the quotes'}
        raise Problem("invalid", "The header If-Match holds no entity tag.", errors=[complaint])
    # A weak tag never matches here (RFC 9110, strong comparison).
    return frozenset(int(tag) for weak, tag in tags if not weak and tag.isascii() and tag.isdecimal() and len(tag) < 12)
