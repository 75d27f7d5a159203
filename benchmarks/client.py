"""An outside REST client in a process of its own: creates tasks, or paces them. Prints one JSON line of creation times.

Run: `python -m benchmarks.client URL KEY MODEL COUNT CONNECTIONS RATE BATCH` (rate 0: as fast as it goes).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import aiohttp
import uvloop

_PAYLOAD = {"text": "x" * 200}


async def create(url: str, key: str, model: str, count: int, connections: int, rate: float, batch: int) -> None:
    """Create `count` tasks; prints {"seconds", "created": {id: wall clock before the request}}."""
    created: dict[str, float] = {}
    todo = iter(range(0, count, batch))
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    single = json.dumps({"model": model, "payload": _PAYLOAD}).encode()
    many = json.dumps({"tasks": [{"model": model, "payload": _PAYLOAD}] * batch}).encode()
    began = time.time()

    async def connection(session: aiohttp.ClientSession) -> None:
        for number in todo:
            if rate:
                await asyncio.sleep(max(0.0, began + number / rate - time.time()))
            before = time.time()
            path, body = ("/v1/tasks", single) if batch == 1 else ("/v1/tasks/batch", many)
            async with session.post(url + path, data=body, headers=headers) as answer:
                content = await answer.json()
                if answer.status >= 300:
                    raise RuntimeError(f"{answer.status}: {content}")
            for item in [content] if batch == 1 else content["items"]:
                created[item["id"]] = before

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections)) as session:
        await asyncio.gather(*(connection(session) for _ in range(connections)))
    sys.stdout.write(json.dumps({"seconds": time.time() - began, "created": created}))


if __name__ == "__main__":
    url, key, model, *numbers = sys.argv[1:]
    count, connections, rate, batch = numbers
    uvloop.run(create(url, key, model, int(count), int(connections), float(rate), int(batch)))
