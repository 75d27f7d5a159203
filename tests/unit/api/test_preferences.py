"""What callers would like is heard in every form of RFC 7240, and within what proxies bear."""

from __future__ import annotations

import pytest

from services.api.preferences import wait_seconds


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        (["wait=10"], 10.0),
        (['respond-async, Wait = "7"'], 7.0),
        (["respond-async", "wait=3; x=y"], 3.0),
        (["await=10", "wait=soon", "wait"], None),
        ([], None),
    ],
)
def test_every_form_is_heard(prefer: list[str], seconds: float | None) -> None:
    assert wait_seconds(prefer) == seconds


@pytest.mark.parametrize("asked", [60, 600])
def test_nobody_waits_so_long_that_a_proxy_answers_in_our_place(asked: int) -> None:
    given = wait_seconds([f"wait={asked}"])
    assert given is not None
    assert 30 < given < 60 - 4, "nginx and AWS give up after 60 s"
