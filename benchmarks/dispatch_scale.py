"""`python -m benchmarks.dispatch_scale`: what a turn costs beside a long queue, and beside a forgotten transaction."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import asyncpg
from rich.console import Console
from rich.table import Table

from benchmarks.churn import Churn, Reading, TurnQueue, forgotten_transaction, open_churn
from benchmarks.cpu import cpu_seconds
from libs.common.adapters.postgres.database import open_database
from libs.common.adapters.postgres.dispatch_queue import ask_columns
from libs.common.adapters.postgres.migrate import upgrade
from libs.common.adapters.postgres.models import PostgresModels
from libs.common.embedded.postgres import EmbeddedPostgres
from libs.common.ports_dispatch import Key, LaneAsk
from services.dispatcher.lanes import LaneBook

_TURNS = 500
_FILL = """
INSERT INTO dispatch (id, public_id, lane, state, priority, position)
SELECT g, gen_random_uuid(), $1, 0, 0, g FROM generate_series($2::bigint, $3::bigint) g
"""
_EXPLAIN = """
LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_analyze = on;
SET auto_explain.log_buffers = on; SET auto_explain.log_timing = off; SET auto_explain.log_nested_statements = on;
SET client_min_messages = log
"""
_say = Console(stderr=True).print


async def main() -> None:
    """Measure both cases on a server of its own."""
    arguments = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="sluiceway-bench-", dir="/var/tmp"))
    folder.chmod(0o711)
    server = EmbeddedPostgres(folder / "postgres")
    await server.start()
    try:
        figures: dict[str, Any] = {"lane": {}, "transaction": {}}
        for waiting in (1_000, arguments.waiting):
            _say(f"a lane with {waiting} waiting tasks")
            url = await _database(server, f"lane_{waiting}")
            figures["lane"][waiting], plan = await _long_lane(url, waiting)
        url = await _database(server, "churn")
        async with open_churn(url, model_seconds=arguments.model_seconds) as churn:
            figures["transaction"] = await _beside_a_transaction(churn, url, arguments)
    finally:
        await server.stop()
        server.remove()
        shutil.rmtree(folder, ignore_errors=True)
    _report(figures)
    if arguments.plan:
        Path(arguments.plan).write_text(plan)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dispatch_scale", description=__doc__)
    parser.add_argument("--waiting", type=int, default=1_000_000, help="tasks that wait in the long lane")
    parser.add_argument("--rate", type=int, default=2_000, help="tasks created in a second beside the transaction")
    parser.add_argument("--seconds", type=int, default=120, help="how long the transaction stays open")
    parser.add_argument(
        "--window", type=int, default=20, help="seconds over which the usual and the last cost are read"
    )
    parser.add_argument("--model-seconds", type=float, default=0.25, help="how long a task runs")
    parser.add_argument("--plan", help="write EXPLAIN of a turn beside the long lane to this file")
    parser.add_argument("--json", help="write all figures to this file")
    return parser.parse_args()


async def _database(server: EmbeddedPostgres, name: str) -> str:
    connection = await asyncpg.connect(server.address)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    url = server.database_url(name)
    await upgrade(url)
    return url


async def _long_lane(url: str, waiting: int) -> tuple[dict[str, float], str]:
    """A turn that fills an empty window of 30, over and over; as many tasks come as go."""
    beside = await asyncpg.connect(url)
    async with open_database(url, hot_connections=1) as turns, open_database(url) as rest:
        model = await PostgresModels(rest).create(
            1, "bench", {"name": "m", "base_url": "http://127.0.0.1:1", "max_concurrency": 15}
        )
        lane, newest = model.lane, waiting
        await beside.execute(_FILL, lane, 1, waiting)
        await beside.execute("VACUUM ANALYZE dispatch")
        connection = await turns.acquire()
        backend = await connection.fetchval("SELECT pg_backend_pid()")
        await turns.pool.release(connection)
        queue, book = TurnQueue(turns, rest), LaneBook()
        book.learn(await queue.lanes_changed(None))
        book.open([lane])
        acknowledged: list[int] = []
        cpu = 0.0
        for number in range(_TURNS + 20):
            if number == 20:  # the first ones read what nobody has read before
                cpu, before = cpu_seconds(backend), (queue.turns, queue.rows)
            turn = await queue.lease_due(book.take(), 500, 1, acknowledged)
            book.settle(turn)
            acknowledged = sorted({row.lease for row in turn.rows})
            await beside.execute("DELETE FROM dispatch WHERE id = ANY ($1::bigint[])", [row.id for row in turn.rows])
            await beside.execute(_FILL, lane, newest + 1, newest + len(turn.rows))
            book.work(lane, 1, Key(0, newest + 1))
            book.room(lane)
            newest += len(turn.rows)
        cpu = cpu_seconds(backend) - cpu
        plan = await _plan(turns, lane)
    await beside.close()
    done = queue.turns - before[0]
    return {"rows_per_turn": (queue.rows - before[1]) / done, "cpu_ms_per_turn": cpu / done * 1e3, **plan[0]}, plan[1]


async def _plan(turns: Any, lane: int) -> tuple[dict[str, float], str]:
    """Buffers and plan of one turn with empty cursors, rolled back."""
    connection = await turns.acquire()
    said: list[str] = []
    listener = lambda _connection, message: said.append(message.message)  # noqa: E731
    try:
        await connection.execute(_EXPLAIN)
        connection.add_log_listener(listener)
        transaction = connection.transaction()
        await transaction.start()
        beginning = Key(-(2**15), -(2**63))
        asks = ask_columns([LaneAsk(lane, 500, 0, beginning, beginning)])
        await connection.fetch(turns.statement("lease_due"), *asks, 500, 1, [])
        await transaction.rollback()
        await asyncio.sleep(0.1)  # log messages are handed on by the event loop
        connection.remove_log_listener(listener)
    finally:
        await turns.pool.release(connection)
    plans = [message for message in said if "closed" in message]
    head = next(line for line in plans[0].splitlines() if "Buffers:" in line)
    counts = [part.split("=") for part in head.split("Buffers: shared")[1].split(",")[0].split()]
    return {"buffers_per_turn": float(sum(int(n) for kind, n in counts if kind in ("hit", "read")))}, plans[0]


async def _beside_a_transaction(churn: Churn, url: str, arguments: argparse.Namespace) -> dict[str, Any]:
    await churn.prepare(lanes=20, concurrency=15, waiting=20_000)
    life = asyncio.create_task(churn.run(arguments.rate))
    try:
        _say("warming up")
        await asyncio.sleep(20)
        usual = await _over(churn, arguments.window)
        _say(f"usual: {usual}")
        stretches = []
        async with forgotten_transaction(url):
            for _ in range(arguments.seconds // arguments.window):
                stretches.append(await _over(churn, arguments.window))
                _say(f"beside the open transaction: {stretches[-1]}")
        after = await _over(churn, arguments.window)
    finally:
        life.cancel()
        await asyncio.wait([life])
    return {"usual": usual, "stretches": stretches, "after": after}


async def _over(churn: Churn, seconds: float) -> dict[str, float]:
    before: Reading = await churn.reading()
    await asyncio.sleep(seconds)
    return (await churn.reading()).since(before)


def _report(figures: dict[str, Any]) -> None:
    console = Console()
    short, long = figures["lane"].values()
    table = Table("waiting", "rows/turn", "CPU ms/turn", "buffers/turn", title="one lane", title_justify="left")
    for waiting, row in figures["lane"].items():
        table.add_row(
            str(waiting), *(f"{row[name]:.2f}" for name in ("rows_per_turn", "cpu_ms_per_turn", "buffers_per_turn"))
        )
    table.add_row("ratio", "", *(f"{long[name] / short[name]:.2f}" for name in ("cpu_ms_per_turn", "buffers_per_turn")))
    console.print(table)
    usual, stretches = figures["transaction"]["usual"], figures["transaction"]["stretches"]
    headings = (name.replace("_per_", "/").replace("cpu_ms", "CPU ms") for name in usual)
    table = Table("", *headings, title="beside a forgotten transaction", title_justify="left")
    rows = {"usual": usual, **{f"stretch {n}": each for n, each in enumerate(stretches, 1)}}
    for name, row in {**rows, "after it": figures["transaction"]["after"]}.items():
        table.add_row(name, *(f"{value:.2f}" for value in row.values()))
    table.add_row("last / usual", *(f"{stretches[-1][name] / usual[name]:.2f}" for name in usual))
    console.print(table)


if __name__ == "__main__":
    asyncio.run(main())
