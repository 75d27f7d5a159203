"""Recorded requests of the old routes and the answers that belong to them: told over HTTP alone, one after the other.

A case has `do` (method and path), what is sent (`json`, `form`, `query`), and the whole answer (`answer`) or a part of
it (`some`). `keep` remembers a value of the answer for later cases, which write it `{name}`. With `until` the request
is made again until it is answered so: what processes do takes its time.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx

KINDS: Final = {
    "<id>": r"[1-9][0-9]*",
    "<uuid>": r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    "<time>": r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d",
    "<day>": r"\d{4}-\d\d-\d\d",
    "<file>": r"http://.+/f/asynch_[0-9]+_[0-9a-z-]+\.png",
    "<text>": r".+",
}
_UNTIL_SECONDS: Final = 60.0


def recorded(path: Path) -> list[dict[str, Any]]:
    """The cases of a file."""
    cases: list[dict[str, Any]] = json.loads(path.read_text())
    return cases


async def replay(client: httpx.AsyncClient, cases: Sequence[dict[str, Any]], known: dict[str, str]) -> None:
    """Make every request and hold its answer against the recorded one; `known` is what `{name}` stands for at first."""
    for case in cases:
        deadline = time.monotonic() + _UNTIL_SECONDS
        answer = await _asked(client, case, known)
        while case.get("until") and not _fits(answer, case, known) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
            answer = await _asked(client, case, known)
        assert answer.status_code == case.get("status", 200), (case["case"], answer.text)
        assert set(answer.json()) == {"code", "message", "data"}, case["case"]
        assert _fits(answer, case, known), (case["case"], answer.text)
        for header, value in case.get("headers", {}).items():
            assert answer.headers[header] == value, case["case"]
        for name, way in case.get("keep", {}).items():
            known[name] = _followed(answer.json(), way)


async def _asked(client: httpx.AsyncClient, case: dict[str, Any], known: dict[str, str]) -> httpx.Response:
    method, path = case["do"].split()
    sent = {"json": case.get("json"), "data": case.get("form"), "params": case.get("query")}
    return await client.request(method, path, **_filled(sent, known))


def _fits(answer: httpx.Response, case: dict[str, Any], known: dict[str, str]) -> bool:
    if "answer" in case:
        return _whole(answer.json(), _filled(case["answer"], known))
    return _part(answer.json(), _filled(case["some"], known))


def _filled(value: Any, known: dict[str, str]) -> Any:
    if isinstance(value, str):
        return known.get(value[1:-1], value) if value[:1] == "{" else value
    if isinstance(value, list):
        return [_filled(item, known) for item in value]
    return {name: _filled(item, known) for name, item in value.items()} if isinstance(value, dict) else value


def _whole(value: Any, expected: Any) -> bool:
    """Equal, in kind too: 1 is not true, and a row has no field more."""
    if isinstance(expected, str) and expected in KINDS:
        return isinstance(value, str) and re.fullmatch(KINDS[expected], value) is not None
    if type(value) is not type(expected):
        return False
    if isinstance(expected, dict):
        return set(value) == set(expected) and all(_whole(value[name], expected[name]) for name in expected)
    if isinstance(expected, list):
        return len(value) == len(expected) and all(map(_whole, value, expected))
    return bool(value == expected)


def _part(value: Any, expected: Any) -> bool:
    """The same, where objects may have more fields."""
    if isinstance(value, dict) and isinstance(expected, dict):
        return all(name in value and _part(value[name], expected[name]) for name in expected)
    if isinstance(value, list) and isinstance(expected, list):
        return len(value) == len(expected) and all(map(_part, value, expected))
    return _whole(value, expected)


def _followed(value: Any, way: list[str]) -> Any:
    for name in way:
        value = value[name]
    return value
