"""`make bench`: one run that measures the product, the floor and the peers, and prints ratios."""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.cpu import Meter
from benchmarks.mock_model import running_model
from benchmarks.peers.run import PeerFigures, run_peer
from benchmarks.product import Load, Product, product
from libs.common.embedded.redis import EmbeddedRedis

_PEERS = ("celery", "dramatiq", "taskiq")
_NEW_FILES = 100
_SLOW_NEW_FILE_US = 60
_FORGETTING_SECONDS = 300
"""How long ext4 avoids what was deleted (measured: docs/results.md)."""
_say = Console(stderr=True).print


async def main() -> None:
    """Measure everything that the arguments ask for."""
    arguments = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="sluiceway-bench-", dir="/var/tmp"))
    folder.chmod(0o711)
    figures: dict[str, Any] = {"machine": _machine(), "tasks": arguments.tasks}
    try:
        figures["new_file_us"] = await _until_new_files_are_cheap(folder)
        async with running_model() as port:
            async with product(folder / "product", port) as running:
                loads = await _measure_product(running, arguments.tasks, arguments.seconds, figures)
                figures["floor_us"], figures["floor_per_second"] = await _floor(running, port, arguments.tasks)
            peers = [] if arguments.no_peers else await _measure_peers(folder / "peers", port, arguments.peer_tasks)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _report(loads, peers, figures)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000, help="tasks of each load on the product and the floor")
    parser.add_argument("--peer-tasks", type=int, default=3_000, help="tasks for each peer")
    parser.add_argument("--seconds", type=int, default=20, help="length of the paced load and of the idle look")
    parser.add_argument("--no-peers", action="store_true", help="leave Celery, Dramatiq and TaskIQ out")
    parser.add_argument("--json", help="write all figures to this file")
    return parser.parse_args()


async def _measure_product(running: Product, tasks: int, seconds: int, figures: dict[str, Any]) -> dict[str, Load]:
    _say("product: warming up")
    await running.load(min(2_000, tasks))
    loads = {}
    options: dict[str, Any]
    for name, options in {
        "single creates": {"tasks": tasks},
        "batch creates of 100": {"tasks": tasks, "batch": 100, "connections": 4},
        "50 tasks/s": {"tasks": 50 * seconds, "rate": 50, "connections": 16},
    }.items():
        _say(f"product: {name}")
        load = loads[name] = await running.load(**options)
        figures[name] = {
            "tasks_per_second": load.tasks / load.seconds,
            "us_per_task": load.total,
            "us_by_process": load.microseconds,
            "latency_ms": {f"p{share * 100:g}": load.percentile(share) for share in (0.5, 0.9, 0.99)},
        }
    _say(f"product: idle for {seconds} s")
    figures["idle_percent"] = await running.idle(seconds)
    figures["memory_mb"] = running.memory()
    return loads


async def _floor(running: Product, port: int, tasks: int) -> tuple[float, float]:
    _say("floor")
    pids = {name: pid for name, pid in running.pids.items() if name in ("postgres", "broker")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.floor", running.addresses["database"], running.addresses["kafka"], str(port),
        str(tasks), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    meter = Meter(pids)
    own = Meter({"floor": process.pid})
    spent = 0.0
    while process.returncode is None:
        try:
            spent = own.spent()["floor"]
        except psutil.Error:
            break
        await asyncio.sleep(0.05)
    out, _ = await process.communicate()
    seconds = json.loads(out)["seconds"]
    return (spent + sum(meter.spent().values())) / tasks * 1e6, tasks / seconds


async def _measure_peers(folder: Path, port: int, tasks: int) -> list[PeerFigures]:
    server = EmbeddedRedis(folder)
    await server.start()
    try:
        peers = []
        for name in _PEERS:
            for keeps in (False, True):
                _say(f"peer: {name}{', answers kept' if keeps else ''}")
                assert server.pid is not None
                peers.append(await run_peer(name, tasks, server.address, server.pid, port, keeps=keeps))
        return peers
    finally:
        await server.stop()


async def _until_new_files_are_cheap(folder: Path) -> float:
    """CPU of a new file, in microseconds, once the files that were deleted here before no longer count in it.

    The last run's files do: without the wait its end is measured as the executor's work of this one.
    """
    began = time.monotonic()
    while (cost := _new_file_microseconds(folder)) > _SLOW_NEW_FILE_US:
        if time.monotonic() - began > _FORGETTING_SECONDS:
            _say(f"[yellow]a new file still takes {cost:.0f} us of CPU: the executor's figures say that, too")
            break
        _say(f"a new file in {folder.parent} takes {cost:.0f} us of CPU: ext4 avoids what was just deleted, waiting")
        await asyncio.sleep(20)
    return cost


def _new_file_microseconds(folder: Path) -> float:
    """CPU of making an empty file where some were just made: the first ones after a sleep cost three times as much."""
    place = Path(tempfile.mkdtemp(prefix="new-", dir=folder))
    for half in ("warm", "measured"):
        began = time.process_time()
        for number in range(_NEW_FILES):
            (place / f"{half}-{number}").touch(exist_ok=False)
    return (time.process_time() - began) / _NEW_FILES * 1e6


def _machine() -> str:
    memory = psutil.virtual_memory().total / 2**30
    return f"{psutil.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"


def _report(loads: dict[str, Load], peers: list[PeerFigures], figures: dict[str, Any]) -> None:
    console = Console()
    console.print(f"\n{figures['machine']}; {figures['tasks']} tasks a load")
    console.print("CPU of all processes but the mock model and the client\n")
    table = Table("load", "tasks/s", "us/task", "p50 ms", "p90 ms", "p99 ms", title="product", title_justify="left")
    for name, load in loads.items():
        latencies = (f"{load.percentile(share):.1f}" for share in (0.5, 0.9, 0.99))
        table.add_row(name, f"{load.tasks / load.seconds:.0f}", f"{load.total:.0f}", *latencies)
    console.print(table)
    table = Table("process", *loads, "idle % of a core", "memory MB", title="us of CPU per task", title_justify="left")
    for process, idle in figures["idle_percent"].items():
        costs = (f"{load.microseconds[process]:.0f}" for load in loads.values())
        table.add_row(process, *costs, f"{idle:.2f}", f"{figures['memory_mb'][process]:.0f}")
    console.print(table)
    ours = loads["single creates"].total
    table = Table("system", "us/task", "tasks/s", "times the product", title="in the same run", title_justify="left")
    per_second = loads["single creates"].tasks / loads["single creates"].seconds
    rows = [
        ("sluiceway, single creates", ours, per_second),
        ("floor", figures["floor_us"], figures["floor_per_second"]),
    ]
    for name, cost, rate in [*rows, *((peer.name, peer.microseconds, peer.per_second) for peer in peers)]:
        table.add_row(name, f"{cost:.0f}", f"{rate:.0f}", f"{cost / ours:.2f}")
        figures.setdefault("ratios", {})[name] = cost / ours
    console.print(table)


if __name__ == "__main__":
    asyncio.run(main())
