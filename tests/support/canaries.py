"""Looks for secrets where none may be (I22): plants known values, then greps every store for them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg

from libs.common.adapters.redis.connection import RedisServer
from libs.common.ports_audit import Log

_PAGE = 1_000


@cache
def shapes(canary: str) -> tuple[bytes, ...]:
    """A value as it may have been written down: as it is, quoted, in base64, in hex."""
    clear = canary.encode()
    coded = base64.b64encode(clear).rstrip(b"=")
    # base64 of a longer text that contains it begins at one of three places
    shifted = [base64.b64encode(b"x" * lead + clear)[-(-lead * 8 // 6) + 1 :].rstrip(b"=")[:-2] for lead in (1, 2)]
    written = (clear, quote(canary, safe="").encode(), coded[:-2], *shifted, clear.hex().encode())
    return tuple(dict.fromkeys(shape for shape in written if shape))


def in_bytes(where: str, content: bytes, canaries: Iterable[str]) -> list[str]:
    """Which canaries are in there, as "where: name" lines that do not repeat the secret."""
    return [
        f"{where}: canary {canary[:4]}..." for canary in canaries if any(shape in content for shape in shapes(canary))
    ]


async def in_database(database_url: str, canaries: Sequence[str], *, except_columns: Iterable[str] = ()) -> list[str]:
    """Every row of every table, as text and as bytes; columns as "table.column" may be left out."""
    left_out, found = set(except_columns), []
    connection = await asyncpg.connect(database_url, timeout=10)
    try:
        columns: dict[str, list[str]] = {}
        for row in await connection.fetch(
            "SELECT table_name, column_name FROM information_schema.columns c JOIN information_schema.tables t"
            " USING (table_schema, table_name) WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
        ):
            if f"{row['table_name']}.{row['column_name']}" not in left_out:
                columns.setdefault(row["table_name"], []).append(row["column_name"])
        for table, names in columns.items():
            wanted = ", ".join(f'"{name}"' for name in names)
            async with connection.transaction():
                async for row in connection.cursor(f"SELECT {wanted} FROM {table}", prefetch=_PAGE):
                    for name in names:
                        found += in_bytes(f"{table}.{name}", _bytes(row[name]), canaries)
    finally:
        await connection.close()
    return found


async def in_redis(redis: RedisServer, canaries: Sequence[str]) -> list[str]:
    """Every key with its dumped value."""
    found, cursor = [], 0
    while True:
        ((cursor_text, names),) = await redis.command_many([("SCAN", cursor, "COUNT", _PAGE)])
        for name in names:
            (value,) = await redis.command_many([("DUMP", name)])
            found += in_bytes(f"redis {name.decode()}", name + b" " + (value or b""), canaries)
        cursor = int(cursor_text)
        if cursor == 0:
            return found


async def in_topics(log: Log, topics: Sequence[str], canaries: Sequence[str]) -> list[str]:
    """Every record: key, value and headers."""
    found = []
    async for batch in log.read(topics):
        for record in batch:
            headers = b" ".join(name.encode() + b"=" + value for name, value in record.headers)
            content = b" ".join((record.key or b"", record.value or b"", headers))
            found += in_bytes(f"{record.topic}/{record.partition}@{record.offset}", content, canaries)
    return found


def in_folders(folders: Iterable[Path], canaries: Sequence[str]) -> list[str]:
    """Every file below: logs, objects, staged outputs, dumps."""
    return [
        line
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        for line in in_bytes(str(path.relative_to(folder.parent)), path.read_bytes(), canaries)
    ]


def in_texts(texts: Mapping[str, str | bytes], canaries: Sequence[str]) -> list[str]:
    """Answers and metrics by name."""
    return [
        line
        for name, text in texts.items()
        for line in in_bytes(name, text.encode() if isinstance(text, str) else text, canaries)
    ]


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
