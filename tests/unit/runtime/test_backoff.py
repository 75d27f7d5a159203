"""Delays double, end at their cap, and never come early."""

from __future__ import annotations

from itertools import islice
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from libs.common.runtime.backoff import delay_after, reconnect_delays


@given(st.integers(0, 10_000), st.integers())
def test_delays_are_the_contract_s_and_jitter_only_adds(failures: int, seed: int) -> None:
    stated = [1, 1, 2, 4, 8, 16, 32][min(failures, 6)]
    assert stated <= delay_after(failures, Random(seed)).total_seconds() <= stated * 1.25


def test_delays_differ_between_rows() -> None:
    rng = Random(1)
    assert len({delay_after(3, rng) for _ in range(100)}) > 90


@given(st.integers())
def test_reconnecting_slows_down_to_its_cap(seed: int) -> None:
    delays = list(islice(reconnect_delays(Random(seed), first=0.1, cap=1.0), 8))
    for stated, delay in zip([0.1, 0.2, 0.4, 0.8, 1, 1, 1, 1], delays, strict=True):
        assert stated <= delay <= stated * 1.25
