"""What is noted of creates, and what becomes of it when PostgreSQL does not take all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from libs.common.domain.errors import DatabaseUnavailable
from libs.common.ports_operations import Operation, Operations
from services.api.operation_log import REQUEST_BYTES, RESPONSE_BYTES, OperationLog, Requester

ASKED = Requester(7, "shop", "127.0.0.1", b"agent", "/task/createTask", "POST", 0.0)


class Store:
    """Takes whole batches, unless a row of them is bad, or it is away."""

    def __init__(self) -> None:
        self.rows: list[Operation] = []
        self.asked = 0
        self.away_from = 1_000

    async def add_many(self, operations: Sequence[Operation]) -> None:
        self.asked += 1
        if self.asked >= self.away_from:
            raise DatabaseUnavailable("away")
        if any(row.biz_name == "bad" for row in operations):
            raise ValueError("a row that cannot be stored")
        self.rows += operations

    @property
    def names(self) -> list[str]:
        return [row.biz_name for row in self.rows]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def log(store: Store) -> OperationLog:
    return OperationLog(cast(Operations, store), is_data_error=lambda error: isinstance(error, ValueError))


def note(log: OperationLog, *names: str, **more: Any) -> None:
    for name in names:
        log.note(ASKED, **{"request": b"{}", "response": {}, "biz_name": name, **more})


async def test_a_row_that_cannot_be_stored_costs_its_neighbours_nothing(log: OperationLog, store: Store) -> None:
    note(log, "a", "b", "bad", "c", "d", "bad", "e")
    await log.close()
    assert store.names == ["a", "b", "c", "d", "e"]


async def test_what_is_written_of_a_halved_batch_is_not_written_again(log: OperationLog, store: Store) -> None:
    note(log, "a", "b", "c", "bad", "d", "e")
    store.away_from = 3  # the whole batch, its first half, and then nothing more
    with pytest.raises(DatabaseUnavailable):
        await log._flush()
    store.away_from = 1_000
    note(log, "f")
    await log.close()
    assert store.names == ["a", "b", "c", "d", "e", "f"]


async def test_little_is_kept_in_memory_of_what_strangers_send(log: OperationLog, store: Store) -> None:
    much = "x" * 1_000_000
    note(log, "", request=much.encode(), response={"message": much}, error=f"40002: {much}")
    (noted,) = log._noted
    assert len(repr(noted)) < REQUEST_BYTES + RESPONSE_BYTES + 3_000
    await log.close()
    (row,) = store.rows
    assert (row.request, row.error[:8], len(row.response)) == ("x" * REQUEST_BYTES + "...", "40002: x", RESPONSE_BYTES)


async def test_no_text_brings_what_postgresql_cannot_keep(log: OperationLog, store: Store) -> None:
    odd = "a\x00b\ud800c\u4e2d"
    asked = ASKED._replace(creator=odd, user_agent=b"a\x00\xff")
    log.note(asked, request=b"{}", response={}, biz_name=odd, model=odd, error=odd)
    await log.close()
    (row,) = store.rows
    assert [row.creator, row.biz_name, row.model, row.error] == ["ab?c\u4e2d"] * 4
    assert row.user_agent == "a\xff"
