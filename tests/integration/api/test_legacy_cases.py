"""A caller of the Go gateway switches over: recorded requests and answers, over HTTP alone, against a process."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.api_process import api_process

pytestmark = pytest.mark.asyncio(loop_scope="package")

CASES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("legacy_cases.json").read_text())
TENANT = "4611686018427387904"  #: ids of 64 bits are text
KINDS = {
    "<id>": r"[1-9][0-9]*",
    "<uuid>": r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    "<time>": r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d",
    "<text>": r".+",
}


async def test_every_recorded_request_gets_its_recorded_answer(stores: tuple[str, str]) -> None:
    known = {"tenant": TENANT}
    headers = {"X-User-Info": json.dumps({"tenantId": TENANT, "userName": "ann"}), "Authorization": "Bearer theirs"}
    async with (
        api_process(stores, SLUICEWAY_TRUSTED_PEERS="127.0.0.1/32") as (_, url),
        httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, verify=False, timeout=20) as client,
    ):
        for case in CASES:
            name = case["case"]
            method, path = case["do"].split()
            sent = {"json": case.get("json"), "data": case.get("form"), "params": case.get("query")}
            answer = await client.request(method, path, **filled(sent, known))
            assert answer.status_code == case.get("status", 200), (name, answer.text)
            body = answer.json()
            assert set(body) == {"code", "message", "data"}, name
            if "answer" in case:
                assert whole(body, filled(case["answer"], known)), (name, body)
            else:
                assert part(body, filled(case["some"], known)), (name, body)
            for header, value in case.get("headers", {}).items():
                assert answer.headers[header] == value, name
            for kept, way in case.get("keep", {}).items():
                known[kept] = followed(body, way)


def filled(value: Any, known: dict[str, str]) -> Any:
    if isinstance(value, str):
        return known.get(value[1:-1], value) if value[:1] == "{" else value
    if isinstance(value, list):
        return [filled(item, known) for item in value]
    return {name: filled(item, known) for name, item in value.items()} if isinstance(value, dict) else value


def whole(value: Any, expected: Any) -> bool:
    """Equal, in kind too: 1 is not true, and a row has no field more."""
    if isinstance(expected, str) and expected in KINDS:
        return isinstance(value, str) and re.fullmatch(KINDS[expected], value) is not None
    if type(value) is not type(expected):
        return False
    if isinstance(expected, dict):
        return set(value) == set(expected) and all(whole(value[name], expected[name]) for name in expected)
    if isinstance(expected, list):
        return len(value) == len(expected) and all(map(whole, value, expected))
    return bool(value == expected)


def part(value: Any, expected: Any) -> bool:
    """The same, where objects may have more fields."""
    if isinstance(expected, dict):
        return all(name in value and part(value[name], expected[name]) for name in expected)
    if isinstance(expected, list):
        return len(value) == len(expected) and all(map(part, value, expected))
    return whole(value, expected)


def followed(value: Any, way: list[str]) -> Any:
    for name in way:
        value = value[name]
    return value
