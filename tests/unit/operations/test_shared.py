"""How long what many ask for is shown."""

from __future__ import annotations

import pytest

from libs.common.operations.shared import Shared


@pytest.mark.parametrize(("cost", "fresh"), [(0.01, 1.0), (0.2, 4.0), (20.0, 15.0)])
async def test_a_look_is_shown_longer_the_more_it_cost_but_not_for_minutes(cost: float, fresh: float) -> None:
    now, looks = 0.0, 0

    async def look() -> int:
        nonlocal now, looks
        now, looks = now + cost, looks + 1
        return looks

    shared = Shared(look, lambda: now)
    assert await shared.get() == 1
    now += fresh - 0.1
    assert await shared.get() == 1
    now += 0.2
    assert await shared.get() == 2
