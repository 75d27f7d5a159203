"""The claim check that travels from dispatcher to executor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import orjson

VERSION: Final = 1
_FIELDS: Final = ("task", "lane", "tenant", "model", "attempt", "lease", "phase", "size")
_MAX_BYTES: Final = 4_096


class MalformedMessage(ValueError):
    """Bytes on a model topic that are no claim check of ours; the text says why, `code` is stable."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


@dataclass(frozen=True, slots=True)
class DispatchMessage:
    """Task `task` may be claimed under lease number `lease`; its payload, of `size` bytes, is read by the claim."""

    task: int
    lane: int
    tenant: int
    model: int
    attempt: int
    lease: int
    phase: int
    size: int

    def encode(self) -> bytes:
        return orjson.dumps(
            {
                "v": VERSION,
                "task": self.task,
                "lane": self.lane,
                "tenant": self.tenant,
                "model": self.model,
                "attempt": self.attempt,
                "lease": self.lease,
                "phase": self.phase,
                "size": self.size,
            }
        )


def decode(value: bytes | None) -> DispatchMessage:
    """Read a claim check; raises MalformedMessage for anything else, a newer version too."""
    if value is None:
        raise MalformedMessage("tombstone", "the record has no value")
    if len(value) > _MAX_BYTES:
        raise MalformedMessage("too_large", f"{len(value)} bytes are too many for a claim check")
    try:
        body = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise MalformedMessage("not_json", "not JSON") from error
    if not isinstance(body, dict):
        raise MalformedMessage("not_an_object", "not a JSON object")
    if "v" not in body:
        raise MalformedMessage("unknown_version", f"it has no schema version `v`; known is {VERSION}")
    if body["v"] != VERSION:
        raise MalformedMessage("unknown_version", f"schema version {_shown(body['v'])} is not {VERSION}"[:200])
    numbers = []
    for name in _FIELDS:
        number = body.get(name)
        if type(number) is not int or not -(2**63) <= number < 2**63:
            raise MalformedMessage("bad_field", f"{name} is not a 64-bit integer")
        numbers.append(number)
    if not 0 <= numbers[1] < 2**31:
        raise MalformedMessage("bad_field", "lane is not a 32-bit integer")
    return DispatchMessage(*numbers)


def _shown(version: object) -> str:
    # Never the repr of what can nest: orjson reads a depth at which repr raises RecursionError.
    return repr(version) if isinstance(version, int | str | float | None) else f"of type {type(version).__name__}"
