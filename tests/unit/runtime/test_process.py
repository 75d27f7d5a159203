"""A process ends as it is asked to: real processes, real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

SCRIPT = """
import asyncio, sys
from contextlib import asynccontextmanager
from datetime import timedelta
from libs.common.runtime.health import Health
from libs.common.runtime.logging import configure_logging, get_logger
from libs.common.runtime.process import Address, serve

log = get_logger()
behaviour = sys.argv[1]


class Example:
    def __init__(self):
        self.stopped = asyncio.Event()

    def stop(self):
        log.info("example.stop")
        self.stopped.set()

    async def run(self):
        if behaviour == "returns":
            return
        if behaviour == "raises":
            raise ValueError("password=hidden")
        if behaviour == "cancels-itself":
            raise asyncio.CancelledError
        try:
            await self.stopped.wait()
            if behaviour == "fails-late":
                raise ValueError("late")
            if behaviour == "slow":
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.info("example.cancelled")
            raise
        log.info("example.drained")


@asynccontextmanager
async def example():
    if behaviour == "cannot-open":
        raise ConnectionError("no database")
    if behaviour == "opens-for-ever":
        log.info("example.opening")
        await asyncio.Event().wait()
    try:
        yield Example()
    finally:
        await asyncio.sleep(0)
        log.info("example.closed")


configure_logging("example", "INFO", "json")
health = Health("example")
code = serve(example(), drain=timedelta(seconds=float(sys.argv[2])), health=health, probes=Address("127.0.0.1", 0))
log.info("example.exit", code=code)
sys.exit(code)
"""


class Child:
    """An example process; `seen` holds the log lines read so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.seen: list[dict[str, Any]] = []

    def until(self, event: str) -> dict[str, Any]:
        assert self.process.stderr is not None
        for text in self.process.stderr:
            line = json.loads(text)
            self.seen.append(line)
            if line["event"] == event:
                return dict(line)
        raise AssertionError(f"no {event} in {self.seen}")

    def ends(self) -> tuple[int, list[str]]:
        """The exit code, and the events in order."""
        _, rest = self.process.communicate(timeout=20)
        self.seen.extend(json.loads(text) for text in rest.splitlines())
        return self.process.returncode, [line["event"] for line in self.seen]


@contextmanager
def example(behaviour: str, *, drain: float = 20, env: dict[str, str] | None = None) -> Iterator[Child]:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT, behaviour, str(drain)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | (env or {}),
    )
    try:
        yield Child(process)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("wish", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains_and_closes(wish: signal.Signals) -> None:
    with example("works") as child:
        child.until("process.started")
        child.process.send_signal(wish)
        code, events = child.ends()
    assert code == 0
    assert events == [
        "probes.listening", "process.started", "process.asked_to_stop", "example.stop", "example.drained",
        "example.closed", "process.stopped", "example.exit",
    ]  # fmt: skip


def test_work_that_outlasts_the_drain_is_cancelled() -> None:
    with example("slow", drain=0.05) as child:
        child.until("process.started")
        child.process.send_signal(signal.SIGTERM)
        code, events = child.ends()
    assert code == 0
    assert events[-6:] == [
        "example.stop", "process.work_cut_off", "example.cancelled", "example.closed", "process.stopped",
        "example.exit",
    ]  # fmt: skip


def test_a_second_signal_cancels_at_once() -> None:
    with example("slow") as child:
        child.until("process.started")
        child.process.send_signal(signal.SIGTERM)
        child.until("example.stop")
        child.process.send_signal(signal.SIGINT)
        code, events = child.ends()
    assert code == 0
    assert events[-5:] == [
        "process.work_cut_off", "example.cancelled", "example.closed", "process.cut_off", "example.exit",
    ]  # fmt: skip


def test_a_signal_before_the_resources_are_open_ends_it() -> None:
    with example("opens-for-ever") as child:
        child.until("example.opening")
        child.process.send_signal(signal.SIGTERM)
        code, events = child.ends()
    assert code == 0
    assert "process.started" not in events


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [("raises", "ValueError"), ("cannot-open", "ConnectionError"), ("cancels-itself", "RuntimeError")],
)
def test_a_failure_is_logged_and_is_the_exit_code(behaviour: str, error: str) -> None:
    with example(behaviour) as child:
        failed = child.until("process.failed")
        code, events = child.ends()
    assert code == 1
    assert failed["error"] == error
    assert "hidden" not in failed["exception"]
    assert ("example.closed" in events) == (behaviour != "cannot-open")


def test_a_failure_while_draining_counts_too() -> None:
    with example("fails-late") as child:
        child.until("process.started")
        child.process.send_signal(signal.SIGTERM)
        code, events = child.ends()
    assert code == 1
    assert "process.failed" in events


def test_a_service_may_end_by_itself() -> None:
    with example("returns") as child:
        assert child.ends()[0] == 0


def test_probes_answer_from_before_the_start_until_the_end() -> None:
    with example("opens-for-ever") as child:
        address = f"http://127.0.0.1:{child.until('probes.listening')['port']}"
        assert httpx.get(f"{address}/livez", trust_env=False).status_code == 200
        assert httpx.get(f"{address}/startupz", trust_env=False).status_code == 503
    with example("slow") as child:
        address = f"http://127.0.0.1:{child.until('probes.listening')['port']}"
        child.until("process.started")
        assert httpx.get(f"{address}/readyz", trust_env=False).status_code == 200
        assert 'role="example"' in httpx.get(f"{address}/metrics", trust_env=False).text
        child.process.send_signal(signal.SIGTERM)
        child.until("example.stop")
        assert httpx.get(f"{address}/readyz", trust_env=False).json()["checks"]["draining"] == "draining"


def test_it_ends_with_its_parent() -> None:
    parent_script = """
import os, subprocess, sys, time
child = subprocess.Popen(
    [sys.executable, *sys.argv[1:]], env=os.environ | {"SLUICEWAY_PARENT_PID": str(os.getpid())}
)
time.sleep(60)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", parent_script, "-c", SCRIPT, "works", "20"], stderr=subprocess.PIPE, text=True
    )
    child = Child(parent)
    orphan = None
    try:
        orphan = child.until("process.started")["pid"]
        parent.kill()
        assert child.until("process.asked_to_stop")["signal"] == "SIGTERM"
        assert child.until("example.exit")["code"] == 0
        orphan = None
    finally:
        parent.kill()
        if orphan is not None:
            os.kill(orphan, signal.SIGKILL)
        parent.communicate()


def test_it_does_not_begin_without_its_parent() -> None:
    began = time.monotonic()
    with example("works", env={"SLUICEWAY_PARENT_PID": str(os.getppid())}) as child:
        assert child.process.stderr is not None
        assert "is gone" in child.process.stderr.read()
        assert child.process.wait(20) == 1
    assert time.monotonic() - began < 20
