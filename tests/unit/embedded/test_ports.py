"""Choosing ports beside others who do the same."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator

import pytest

from libs.common.embedded import ports

_OTHER = "from libs.common.embedded.ports import free_port; print(free_port(), flush=True); input()"


@pytest.fixture
def other() -> Iterator[subprocess.Popen[str]]:
    """Another process that has chosen a port and does not listen on it yet; the port is its first line."""
    with subprocess.Popen(
        [sys.executable, "-c", _OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def test_what_another_living_process_chose_is_left_to_it(
    other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert other.stdout is not None
    taken = int(other.stdout.readline())
    free = ports.free_port()
    ports._handed_out.discard(free)
    wishes = iter([taken, free])
    monkeypatch.setattr(random, "randint", lambda _low, _high: next(wishes))
    assert ports.is_free(taken)
    assert ports.free_port() == free
    other.kill()
    other.wait()
    monkeypatch.setattr(random, "randint", lambda _low, _high: taken)
    assert ports.free_port() == taken
