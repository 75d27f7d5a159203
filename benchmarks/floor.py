"""The floor: the same stores and the same call by hand, in batches, with no feature at all. Prints its seconds.

Insert rows, produce, consume, call over HTTP, update rows, produce an event, consume it. No REST, no limits, no retry,
no fence, no staging, no upload. Run: `python -m benchmarks.floor DATABASE KAFKA MODEL_PORT TASKS`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid

import aiohttp
import asyncpg
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

_BATCH = 100
_INSERT = "INSERT INTO floor (id, payload) SELECT * FROM unnest($1::bigint[], $2::bytea[])"
_UPDATE = """UPDATE floor f SET state = 6, size = m.size FROM unnest($1::bigint[], $2::int[]) AS m(id, size)
WHERE f.id = m.id"""
_TABLE = """CREATE TABLE IF NOT EXISTS floor (id bigint PRIMARY KEY, payload bytea, state int DEFAULT 0, size int)
WITH (fillfactor = 50)"""
_PAYLOAD = b'{"text": "' + b"x" * 200 + b'"}'


async def main(database: str, bootstrap: str, port: int, tasks: int) -> None:
    """Carry `tasks` tasks; prints {"seconds"} of the stretch from the first insert to the last event."""
    pool = await asyncpg.create_pool(database, min_size=2, max_size=2)
    await pool.execute("DROP TABLE IF EXISTS floor")
    await pool.execute(_TABLE)
    road, events = (f"floor-{uuid.uuid4().hex}" for _ in range(2))
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(road, 1, 1), NewTopic(events, 1, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    working, listening = (
        AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", fetch_max_wait_ms=20)
        for topic in (road, events)
    )
    for client in (producer, working, listening):
        await client.start()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64)) as session:
        began = time.monotonic()
        creating = asyncio.create_task(_create(pool, producer, road, tasks))
        work = asyncio.create_task(_work(pool, producer, working, session, events, port, tasks))
        seen = 0
        while seen < tasks:
            seen += sum(map(len, (await listening.getmany(timeout_ms=1_000)).values()))
        sys.stdout.write(json.dumps({"seconds": time.monotonic() - began}))
        await asyncio.gather(creating, work)
    for client in (working, listening, producer):
        await client.stop()
    await pool.close()


async def _create(pool: asyncpg.Pool, producer: AIOKafkaProducer, road: str, tasks: int) -> None:
    for start in range(0, tasks, _BATCH):
        ids = list(range(start, min(start + _BATCH, tasks)))
        await pool.fetch(_INSERT, ids, [_PAYLOAD] * len(ids))
        await asyncio.gather(*[await producer.send(road, str(number).encode()) for number in ids])


async def _work(
    pool: asyncpg.Pool,
    producer: AIOKafkaProducer,
    consumer: AIOKafkaConsumer,
    session: aiohttp.ClientSession,
    events: str,
    port: int,
    tasks: int,
) -> None:
    async def call(number: int) -> tuple[int, int]:
        async with session.post(f"http://127.0.0.1:{port}/x", data=_PAYLOAD) as answer:
            return number, len(await answer.read())

    done = 0
    while done < tasks:
        batches = await consumer.getmany(timeout_ms=1_000, max_records=_BATCH)
        ids = [int(record.value) for records in batches.values() for record in records]
        ended = await asyncio.gather(*map(call, ids))
        await pool.fetch(_UPDATE, [number for number, _ in ended], [size for _, size in ended])
        await asyncio.gather(*[await producer.send(events, str(number).encode()) for number, _ in ended])
        done += len(ended)


if __name__ == "__main__":
    database, bootstrap, *numbers = sys.argv[1:]
    uvloop.run(main(database, bootstrap, *map(int, numbers)))
