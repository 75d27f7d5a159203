"""Durations in buckets: percentiles of merged histograms are those of all durations, within the stated error."""

from __future__ import annotations

from math import ceil
from random import Random

import pytest

from libs.common.domain.buckets import LAST, WORST_ERROR, bucket_of, merged, percentile, seconds_of


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_percentiles_of_merged_minutes_are_those_of_all_durations_within_the_stated_error(share: float) -> None:
    rng = Random(7)
    minutes = [[rng.lognormvariate(mu, 1.2) for _ in range(400)] for mu in (-3.0, 0.0, 2.5)]
    histograms = [[(bucket_of(seconds), 1) for seconds in minute] for minute in minutes]
    everything = sorted(seconds for minute in minutes for seconds in minute)
    true = everything[ceil(share * len(everything)) - 1]
    told = percentile(merged(histograms), share)
    assert told is not None
    assert abs(told / true - 1) <= WORST_ERROR + 1e-9


def test_what_is_told_of_a_bucket_lies_in_it() -> None:
    assert all(bucket_of(seconds_of(bucket)) == bucket for bucket in range(LAST + 1))


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(-1.0, 0), (0.0, 0), (0.001, 0), (0.0011, 1), (90_000.0, 106), (1e9, LAST)]
)
def test_every_duration_has_a_bucket(seconds: float, bucket: int) -> None:
    assert bucket_of(seconds) == bucket


def test_nothing_has_no_percentile() -> None:
    assert percentile(merged([]), 0.5) is None
