"""Records that a broker takes and aiokafka cannot read."""

from __future__ import annotations

import gzip
from typing import Any

from aiokafka.record.util import calc_crc32c


async def send_unreadable(producer: Any, topic: str, partition: int = 0, *, compressed: bool = False) -> None:
    """Send one whose header's name is no UTF-8, or whose batch is gzip, for clients that are told not to know it."""
    batch = producer.create_batch()
    batch.append(key=b"k", value=b"{}", timestamp=None, headers=[("zz", b"1")])
    batch.close()
    content = bytearray(batch._build())
    if compressed:
        content[22] |= 1
        content[61:] = gzip.compress(content[61:])
        content[8:12] = (len(content) - 12).to_bytes(4, "big")
    else:
        name = content.index(b"zz")
        content[name : name + 2] = b"\xff\xfe"
    content[17:21] = calc_crc32c(content[21:]).to_bytes(4, "big")
    batch._build = lambda: bytes(content)
    await (await producer.send_batch(batch, topic, partition=partition))
