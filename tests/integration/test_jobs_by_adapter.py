"""Each of our adapters in an executor, on real stores: from a task to its result, with a real Cog behind one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from libs.common.adapters.egress import EgressGuard
from libs.common.adapters.models.job_http import open_job_http
from libs.common.adapters.models.registry import load_adapters
from libs.common.adapters.secrets import KeyRing
from libs.common.domain.model import Model
from libs.common.domain.task import TaskStatus
from libs.common.operations.callback_tokens import CallbackTokens
from libs.common.ports_jobs import JobCall, JobReport
from tests.integration.test_adapter_kit import REPLICATE_BY_CONFIGURATION
from tests.support.api import running_api, settings
from tests.support.cog_provider import cog_provider
from tests.support.cog_server import CogServer, cog_server
from tests.support.executor_rig import Rig, Running, Through, until
from tests.support.replicate_provider import TOKEN, Plan, Refusal, ReplicateProvider, replicate_provider

PICTURE = "data:image/png;base64,iVBORw0KGgo="


@dataclass
class House:
    """A rig whose executors know all our adapters."""

    rig: Rig

    async def begin(self, model: Model, **payload: Any) -> list[int]:
        ids = await self.rig.make_tasks(model, 1, orjson.dumps(payload))
        await self.rig.take_slots(model, ids)
        await self.rig.dispatch(model)
        return ids

    async def over(self, running: Running, model: Model, ids: list[int], content: bytes) -> None:
        """The task succeeded, its result is stored, and nothing is held any more."""
        await self.rig.ended(ids, seconds=20)
        assert content in running.results.stored.values()
        await self.rig.nothing_taken(model)
        assert await self.rig.sql("SELECT 1 FROM provider_job WHERE ended_at IS NULL") == []


@pytest.fixture
async def house(rig: Rig) -> AsyncIterator[House]:
    async with open_job_http(EgressGuard(["127.0.0.0/8"])) as http:
        rig.jobs.update(load_adapters(http).jobs)
        try:
            yield House(rig)
        finally:
            for running in rig.started:
                running.executor.stop()
            await asyncio.gather(*(running.pending for running in rig.started), return_exceptions=True)


@pytest.fixture
async def provider() -> AsyncIterator[ReplicateProvider]:
    async with replicate_provider(plan=Plan(output=PICTURE)) as opened:
        yield opened


@pytest.fixture(scope="module")
def cog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CogServer]:
    with cog_server(tmp_path_factory.mktemp("cog")) as running:
        yield running


async def predictions(
    house: House, provider: ReplicateProvider, adapter: str, config: dict[str, Any] | None = None, **fields: Any
) -> Model:
    """A model of that provider, by either of the adapters that can speak to it."""
    usual = REPLICATE_BY_CONFIGURATION if adapter == "submit-poll" else {}
    return await house.rig.make_model(
        base_url=provider.url,
        adapter=adapter,
        adapter_config=orjson.dumps(usual if config is None else config).decode(),
        bindings=f'Authorization:"Bearer {TOKEN}"'.encode(),
        poll_seconds=1,
        **fields,
    )


@pytest.mark.parametrize("adapter", ["replicate", "submit-poll"])
async def test_one_job_whatever_the_provider_does(house: House, provider: ReplicateProvider, adapter: str) -> None:
    """Its answer to the submit is lost, it is full, and three polls fail; there is one job, and its result."""
    provider.creates.extend([Refusal(429, headers={"Retry-After": "1"}), "lost"])
    provider.gets.extend([Refusal(503), "cut", "garbage"])
    model = await predictions(house, provider, adapter)
    running = await house.rig.executor()
    ids = await house.begin(model, prompt="a cat")
    await until(lambda: provider.calls["create"], "it is asked once")
    await _again_until(house, model, lambda: provider.jobs)
    await house.over(running, model, ids, b"\x89PNG\r\n\x1a\n")
    assert (len(provider.jobs), provider.twice()) == (1, [])


@pytest.mark.parametrize("fault", [Refusal(503), Refusal(429, headers={"Retry-After": "1"})])
async def test_a_job_that_is_done_at_once_is_bought_once_whatever_its_result_answers(
    house: House, provider: ReplicateProvider, fault: Any
) -> None:
    provider.plan = Plan(statuses=("succeeded",), output=PICTURE)
    provider.gets.append(fault)
    config = {**REPLICATE_BY_CONFIGURATION, "result": {"path": "v1/predictions/{{job_id}}"}}
    model = await predictions(house, provider, "submit-poll", config, retry_times=3)
    running = await house.rig.executor()
    ids = await house.begin(model, prompt="a cat")
    await house.over(running, model, ids, b"\x89PNG\r\n\x1a\n")
    assert (len(provider.submits), provider.calls["cancel"]) == (1, 0)


@pytest.mark.parametrize("adapter", ["replicate", "submit-poll"])
async def test_a_provider_that_is_slow_to_list_a_job_is_given_its_time_from_our_timeout_on(
    house: House, provider: ReplicateProvider, adapter: str
) -> None:
    """The submit itself takes longer than the provider is waited for: its absence then means nothing yet."""
    find = {"find": {**REPLICATE_BY_CONFIGURATION["find"], "absence_is_certain": True}}
    config = {"settle_seconds": 0.9} | ({**REPLICATE_BY_CONFIGURATION, **find} if adapter == "submit-poll" else {})
    model = await predictions(house, provider, adapter, config, timeout_seconds=1)
    running = await house.rig.executor()
    first = await house.begin(model, prompt="another")  # whose mark shows that the list shows marks
    await house.over(running, model, first, b"\x89PNG\r\n\x1a\n")
    provider.creates.append(1.6)
    ids = await house.begin(model, prompt="a cat")
    await house.over(running, model, ids, b"\x89PNG\r\n\x1a\n")
    assert (len(provider.submits), provider.twice()) == (2, [])


@pytest.mark.parametrize("adapter", ["replicate", "submit-poll"])
async def test_a_job_that_was_made_before_something_in_between_gave_up_is_gone_on_with(
    house: House, provider: ReplicateProvider, adapter: str
) -> None:
    provider.creates.append("in between")
    model = await predictions(house, provider, adapter, retry_times=3)
    running = await house.rig.executor()
    ids = await house.begin(model, prompt="a cat")
    await house.over(running, model, ids, b"\x89PNG\r\n\x1a\n")
    assert len(provider.submits) == 1


async def test_who_was_frozen_while_it_connected_submits_nothing_before_it_is_trusted_again(
    house: House, provider: ReplicateProvider
) -> None:
    real, trusted = house.rig.jobs["replicate"], []
    running = await house.rig.executor(
        jobs=lambda jobs: {**jobs, "replicate": Through(real, submit=lambda call: submit(call))}
    )
    heartbeat = running.executor.heartbeat

    async def submit(call: JobCall) -> JobReport:
        trusted.append(heartbeat.trusted)
        if len(trusted) == 1:
            heartbeat._trusted_from = float("-inf")  # as after a freeze: nobody has heard of us for long
        return await real.submit(call)

    model = await predictions(house, provider, "replicate")
    ids = await house.begin(model, prompt="a cat")
    await house.over(running, model, ids, b"\x89PNG\r\n\x1a\n")
    assert (trusted, len(provider.submits), provider.calls["list"]) == ([True, True], 1, 0)


@pytest.mark.parametrize("adapter", ["replicate", "submit-poll"])
async def test_a_refusal_ends_the_task_with_the_providers_words(
    house: House, provider: ReplicateProvider, adapter: str
) -> None:
    provider.creates.append(Refusal(402, {"title": "Insufficient credit", "detail": f"Pay first, {TOKEN}"}))
    model = await predictions(house, provider, adapter)
    await house.rig.executor()
    ids = await house.begin(model, prompt="a cat")
    await house.rig.ended(ids, TaskStatus.FAILED)
    (row,) = await house.rig.sql("SELECT error_code, error_message FROM task_face")
    assert (row["error_code"], row["error_message"]) == ("model_http_402", "the model answered 402: Pay first, ***")


async def test_cog_answers_in_the_call(house: House, cog: CogServer) -> None:
    model = await house.rig.make_model(base_url=cog.url, adapter="cog", max_concurrency=1)
    running = await house.rig.executor()
    for text in ("first", "second"):  # its slot is free a moment after its answer: the second one may come too early
        ids = await house.begin(model, text=text)
        await _again_until(house, model, lambda text=text: cog.runs().count(text))
        await house.over(running, model, ids, b"\x89PNG\r\n\x1a\n" + text.encode())
    assert [cog.runs().count(text) for text in ("first", "second")] == [1, 1]


async def test_what_cog_answered_in_the_call_waits_for_room_in_staging(house: House, cog: CogServer) -> None:
    model = await house.rig.make_model(base_url=cog.url, adapter="cog", max_concurrency=1)
    running = await house.rig.executor()
    running.staging.refuses = True
    ids = await house.begin(model, text="once")
    await _again_until(house, model, lambda: cog.runs().count("once"))

    async def over_there() -> bool:
        return bool(await house.rig.sql("SELECT 1 FROM provider_job WHERE status = 'succeeded'"))

    await until(over_there, "its end is written")
    await asyncio.sleep(0.5)  # longer than it takes to find that there is no room
    running.staging.refuses = False
    await house.over(running, model, ids, b"\x89PNG\r\n\x1a\nonce")
    assert cog.runs().count("once") == 1


async def test_a_cancel_ends_the_prediction_that_cog_answers_in_the_call(house: House, cog: CogServer) -> None:
    model = await house.rig.make_model(base_url=cog.url, adapter="cog", max_concurrency=1, timeout_seconds=600)
    running = await house.rig.executor()
    ids = await house.begin(model, text="unwanted", seconds=60.0)
    await _again_until(house, model, lambda: cog.runs().count("unwanted"))
    running.executor.cancel(ids)
    await house.rig.ended(ids, TaskStatus.CANCELED)
    await house.rig.nothing_taken(model)
    ids = await house.begin(model, text="wanted")
    await _again_until(house, model, lambda: cog.runs().count("wanted"))
    await house.over(running, model, ids, b"\x89PNG\r\n\x1a\nwanted")


async def test_cog_is_told_to_end_a_prediction_that_nobody_knows_to_run(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose id is our key: the place of the model is free again, and so is Cog."""
    monkeypatch.setattr("services.executor.jobs.submission._CALLBACK_SECONDS", 0.5)
    async with cog_provider() as cog:
        cog.faults.append("lost")
        running = await house.rig.executor(callback_url=lambda _: lambda key, seconds: f"http://127.0.0.1:9/{key}")
        model = await house.rig.make_model(
            base_url=cog.url, adapter="cog", adapter_config='{"answer": "callback"}', max_concurrency=1
        )
        ids = await house.begin(model, text="lost")
        await house.rig.ended(ids, TaskStatus.FAILED)
        (row,) = await house.rig.sql("SELECT error_code FROM dead_task")
        assert row["error_code"] == "submit_unknown"
        await until(lambda: cog.calls["cancel"] == 1, "Cog is told")
        assert cog.running == {}
        await house.rig.nothing_taken(model)
        await running.stop()


