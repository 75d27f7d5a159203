"""Pools whose threads run from the beginning."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from libs.common.adapters.disk_sync import DiskSync
from libs.common.adapters.staging import Staging
from libs.common.runtime.threads import open_pool
from libs.common.runtime.turns import Turns


def _refuse(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_all_threads_run_when_a_pool_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of threads that was met later failed the work at hand: calls of models, outputs and all."""
    pool = open_pool(3, "early")
    monkeypatch.setattr(threading.Thread, "start", _refuse)
    assert [pool.submit(int, "7").result(5) for _ in range(9)] == [7] * 9
    pool.shutdown()


def test_a_pool_that_lacks_a_thread_is_none_and_leaves_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def two_at_most(thread: threading.Thread) -> None:
        if len(started) == 2:
            _refuse(thread)
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", two_at_most)
    with pytest.raises(RuntimeError):
        open_pool(3, "few")
    for thread in started:
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("make", "threads"),
    [
        (lambda folder: Staging(folder, "local", max_file_bytes=1, max_total_bytes=1), 5),
        (lambda _: DiskSync(), 1),
        (lambda _: Turns(), 1),
    ],
    ids=["staging", "disk sync", "turns"],
)
def test_what_works_beside_the_loop_has_its_threads_from_the_beginning(
    make: Callable[[Path], object], threads: int, tmp_path: Path
) -> None:
    before = set(threading.enumerate())
    made = make(tmp_path)
    assert len(set(threading.enumerate()) - before) == threads, made
