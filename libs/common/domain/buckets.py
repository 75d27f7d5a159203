"""Durations in buckets that grow by a constant ratio, so that counts of many minutes add up to true percentiles.

Bucket 0 ends at a millisecond; each further one ends at 2 ** (1/4) = 1.19 times its predecessor's end, up to about a
day in bucket 107. What is told of a bucket is the geometric middle of its ends, which is at most 9.1 % from whatever
lies in it; durations under a millisecond are told as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import ceil, log2
from typing import Final

FIRST_SECONDS: Final = 0.001
PER_DOUBLING: Final = 4
LAST: Final = 107
#: Of what is told against what was true.
WORST_ERROR: Final = 2 ** (1 / (2 * PER_DOUBLING)) - 1


def bucket_of(seconds: float) -> int:
    """The bucket of a duration."""
    if seconds <= FIRST_SECONDS:
        return 0
    return min(ceil(log2(seconds / FIRST_SECONDS) * PER_DOUBLING), LAST)


def seconds_of(bucket: int) -> float:
    """What is told of a bucket."""
    return FIRST_SECONDS * 2 ** ((bucket - 0.5) / PER_DOUBLING) if bucket else FIRST_SECONDS


def merged(histograms: Iterable[Iterable[tuple[int, int]]]) -> dict[int, int]:
    """The sum of histograms."""
    total: Counter[int] = Counter()
    for histogram in histograms:
        for bucket, number in histogram:
            total[bucket] += number
    return total


def percentile(histogram: dict[int, int], share: float) -> float | None:
    """The duration that `share` of what is counted does not exceed; None when nothing is counted."""
    wanted = share * sum(histogram.values())
    if not wanted:
        return None
    seen = 0
    for bucket in sorted(histogram):
        seen += histogram[bucket]
        if seen >= wanted:
            break
    return seconds_of(bucket)
