"""Many processes at the same doors: never one over the limit."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.support.redis_doors import open_doors

PROCESSES = 8
CLAIMS = 200


async def test_eight_processes_of_two_hundred_callers_get_exactly_the_limit(redis_url: str) -> None:
    async with open_crowd(redis_url) as crowd:
        answers = await order(crowd, f"claim 1 100 {CLAIMS}")
        assert sum(answer["slots"] for answer in answers) == 100
        assert sum(answer["permits"] for answer in answers) == 100
        # All found the lane unknown at the same moment: one of them rebuilt it, from an empty PostgreSQL.
        assert sum(answer["reads"] for answer in answers) == 1
        async with open_doors(redis_url) as doors:
            assert await doors.gate.depths([1]) == [100]
            assert await doors.permits.in_use([1]) == [100]

        answers = await order(crowd, "churn 2 20 60")
        assert max(answer["highest"] for answer in answers) == 20
        assert sum(answer["taken"] for answer in answers) > 20
        async with open_doors(redis_url) as doors:
            assert await doors.gate.depths([2]) == [0]


@asynccontextmanager
async def open_crowd(url: str) -> AsyncIterator[list[Process]]:
    command = (sys.executable, "-m", "tests.support.door_crowd", url)
    processes = [
        await asyncio.create_subprocess_exec(*command, f"p{number}", stdin=PIPE, stdout=PIPE, stderr=sys.stderr)
        for number in range(PROCESSES)
    ]
    try:
        for process in processes:
            assert "ready" in await answer_of(process)
        yield processes
    finally:
        for process in processes:
            process.stdin.close()  # type: ignore[union-attr]
        await asyncio.gather(*(process.wait() for process in processes))


async def order(crowd: list[Process], line: str) -> list[dict[str, Any]]:
    """Give all the same order at the same moment."""
    for process in crowd:
        process.stdin.write(f"{line}\n".encode())  # type: ignore[union-attr]
    return [await answer_of(process) for process in crowd]


async def answer_of(process: Process) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            line = await process.stdout.readline()  # type: ignore[union-attr]
            assert line, "a process of the crowd ended"
            if line.startswith(b"{"):  # anything else is a log line
                answer: dict[str, Any] = json.loads(line)
                return answer
