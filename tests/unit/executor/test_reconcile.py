"""What a look at all that an executor runs costs."""

from __future__ import annotations

import time
from typing import Any, cast
from uuid import UUID, uuid4

from libs.common.ports_attempts import Attempts, NamedRow
from services.executor.admission.waiting_room import WaitingRoom
from services.executor.reconcile import Reconcile
from services.executor.runs import Runs


class Full:
    """Runs as much as an executor may."""

    def __init__(self) -> None:
        self.all = {uuid4(): None for _ in range(20_000)}

    def tokens(self) -> set[UUID]:
        return set(self.all)

    async def named(self) -> list[NamedRow]:
        return [NamedRow(number, 1, token) for number, token in enumerate(self.all)]


async def test_a_full_executor_stands_still_for_no_look() -> None:
    full: Any = Full()
    reconcile = Reconcile(cast(Attempts, full), cast(Runs, full), WaitingRoom())
    began = time.monotonic()
    assert await reconcile.look() == 0
    assert time.monotonic() - began < 1
