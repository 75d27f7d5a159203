"""Parts of files: how they are asked for, and which bytes they are."""

from __future__ import annotations

import pytest

from libs.common.ports_results import WantedPart
from services.api.ranges import wanted_part


@pytest.mark.parametrize(
    ("header", "size", "part"),
    [
        ("bytes=0-", 10, range(10)),
        ("bytes=0-1", 10, range(2)),
        ("Bytes= 3-99 ", 10, range(3, 10)),
        ("bytes=9-9", 10, range(9, 10)),
        ("bytes=-4", 10, range(6, 10)),
        ("bytes=-40", 10, range(10)),
        ("bytes=10-", 10, range(0)),
        ("bytes=10-12", 10, range(0)),
        ("bytes=-0", 10, range(0)),
        ("bytes=0-", 0, range(0)),
        (f"bytes=0-{10**17}", 10, range(10)),
    ],
)
def test_a_part_is_within_the_file(header: str, size: int, part: range) -> None:
    wanted = wanted_part({"range": header})
    assert wanted is not None
    found = wanted.of(size)
    assert list(found) == list(part)


@pytest.mark.parametrize(
    "header",
    [
        "", "bytes=", "bytes=-", "bytes=5-2", "bytes=0-1,3-4", "items=0-1", "bytes=a-b", "bytes=0x1-2", "bytes=\u0661-",
        f"bytes={10**30}-",
    ],
)  # fmt: skip
def test_what_is_no_part_is_the_whole(header: str) -> None:
    assert wanted_part({"range": header}) is None


def test_a_part_may_be_wanted_of_a_known_file_alone() -> None:
    assert wanted_part({"range": "bytes=0-1"}) == WantedPart(0, 1)
    assert wanted_part({"range": "bytes=0-1", "if-range": '"a"'}) == WantedPart(0, 1, '"a"')
