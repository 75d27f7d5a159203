"""One tenant's flood: the others' calls begin as if it were not there."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Sequence

import pytest

from tests.support.quick_model import quick_model
from tests.support.road import Road, until
from tests.support.stream import streaming

pytestmark = [pytest.mark.long, pytest.mark.quiet]

MODELS = 20
TASKS = 50
SLOTS = 100
EXECUTORS = 2
PER_SECOND = 20
ALONE_SECONDS = 10
MORE_SECONDS = 0.2


def p99(waits: Sequence[float]) -> float:
    """The wait that one in a hundred exceeds; `waits` are sorted."""
    return waits[int(len(waits) * 0.99)]


def answered(road: Road, tenant: int) -> int:
    """How many calls of a tenant the model has answered."""
    return sum(call.ended is not None for call in road.mock.calls if call.route.startswith(f"/{tenant}-"))


# Calls of all lengths make room all the time; equal ones make none for two seconds and then a lot.
@pytest.mark.parametrize("seconds", [lambda number: 0.2 + number / 10, lambda number: 2.0], ids=["mixed", "equal"])
@pytest.mark.timeout(240)
async def test_a_flood_over_twenty_models_delays_others_by_a_fifth_of_a_second_at_most(
    road: Road, seconds: Callable[[int], float]
) -> None:
    async with quick_model() as road.mock:
        await flood_beside_a_stream(road, seconds)


async def flood_beside_a_stream(road: Road, seconds: Callable[[int], float]) -> None:
    await road.start_all(executors=0)
    await road.start("executor", EXECUTORS, executor_slots=str(SLOTS))
    flood, other = await road.tenant(), await road.tenant()
    for number in range(MODELS):
        await road.model(flood, f"flood{number}", max_concurrency=TASKS)
    await road.model(other, "quiet", max_concurrency=TASKS)
    async with streaming(road, other, ["quiet"], PER_SECOND) as stream:
        await until(lambda: len(road.mock.calls) > 2 * PER_SECOND, 60, "the stream flows")
        gc.freeze()  # the clock is here: the collector would stop it for a quarter of a second, walking all tests
        alone = time.monotonic()
        await asyncio.sleep(ALONE_SECONDS)  # the stream by itself, to compare with
        flooded = time.monotonic()
        await asyncio.gather(
            *(road.submit(flood, TASKS, f"flood{number}", seconds=seconds(number)) for number in range(MODELS))
        )
        # The model counts: asking PostgreSQL for a thousand tasks twenty times a second would be a flood of its own.
        await until(lambda: answered(road, flood) == MODELS * TASKS, 120, "the flood is answered")
        over = time.monotonic()
        await road.ended(road.accepted)
        sent = list(stream.sent)
        await until(lambda: all(road.mock.by_name[name] for name in sent), 30, "whoever was handed in is called")
    gc.unfreeze()
    solo, beside = stream.waits(alone, flooded), stream.waits(flooded, over)
    assert len(beside) > 4 * PER_SECOND, "the flood lasted"
    assert p99(beside) <= p99(solo) + MORE_SECONDS, (solo[-5:], beside[-5:])
