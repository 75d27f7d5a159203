"""Failpoints fail where and when they are told to, and cost nothing otherwise."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.common.runtime import failpoints
from libs.common.runtime.failpoints import FAILPOINTS, FailpointRaised, arm, failpoint

NAME = "executor/before-call"


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    arm("")


def test_names_say_the_role_and_the_step() -> None:
    for name, sentence in FAILPOINTS.items():
        assert re.fullmatch(r"(api|cli|dispatcher|executor|janitor)/[a-z]+(-[a-z]+)*", name)
        assert sentence.endswith(".")


async def test_nothing_happens_unless_armed() -> None:
    await failpoint(NAME)
    arm("executor/after-call:1:raise")
    await failpoint(NAME)
    assert failpoints.reached() == {}


async def test_raise_strikes_at_the_nth_time_only() -> None:
    arm(f"{NAME}:2:raise")
    await failpoint(NAME)
    with pytest.raises(FailpointRaised, match=NAME):
        await failpoint(NAME)
    await failpoint(NAME)
    assert failpoints.reached() == {NAME: 3}


async def test_a_star_strikes_every_time_and_several_faults_may_share_a_name() -> None:
    arm(f" {NAME}:*:delay=0 , {NAME}:2:raise, api/gate-taken:*:raise")
    await failpoint(NAME)
    for _ in range(2):
        with pytest.raises(FailpointRaised):
            await failpoint("api/gate-taken")
    with pytest.raises(FailpointRaised):
        await failpoint(NAME)


async def test_cancel_cancels_the_task_that_reaches_it() -> None:
    arm(f"{NAME}:1:cancel")
    running = asyncio.create_task(failpoint(NAME))
    with pytest.raises(asyncio.CancelledError):
        await running
    assert running.cancelled()


async def test_delay_holds_up() -> None:
    arm(f"{NAME}:1:delay=50")
    began = time.monotonic()
    await failpoint(NAME)
    assert time.monotonic() - began >= 0.049


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("executor/before-cal:1:exit", "near: executor/before-call"),
        (f"{NAME}:0:exit", "count"),
        (f"{NAME}:-1:exit", "count"),
        (f"{NAME}:x:exit", "count"),
        (f"{NAME}:1", "action"),
        (NAME, "count"),
        (f"{NAME}:1:explode", "action"),
        (f"{NAME}:1:delay", "action"),
        (f"{NAME}:1:delay=1.5", "action"),
    ],
)
def test_what_cannot_be_read_is_refused_and_changes_nothing(spec: str, says: str) -> None:
    arm("api/gate-taken:1:raise")
    with pytest.raises(ValueError, match=re.escape(says)):
        arm(spec)
    with pytest.raises(FailpointRaised):
        asyncio.run(failpoint("api/gate-taken"))


def test_exit_kills_at_once_after_writing_the_strike_down(tmp_path: Path) -> None:
    script = f"""
import asyncio
from libs.common.runtime.failpoints import arm, failpoint
arm("{NAME}:2:exit")
async def main():
    try:
        await failpoint("{NAME}")
        print("once", flush=True)
        await failpoint("{NAME}")
    finally:
        print("never")
asyncio.run(main())
"""
    log = tmp_path / "strikes"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"SLUICEWAY_FAILPOINTS_LOG": str(log)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (137, "once\n"), done.stderr
    assert re.fullmatch(rf"{NAME} 2 exit \d+\n", log.read_text())
