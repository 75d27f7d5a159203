"""A payload that was kept inside a wrapper, and the caller's credentials beside it.

    {"headers": {"Authorization": ["Bearer x"], "X-User-Info": "..."}, "body": {"text": "..."}}

is a wrapper whose payload lies at `body`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from libs.common.domain.errors import Invalid

_SEPARATORS: Final = re.compile(r"[-_\s]")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_DEEPEST: Final = 8


class Found(NamedTuple):
    """What the caller sent to prove who it is; empty where nothing was found."""

    authorization: str = ""
    user_info: str = ""

    @property
    def any(self) -> bool:
        return bool(self.authorization or self.user_info)


def parse_path(text: str) -> list[str]:
    """The names that lead to the payload, from `request.body` or the JSON pointer `/request/body`. Raises Invalid."""
    text = text.strip()
    if text.startswith("/"):
        names = [name.replace("~1", "/").replace("~0", "~") for name in text[1:].split("/")]
    else:
        names = text.split(".")
    if not all(names):
        raise Invalid("payload_path", "a path is written request.body or /request/body, without empty names")
    return names


def find_credentials(wrapper: Any) -> Found:
    """Authorization and X-User-Info in a wrapper, in any spelling and however deep; those nearest to its top win."""
    found: dict[str, str] = {}
    level: list[Any] = [wrapper]
    for _ in range(_DEEPEST):
        for name, value in _members(level):
            plain = _SEPARATORS.sub("", name.lower())
            if plain in _NAMES and plain not in found and (text := _text(value)):
                found[plain] = text
        level = [inner for value in level for inner in _inner(value)]
    return Found(found.get("authorization", ""), found.get("xuserinfo", ""))


def is_credential(name: str) -> bool:
    """Whether a member of this name holds what find_credentials looks for."""
    return _SEPARATORS.sub("", name.lower()) in _NAMES


_NAMES: Final = frozenset({"authorization", "xuserinfo"})


def _members(level: list[Any]) -> Iterator[tuple[str, Any]]:
    for value in level:
        if isinstance(value, Mapping):
            yield from value.items()


def _inner(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    """Headers may be lists; user info may be an object. What no header can carry is no credential."""
    if isinstance(value, list):
        return next((text for text in map(_text, value) if text), "")
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")) if value else ""
    text = value.strip() if isinstance(value, str) else ""
    return "" if _CONTROL.search(text) else text
