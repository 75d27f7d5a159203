"""The session's servers answer."""

from __future__ import annotations

import asyncpg
import redis.asyncio as redis

from libs.common.embedded.produce import acknowledges


async def test_postgres_gives_every_test_a_database_of_its_own(postgres_server: str) -> None:
    connection = await asyncpg.connect(postgres_server)
    try:
        assert await connection.fetchval("SELECT current_setting('fsync')") == "on"
        assert await connection.fetchval("SELECT current_setting('synchronous_commit')") == "on"
    finally:
        await connection.close()


async def test_redis_starts_empty_and_never_evicts(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    try:
        assert await client.dbsize() == 0
        assert await client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    finally:
        await client.aclose()


async def test_broker_acknowledges_a_record(kafka_bootstrap: str) -> None:
    assert await acknowledges(kafka_bootstrap)
