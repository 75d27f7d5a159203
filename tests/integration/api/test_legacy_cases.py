"""A caller of the Go gateway switches over: recorded requests and answers, over HTTP alone, against a process."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from tests.support.api_process import forked_api
from tests.support.recorded import recorded, replay

pytestmark = pytest.mark.asyncio(loop_scope="package")

CASES = recorded(Path(__file__).with_name("legacy_cases.json"))
TENANT = "4611686018427387904"  #: ids of 64 bits are text


async def test_every_recorded_request_gets_its_recorded_answer(stores: tuple[str, str], tmp_path: Path) -> None:
    headers = {"X-User-Info": json.dumps({"tenantId": TENANT, "userName": "ann"}), "Authorization": "Bearer theirs"}
    async with (
        forked_api(stores, tmp_path, SLUICEWAY_TRUSTED_PEERS="127.0.0.1/32") as url,
        httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, verify=False, timeout=20) as client,
    ):
        await replay(client, CASES, {"tenant": TENANT})
