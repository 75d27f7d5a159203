"""What a dispatcher knows of the models, whatever happened between two looks at them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from random import Random

import pytest

from services.dispatcher.lanes import LaneBook
from services.dispatcher.roads import Roads
from services.dispatcher.topic_keeper import TopicKeeper
from tests.support.dispatcher_fakes import FakeTopics
from tests.support.queue_desk import QueueDesk, open_desk
from tests.support.waiting import until


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[QueueDesk]:
    async with open_desk(database_url) as desk:
        yield desk


class HandClock:
    """Seconds that only a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def roads_of(desk: QueueDesk, book: LaneBook, clock: HandClock) -> Roads:
    return Roads(desk.queue, book, TopicKeeper(FakeTopics(), Random(1)), topic_prefix="p", clock=clock)


async def test_a_model_that_came_while_the_dispatcher_was_frozen_is_known_with_the_next_look(desk: QueueDesk) -> None:
    book, clock = LaneBook(), HandClock()
    roads = roads_of(desk, book, clock)
    before = await desk.lane()
    await desk.sql("UPDATE model SET updated_at = updated_at - interval '60 seconds'")
    await roads.look()
    assert book.info(before) is not None
    clock.now += 60
    meanwhile = await desk.lane()
    await desk.sql(
        "UPDATE model SET updated_at = now() - interval '30 seconds' WHERE id = $1", desk.lanes[meanwhile].id
    )
    await roads.look()
    assert book.info(meanwhile) is not None


async def test_models_are_read_on_after_the_databases_clock_was_set_back(desk: QueueDesk) -> None:
    book, clock = LaneBook(), HandClock()
    roads = roads_of(desk, book, clock)
    await desk.lane()
    await desk.sql("UPDATE model SET updated_at = updated_at + interval '2 hours'")
    await desk.sql("UPDATE tenant SET updated_at = updated_at + interval '2 hours'")
    await roads.look()
    await desk.sql("UPDATE model SET updated_at = now()")  # the clock that gave the time before was wrong
    await desk.sql("UPDATE tenant SET updated_at = now()")
    clock.now += 301
    await roads.look()
    new = await desk.lane()
    clock.now += 1
    await roads.look()
    assert book.info(new) is not None


async def test_a_look_that_fails_in_an_unforeseen_way_ends_no_dispatcher(desk: QueueDesk) -> None:
    """As when it starts before its database is migrated."""
    book = LaneBook()
    roads = roads_of(desk, book, HandClock())
    lane = await desk.lane()
    await desk.sql("ALTER TABLE lane RENAME TO lane_of_another_version")
    running = asyncio.create_task(roads.run())
    try:
        await asyncio.wait([running], timeout=0.3)
        assert not running.done()
        await desk.sql("ALTER TABLE lane_of_another_version RENAME TO lane")
        await until(lambda: book.info(lane))
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_what_an_older_state_says_of_models_holds_at_once(desk: QueueDesk) -> None:
    """Lost changes, deletions and models: their messages would go where nobody reads for five minutes."""
    book, clock = LaneBook(), HandClock()
    roads = roads_of(desk, book, clock)
    renamed, deleted, lost = [await desk.lane() for _ in range(3)]
    model = desk.lanes[renamed]
    await desk.sql("UPDATE model SET updated_at = now() - interval '60 seconds'")
    await desk.sql("UPDATE tenant SET updated_at = now() - interval '60 seconds'")
    await desk.sql("UPDATE model SET name = 'later', updated_at = now() WHERE id = $1", model.id)
    await desk.sql("UPDATE lane SET closed = true WHERE id = $1", deleted)
    await roads.look()
    await desk.sql(
        "UPDATE model SET name = $2, updated_at = now() - interval '60 seconds' WHERE id = $1", model.id, model.name
    )
    await desk.sql("UPDATE lane SET closed = false WHERE id = $1", deleted)
    await desk.sql("DELETE FROM lane WHERE id = $1", lost)
    desk.queue.server_began = elsewhere  # type: ignore[method-assign]
    clock.now += 1
    await roads.look()
    told = book.info(renamed)
    assert told is not None
    assert told.model_name == model.name
    assert book.info(deleted) is not None
    assert book.info(lost) is None


async def elsewhere() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)
