"""A complete consumer of completion events, with FastStream.

    EVENTS_BOOTSTRAP=127.0.0.1:9092 python examples/consume_events.py

It shows the four things that every consumer of these events needs:

1. **A group of its own and manual acknowledgement**: the position moves on only after the work is done, so an event is
   never lost, and may come again after a crash.
2. **Repeats are dropped by `ce_id`.** The same event may be delivered twice; its id is the same each time. Here the ids
   are remembered in a SQLite file in the same transaction as the work itself. Use your own database the same way.
3. **It takes the KafkaMessage and decodes itself.** If a handler asks for a decoded body, a record that cannot be
   decoded never reaches it, and the next acknowledgement moves past it. The same happens to a record with headers that
   are no UTF-8: the framework's parser fails before any handler, so `parse` drops such headers first. Here such records
   are kept aside; the partition goes on.
4. **What fails for a reason outside is not acknowledged** (`nack`): the partition is read again from there.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker, KafkaMessage

logger = logging.getLogger("consume_events")

TOPIC = os.environ.get("EVENTS_TOPIC", "sluiceway.task.events")
GROUP = os.environ.get("EVENTS_GROUP", "my-service")
BOOTSTRAP = os.environ.get("EVENTS_BOOTSTRAP", "127.0.0.1:9092")

store = sqlite3.connect(os.environ.get("EVENTS_STORE", "events.sqlite"))
store.executescript(
    """
    CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY, at TEXT DEFAULT CURRENT_TIMESTAMP);
    CREATE TABLE IF NOT EXISTS result (task TEXT PRIMARY KEY, version INTEGER, status TEXT, file TEXT, error TEXT);
    CREATE TABLE IF NOT EXISTS aside (topic TEXT, part INTEGER, position INTEGER, value BLOB, cause TEXT,
                                      PRIMARY KEY (topic, part, position));
    """
)

broker = KafkaBroker(BOOTSTRAP)
app = FastStream(broker)


class NotAnEvent(ValueError):
    """A record on the topic that this consumer cannot read."""


async def parse(record: Any, parse_as_usual: Callable[[Any], Awaitable[KafkaMessage]]) -> KafkaMessage:
    """Let every record reach the handler."""
    return await parse_as_usual(replace(record, headers=[header for header in record.headers if is_text(header[1])]))


def is_text(value: bytes | None) -> bool:
    """Whether the framework can decode a header's value."""
    try:
        return value is not None and value.decode() is not None
    except UnicodeDecodeError:
        return False


@broker.subscriber(
    TOPIC,
    parser=parse,
    group_id=GROUP,
    ack_policy=AckPolicy.MANUAL,
    auto_offset_reset="earliest",  # a new group reads everything that the topic still holds
    session_timeout_ms=6_000,
    heartbeat_interval_ms=1_000,
)
async def on_event(message: KafkaMessage) -> None:
    """Take one event in, once."""
    record: Any = message.raw_message
    try:
        with store:  # one transaction: the work and the memory of it, or neither
            take_in(record)
    except NotAnEvent as cause:
        with store:
            store.execute(
                "INSERT OR IGNORE INTO aside VALUES (?, ?, ?, ?, ?)",
                (record.topic, record.partition, record.offset, record.value, str(cause)),
            )
        logger.warning("kept aside: partition %s, offset %s: %s", record.partition, record.offset, cause)
    except Exception:
        logger.exception("will be tried again")
        await message.nack()
        return
    await message.ack()


def take_in(record: Any) -> None:
    """The work: here, the newest result of each task in a table. Replace it with yours."""
    headers = {name: value.decode() for name, value in record.headers}
    event_id, event_type = headers.get("ce_id"), headers.get("ce_type", "")
    if not event_id or not event_type.startswith("sluiceway.task."):
        raise NotAnEvent("no CloudEvents headers of a task event")
    try:
        data = json.loads(record.value)
        version = int(headers["ce_sequence"])
        row = (data["taskId"], version, data["status"], data.get("ossFile"), data.get("errorCode"))
    except (TypeError, KeyError, ValueError) as error:
        raise NotAnEvent(f"cannot be read: {error!r}") from error
    if not store.execute("INSERT OR IGNORE INTO seen (id) VALUES (?)", (event_id,)).rowcount:
        return  # a repeat
    # A task that was replayed has several events: the greater version is the newer one, whatever comes first.
    store.execute(
        "INSERT INTO result VALUES (?, ?, ?, ?, ?) ON CONFLICT (task) DO UPDATE SET version = excluded.version,"
        " status = excluded.status, file = excluded.file, error = excluded.error WHERE version < excluded.version",
        row,
    )
    logger.info("%s: task %s is %s", event_id, row[0], row[2])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(app.run())
