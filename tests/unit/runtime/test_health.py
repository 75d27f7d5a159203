"""Probes tell the truth, quickly, and never more than they should."""

from __future__ import annotations

import asyncio
import gc

import httpx
import orjson
import pytest

from libs.common.runtime import metrics
from libs.common.runtime.health import Health
from libs.common.runtime.probe_server import open_probe_server
from tests.support.waiting import until


class HandMovedClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Dependency:
    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None

    async def __call__(self) -> None:
        self.asked += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error


@pytest.fixture
def clock() -> HandMovedClock:
    return HandMovedClock()


@pytest.fixture
def health(clock: HandMovedClock) -> Health:
    return Health("executor", clock)


async def verdicts(health: Health, path: str = "/readyz") -> tuple[int, dict[str, str]]:
    answer = await health.probe(path)
    return answer.status, orjson.loads(answer.body)["checks"]


async def test_ready_needs_start_and_every_dependency_and_no_drain(health: Health, clock: HandMovedClock) -> None:
    dependency = Dependency()
    health.need("postgres", dependency)
    assert await verdicts(health) == (503, {"started": "starting", "postgres": "ok"})
    assert (await health.probe("/startupz")).status == 503
    health.mark_started()
    assert await verdicts(health) == (200, {"started": "ok", "postgres": "ok"})
    assert (await health.probe("/startupz")).status == 200
    dependency.error = ConnectionError("host db.internal, user admin")
    clock.now += 1
    assert await verdicts(health) == (503, {"started": "ok", "postgres": "ConnectionError"})
    dependency.error = None
    clock.now += 1
    assert (await health.probe("/readyz")).status == 200
    health.mark_draining()
    assert await verdicts(health) == (503, {"started": "ok", "draining": "draining", "postgres": "ok"})
    assert (await health.probe("/livez")).status == 200


async def test_dependencies_are_asked_at_most_once_a_second(health: Health, clock: HandMovedClock) -> None:
    dependency = Dependency()
    health.need("redis", dependency)
    await asyncio.gather(*[health.ready() for _ in range(20)])
    clock.now += 0.9
    await health.ready()
    assert dependency.asked == 1
    clock.now += 0.1
    await health.ready()
    assert dependency.asked == 2


async def test_a_slow_dependency_costs_a_second_and_is_not_waited_for(
    health: Health, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("libs.common.runtime.health._BUDGET_SECONDS", 0.02)
    released = asyncio.Event()

    async def stubborn() -> None:
        try:
            await released.wait()
        except asyncio.CancelledError:
            await released.wait()
            raise ConnectionError from None

    health.need("kafka", stubborn)
    health.need("postgres", Dependency())
    health.mark_started()
    async with asyncio.timeout(1):
        assert await verdicts(health) == (503, {"started": "ok", "kafka": "timeout", "postgres": "ok"})
    released.set()
    await until(lambda: len(asyncio.all_tasks()) == 1)
    gc.collect()
    assert caplog.records == []  # asyncio complains there about errors that nobody looked at


async def test_many_who_ask_while_a_dependency_is_silent_share_one_look(
    health: Health, clock: HandMovedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libs.common.runtime.health._BUDGET_SECONDS", 0.02)
    asked = 0

    async def silent() -> None:
        nonlocal asked
        asked += 1
        clock.now += 1.0  # the look takes its whole time
        await asyncio.Event().wait()

    health.need("redis", silent)
    health.mark_started()
    answers = await asyncio.gather(*[health.ready() for _ in range(5)])
    assert [answer["redis"] for answer in answers] == ["timeout"] * 5
    assert asked == 1


async def test_a_check_that_fails_before_its_first_await_is_a_verdict_too(health: Health) -> None:
    def broken() -> asyncio.Future[None]:
        raise KeyError("secret")

    health.need("kafka", broken)
    assert (await health.ready())["kafka"] == "KeyError"


async def test_live_while_the_loop_and_what_must_turn_turn(health: Health, clock: HandMovedClock) -> None:
    reading = True
    health.must_turn("reader", lambda: reading)
    assert await verdicts(health, "/livez") == (200, {"loop": "ok", "reader": "ok"})
    reading = False
    assert await verdicts(health, "/livez") == (503, {"loop": "ok", "reader": "stuck"})
    reading = True
    clock.now += 10
    assert await verdicts(health, "/livez") == (503, {"loop": "stuck", "reader": "ok"})


async def test_the_watchdog_keeps_it_alive(
    health: Health, clock: HandMovedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libs.common.runtime.health._TICK_SECONDS", 0.0)
    clock.now += 10
    watching = asyncio.create_task(health.watch_loop())
    await until(lambda: health.live()["loop"] == "ok")
    watching.cancel()


async def test_the_metrics_learn_of_a_lost_dependency_also_where_nobody_asks_for_readiness(
    health: Health, clock: HandMovedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libs.common.runtime.health._TICK_SECONDS", 0.0)
    dependency = Dependency()
    health.need("unasked", dependency)
    health.mark_started()
    up = metrics.gauge("sluiceway_dependency_up").labels(dependency="unasked")
    watching = asyncio.create_task(health.watch_loop())
    await until(lambda: up._value.get() == 1)
    dependency.error = ConnectionError("gone")
    clock.now += 10
    await until(lambda: up._value.get() == 0)
    watching.cancel()


async def test_probes_and_metrics_over_http(health: Health) -> None:
    health.mark_started()
    async with (
        open_probe_server(health, "127.0.0.1", 0) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=False) as client,
    ):
        for path in ("/livez", "/readyz?verbose=1", "/startupz"):
            assert (await client.get(path)).json()["status"] == "ok"
        scraped = await client.get("/metrics")
        assert scraped.headers["content-type"].startswith("text/plain")
        assert "process_cpu_seconds_total" in scraped.text
        head = await client.head("/livez")
        assert (head.status_code, head.content) == (200, b"")
        assert (await client.get("/secret")).status_code == 404
        assert (await client.post("/livez")).status_code == 405


@pytest.mark.parametrize("request_bytes", [b"", b"\r\n", b"GET", b"\xff\x00\r\n\r\n", b"A" * 100_000])
async def test_bad_clients_are_dropped_and_the_next_one_is_served(
    health: Health, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_probe_server(health, "127.0.0.1", 0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes)
        writer.write_eof()
        try:
            async with asyncio.timeout(5):
                answer = await reader.read()
        except ConnectionResetError:
            answer = b""
        assert answer == b"" or answer.startswith(b"HTTP/1.1 405")
        writer.close()
        async with httpx.AsyncClient(trust_env=False, verify=False) as client:
            assert (await client.get(f"http://127.0.0.1:{port}/livez")).status_code == 200
    assert not [record for record in caplog.records if record.name == "asyncio"]