async def test_cog_calls_back_through_the_api(house: House, cog: CogServer) -> None:
    ring = settings(house.rig.database_url, house.rig.redis_url).secret_keys.get_secret_value()
    tokens = CallbackTokens(KeyRing(ring))
    async with running_api(house.rig.database_url, house.rig.redis_url) as api:
        running = await house.rig.executor(
            callback_url=lambda _: lambda key, seconds: f"{api.url}/v1/callbacks/{tokens.token(key, seconds)}"
        )
        model = await house.rig.make_model(
            base_url=cog.url, adapter="cog", adapter_config='{"answer": "callback", "progress": true}', poll_seconds=60
        )
        ids = await house.begin(model, text="called back", seconds=1.5)
        await _again_until(house, model, lambda: cog.runs().count("called back"))

        async def half_way() -> bool:
            (row,) = await house.rig.sql("SELECT unit_progress FROM task_face")
            return row["unit_progress"] == 50.0

        await until(half_way, "its progress is shown", 10)
        await house.over(running, model, ids, b"\x89PNG\r\n\x1a\ncalled back")
    assert cog.runs().count("called back") == 1


async def _again_until(house: House, model: Model, happened: Any) -> None:
    """Dispatch what came back from a full provider, as janitor and dispatcher do, until it has happened."""

    async def dispatched() -> bool:
        if happened():
            return True
        await house.rig.sql("UPDATE dispatch SET state = 0, due_at = NULL WHERE state = 2 AND due_at <= now()")
        await house.rig.dispatch(model)
        return bool(happened())

    await until(dispatched, "it is taken", 20)
