"""Random histories of gate and permits on a real Redis, against a model of ten lines."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.common.adapters.redis import keys
from libs.common.contracts.hints import PERMIT
from libs.common.ports import PermitRequest, SlotRequest, SlotVerdict
from tests.support.redis_doors import LONG_MS, open_doors, open_ear

_fresh_lanes = count(1_000)

owners = st.sampled_from("abcdefgh")
batches = st.lists(owners, max_size=6)
claims = st.tuples(st.just("claim"), batches, st.integers(0, 4))
releases = st.tuples(st.just("release"), batches)
lapses = st.tuples(st.just("lapse"), owners)
renewals = st.tuples(st.just("renew"), batches)
restores = st.tuples(st.just("restore"), batches)
renames = st.tuples(st.just("rename"), owners, owners)

gate_histories = st.lists(st.one_of(claims, claims, releases, lapses, renewals, restores), max_size=20)
permit_histories = st.lists(st.one_of(claims, claims, releases, lapses, renames, restores), max_size=20)
one_server_for_all = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


async def test_renewing_writes_only_what_is_past_half_of_its_life(redis_url: str) -> None:
    async with open_doors(redis_url) as doors:
        requests = [SlotRequest(1, "fresh", 2, LONG_MS), SlotRequest(1, "old", 2, LONG_MS // 4)]
        await doors.gate.take_many(requests)
        before = [float(await doors.command("ZSCORE", keys.gate(1), member)) for member in ("fresh", "old")]
        await doors.gate.renew_many(1, ["fresh", "old"], LONG_MS)
        after = [float(await doors.command("ZSCORE", keys.gate(1), member)) for member in ("fresh", "old")]
        assert after[0] == before[0]
        assert after[1] >= before[1] + LONG_MS * 3 // 4


class Model:
    """What both promise: a set that never grows past the limit by a claim."""

    def __init__(self) -> None:
        self.inside: set[str] = set()

    def claim(self, owner: str, limit: int) -> SlotVerdict:
        if owner in self.inside:
            return SlotVerdict.HELD
        if len(self.inside) >= limit:
            return SlotVerdict.FULL
        self.inside.add(owner)
        return SlotVerdict.TAKEN


@given(history=gate_histories)
@one_server_for_all
def test_the_gate_does_what_the_model_does(redis_url: str, history: list[tuple[Any, ...]]) -> None:
    asyncio.run(_follow_gate(redis_url, history))


async def _follow_gate(url: str, history: list[tuple[Any, ...]]) -> None:
    lane, model = next(_fresh_lanes), Model()
    async with open_doors(url) as doors:
        for step in history:
            match step:
                case "claim", members, limit:
                    expected = [model.claim(member, limit) for member in members]
                    requests = [SlotRequest(lane, member, limit, LONG_MS) for member in members]
                    assert await doors.gate.take_many(requests) == expected
                case "release", members:
                    model.inside -= set(members)
                    await doors.gate.release_many([(lane, member) for member in members])
                case "lapse", member:
                    model.inside.discard(member)
                    await doors.lapse_slot(lane, member)
                case "renew", members:
                    await doors.gate.renew_many(lane, members, 4 * LONG_MS)
                case "restore", members:
                    model.inside |= set(members)
                    await doors.gate.restore(lane, [(member, LONG_MS) for member in members])
            assert await doors.gate.depths([lane]) == [len(model.inside)]
            assert set(await doors.gate.missing(lane, list("abcdefgh"))) == set("abcdefgh") - model.inside


@given(history=permit_histories)
@one_server_for_all
def test_the_permits_do_what_the_model_does(redis_url: str, history: list[tuple[Any, ...]]) -> None:
    asyncio.run(_follow_permits(redis_url, history))


async def _follow_permits(url: str, history: list[tuple[Any, ...]]) -> None:
    lane, model = next(_fresh_lanes), Model()
    async with open_doors(url) as doors, open_ear(doors.redis, PERMIT) as ear:
        await doors.permits.in_use([lane])  # a lane begins as if somebody had been refused before
        refused = True
        for step in history:
            woken = False
            match step:
                case "claim", tokens, limit:
                    verdicts = [model.claim(token, limit) for token in tokens]
                    requests = [PermitRequest(lane, token, limit, LONG_MS) for token in tokens]
                    expected = [verdict is not SlotVerdict.FULL for verdict in verdicts]
                    assert await doors.permits.acquire_many(requests) == expected
                    refused = refused or not all(expected)
                case "release", tokens:
                    woken = refused and bool(model.inside & set(tokens))
                    refused = refused and not woken
                    model.inside -= set(tokens)
                    await doors.permits.release_many([(lane, token) for token in tokens])
                case "lapse", token:
                    model.inside.discard(token)
                    await doors.lapse_permit(lane, token)
                    await doors.permits.acquire_many([PermitRequest(lane, token, 0, LONG_MS)])  # drops the lapsed
                    refused = True
                case "rename", old, new:
                    model.inside = model.inside - {old} | {new}
                    await doors.permits.rename_many([(lane, old, new, LONG_MS)])
                case "restore", tokens:
                    model.inside |= set(tokens)
                    await doors.permits.restore(lane, [(token, LONG_MS) for token in tokens])
            assert await doors.permits.in_use([lane]) == [len(model.inside)]
            assert await ear.heard() == ([str(lane)] if woken else [])
