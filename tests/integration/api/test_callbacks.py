"""What providers call back with, as they meet it: no key, a token in the address, and nothing to learn."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import pytest_asyncio

from libs.common.adapters.secrets import KeyRing
from libs.common.operations.callback_tokens import CallbackTokens
from libs.common.runtime import failpoints
from libs.common.runtime.metrics import exposition
from tests.support import canaries
from tests.support.api import Api, running_api
from tests.support.openapi import assert_described

RING = KeyRing("test:" + base64.b64encode(b"k" * 32).decode())
LIMIT = 2_000


@dataclass
class Box:
    """The API, and jobs that wait for callbacks."""

    api: Api

    async def job(self, *, polls: bool = False, ended: bool = False) -> UUID:
        """The intent key of a job."""
        key = uuid4()
        await self.api.sql(
            "INSERT INTO provider_job (task_id, attempt, lane, intent_key, adapter, polls, permit_token, deadline,"
            " ended_at) VALUES (nextval('task_ids'), 1, 1, $1, 'test', $2, $1, now(), CASE WHEN $3 THEN now() END)",
            key,
            polls,
            ended,
        )
        return key

    async def call(self, token: str, body: bytes = b"{}", method: str = "POST", **more: Any) -> httpx.Response:
        answer = await self.api.client.request(method, f"/v1/callbacks/{token}", content=body, **more)
        assert_described(answer)
        return answer

    async def kept(self, key: UUID) -> list[bytes]:
        rows = await self.api.sql(
            "SELECT c.body FROM job_callback c JOIN provider_job p ON p.task_id = c.task_id"
            " WHERE p.intent_key = $1 ORDER BY c.id",
            key,
        )
        return [row["body"] for row in rows]


def token(key: UUID, seconds: float = 60) -> str:
    return CallbackTokens(RING).token(key, seconds)


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def box(stores: tuple[str, str]) -> AsyncIterator[Box]:
    async with running_api(*stores, callback_max_bytes=LIMIT) as api:
        yield Box(api)


@pytest.mark.asyncio(loop_scope="package")
async def test_the_body_is_kept_where_it_is_the_truth(box: Box) -> None:
    key = await box.job()
    headers = {"Authorization": "Bearer x", "Cookie": "a=b", "webhook-id": "7", "Content-Type": "application/json"}
    assert (await box.call(token(key), b'{"n":1}', headers=headers)).status_code == 204
    assert await box.kept(key) == [b'{"n":1}']
    (row,) = await box.api.sql("SELECT headers::text FROM job_callback ORDER BY id DESC LIMIT 1")
    assert "webhook-id" in row["headers"]
    assert "Bearer" not in row["headers"]
    assert "a=b" not in row["headers"]


@pytest.mark.asyncio(loop_scope="package")
async def test_neither_the_token_nor_credentials_on_the_way_are_kept_anywhere(
    box: Box, stores: tuple[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    key, canary = await box.job(), "canary-0123456789"
    secret = token(key)
    headers = {"Proxy-Authorization": f"Basic {canary}", "X-Original-URI": f"/v1/callbacks/{secret}", "webhook-id": "7"}
    assert (await box.call(secret, headers=headers)).status_code == 204
    assert len(await box.kept(key)) == 1
    assert await canaries.in_database(stores[0], [canary, secret]) == []
    out, err = capfd.readouterr()
    assert canaries.in_texts({"out": out, "err": err, "metrics": exposition().decode()}, [canary, secret]) == []


@pytest.mark.asyncio(loop_scope="package")
async def test_only_the_newest_few_are_kept(box: Box) -> None:
    key = await box.job()
    for number in range(11):
        assert (await box.call(token(key), b"%d" % number)).status_code == 204
    assert await box.kept(key) == [b"%d" % number for number in range(3, 11)]


@pytest.mark.asyncio(loop_scope="package")
async def test_late_and_needless_ones_keep_nothing_and_are_answered_alike(box: Box) -> None:
    over, asked, unknown = await box.job(ended=True), await box.job(polls=True), uuid4()
    answers = [await box.call(token(key)) for key in (over, asked, unknown)]
    assert {answer.status_code for answer in answers} == {204}
    assert {answer.content for answer in answers} == {b""}
    assert await box.kept(over) == await box.kept(asked) == []


@pytest.mark.asyncio(loop_scope="package")
async def test_without_a_token_of_ours_there_is_nothing_here(box: Box) -> None:
    key = await box.job()
    good = token(key)
    others = CallbackTokens(KeyRing("test:" + base64.b64encode(b"o" * 32).decode())).token(key, 60)
    changed = good[:-4] + ("AAAA" if good[-4:] != "AAAA" else "BBBB")
    for bad in ("x", str(key), changed, others, token(key, -3_700), "é", "a" * 5_000):
        answer = await box.call(bad)
        assert answer.status_code == 404, bad
        assert answer.json()["detail"] == "There is nothing here."
    assert await box.kept(key) == []


@pytest.mark.asyncio(loop_scope="package")
async def test_what_is_too_large_or_compressed_or_no_post_changes_nothing(box: Box) -> None:
    key = await box.job()
    assert (await box.call(token(key), b"x" * (LIMIT + 1))).status_code == 413
    assert (await box.call(token(key), headers={"Content-Encoding": "gzip"})).status_code == 415
    answer = await box.api.client.get(f"/v1/callbacks/{token(key)}")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    assert await box.kept(key) == []


@pytest.mark.asyncio(loop_scope="package")
async def test_the_token_is_in_no_log_and_no_metric(box: Box, capfd: pytest.CaptureFixture[str]) -> None:
    secret = token(await box.job())
    failpoints.arm("api/before-callback:1:raise")
    try:
        answer = await box.call(secret)
    finally:
        failpoints.arm("")
    assert answer.status_code == 500
    out, err = capfd.readouterr()
    assert "request.failed" in out + err
    assert secret not in out + err + answer.text
    assert secret.encode() not in exposition()


def test_a_token_is_over_when_its_time_is(monkeypatch: pytest.MonkeyPatch) -> None:
    key, now = uuid4(), time.time()
    made = token(key, 10)
    assert CallbackTokens(RING).read(made) == key
    monkeypatch.setattr(time, "time", lambda: now + 10 + 3_601)
    assert CallbackTokens(RING).read(made) is None
