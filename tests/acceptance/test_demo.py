"""The demo as a newcomer runs it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

#: What `make demo` may take, of which it is killed here: the promise of the README.
LIMIT_SECONDS = 90


@pytest.mark.timeout(180)
async def test_the_demo_shows_every_task_with_its_file_and_event_and_leaves_nothing_behind(tmp_path: Path) -> None:
    # The shell of somebody who operates a real one: none of that is the demo's.
    real = {"DATABASE_URL": "postgresql://x@127.0.0.1:9/x", "KAFKA_BOOTSTRAP": "127.0.0.1:9", "TOPIC_PREFIX": "real"}
    shell = {f"SLUICEWAY_{name}": value for name, value in real.items()} | {"HTTP_PROXY": "http://127.0.0.1:9"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli", "demo", "--tasks", "2", "--keep", str(tmp_path),
        env={**os.environ, **shell}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            out, errors = await process.communicate()
    except TimeoutError:
        process.send_signal(signal.SIGINT)
        out, errors = await process.communicate()
        pytest.fail(f"not done within {LIMIT_SECONDS} s: {(out + errors).decode()[-3_000:]}")
    assert process.returncode == 0, (out + errors).decode()[-3_000:]
    assert "8 tasks succeeded, 8 files open, 8 events arrived" in out.decode()
    assert re.search(r"all lie in \S+/objects until the demo ends", out.decode())
    kept = [file for file in (tmp_path / "objects").rglob("*") if file.is_file()]
    assert sorted(file.suffix for file in kept) == [".png"] * 4 + [".wav"] * 4


async def demo_that_said(words: str) -> tuple[asyncio.subprocess.Process, str]:
    """A demo that goes on behind a line with these words, and what it has said so far."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli", "demo", "--tasks", "200", env={**os.environ, "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    lines = ""
    async with asyncio.timeout(LIMIT_SECONDS):
        while words not in lines:
            line = (await process.stdout.readline()).decode()
            assert line, (await process.communicate())[1].decode()
            lines += line
    return process, lines


def port_of(lines: str) -> int:
    """Where its API listens."""
    address = re.search(r"API at http://127.0.0.1:([0-9]+)", lines)
    assert address is not None
    return int(address[1])


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_a_demo_that_is_told_to_end_leaves_nothing_behind() -> None:
    process, lines = await demo_that_said("API at")
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(LIMIT_SECONDS):
        _, errors = await process.communicate()
    assert (process.returncode, b"Traceback" in errors) == (130, False), errors.decode()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port_of(lines))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("wish", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [1.0, 2.5])
async def test_a_demo_that_is_ended_while_it_starts_leaves_nothing_behind(
    wish: signal.Signals, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = uuid4().hex
    monkeypatch.setenv("MARK_OF_THIS_TEST", mark)
    process, _ = await demo_that_said("starting PostgreSQL")
    await asyncio.sleep(seconds)  # how far it comes differs: whenever it is, nothing stays
    process.send_signal(wish)
    async with asyncio.timeout(LIMIT_SECONDS):
        _, errors = await process.communicate()
    assert (process.returncode, b"Traceback" in errors) == (130, False), errors.decode()
    assert marked(mark) == []


@pytest.mark.timeout(180)
@pytest.mark.parametrize("words", ["starting PostgreSQL", "handing in tasks"])
async def test_the_stack_of_a_demo_that_is_killed_ends_by_itself(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = uuid4().hex
    monkeypatch.setenv("MARK_OF_THIS_TEST", mark)
    process, _ = await demo_that_said(words)
    folder = await folder_of(mark)
    process.kill()
    await process.wait()
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            while marked(mark):
                await asyncio.sleep(0.1)
    finally:
        shutil.rmtree(folder)


async def folder_of(mark: str) -> Path:
    """Where a demo of this mark has its files."""
    while True:
        for arguments in marked(mark):
            if "--data" in arguments:
                return Path(arguments[arguments.index("--data") + 1]).parent
        await asyncio.sleep(0.1)


def marked(mark: str) -> list[list[str]]:
    """What runs with this mark in its environment, which processes hand on."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("MARK_OF_THIS_TEST") == mark:
                found.append(process.cmdline())
    return found


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_a_demo_that_fails_names_the_part_and_keeps_its_log() -> None:
    process, lines = await demo_that_said("handing in tasks")
    listening = {one.laddr.port: one.pid for one in psutil.net_connections("tcp4") if one.status == "LISTEN"}
    os.kill(listening[port_of(lines)], signal.SIGKILL)
    async with asyncio.timeout(LIMIT_SECONDS):
        _, errors = await process.communicate()
    said = errors.decode()
    assert (process.returncode, "Traceback" in said) == (1, False), said
    assert re.search(r"demo failed: (handing in|watching the) tasks: \w+: .*; see api-1.log", said), said
    logs = re.search(r"logs are in (\S+)", said)
    assert logs is not None
    assert "api.listening" in (Path(logs[1]) / "api-1.log").read_text()
    shutil.rmtree(logs[1])
