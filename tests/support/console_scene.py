"""A small working day to look at: real processes, models that answer, some that fail.

`python -m tests.support.console_scene FOLDER` takes the pictures of docs/console.md into a folder;
`--stay` keeps everything running and prints where it is.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from libs.common.embedded.postgres import EmbeddedPostgres
from libs.common.embedded.redis import EmbeddedRedis
from libs.common.embedded.sample_models import application
from libs.common.embedded.tansu import EmbeddedTansu
from tests.support import servers
from tests.support.road import Road, Servers, open_road

TEXTS = ("a lighthouse at dusk", "paper boats", "slow rain on a tin roof", "harbour lights", "the old mill")


@dataclass
class Scene:
    """A road with two tenants on it."""

    road: Road
    tenant: int
    other: int
    done: list[str]
    running: list[str]
    waiting: list[str]


@asynccontextmanager
async def sample_models() -> AsyncIterator[str]:
    """The address of the two models that do real work."""
    runner = web.AppRunner(application(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextmanager
def stores(folder: Path) -> Iterator[tuple[Servers, str]]:
    """Servers of the scene's own, and the URL of its database."""
    postgres, redis = EmbeddedPostgres(folder / "postgres"), EmbeddedRedis(folder / "redis")
    broker = EmbeddedTansu(folder / "tansu")
    with (
        servers.running(postgres),
        servers.running(redis),
        servers.running(broker),
        servers.migrated_template(postgres.address) as template,
        servers.clone(postgres.address, template) as url,
    ):
        yield Servers(postgres, redis, broker, "tansu"), url
    postgres.remove()


@asynccontextmanager
async def open_scene(folder: Path, own: Servers, database_url: str) -> AsyncIterator[Scene]:
    """Everything started, and some of it done."""
    async with sample_models() as models, open_road(folder / "road", own, database_url, "scene") as road:
        await road.start_all()
        yield await play(road, models)


async def play(road: Road, models: str) -> Scene:
    tenant, other = await road.tenant(), await road.tenant()
    await road.sql("UPDATE api_key SET name = 'night-shift' WHERE tenant_id = $1", tenant)
    for name, fields in {
        "tts-narrator": {"base_url": models, "route": "/speak", "max_concurrency": 8, "remark": "Text to speech."},
        "pictures-v2": {"base_url": models, "route": "/draw", "max_concurrency": 12, "queue_limit": 5_000},
        "upscaler": {"max_concurrency": 2, "timeout_seconds": 600, "api_key": "X-Api-Key:abc-1234567"},
        "captions": {"max_concurrency": 4, "retry_times": 2},
        "moderation": {"max_concurrency": 4, "retry_times": 0},
    }.items():
        await road.model(tenant, name, **fields)
    await road.model(other, "pictures-v2", base_url=models, route="/draw")
    done = []
    for model in ("tts-narrator", "pictures-v2"):
        done += [await _task(road, tenant, model, {"text": text}, f"story-{n}") for n, text in enumerate(TEXTS)]
    done += [await _task(road, tenant, "captions", {"name": f"c{n}", "fail": n % 3}, f"caption-{n}") for n in range(4)]
    wrong = [{"name": f"m{n}", "fail": 9, "status": 400 + 22 * (n % 2)} for n in range(7)]
    dead = [await _task(road, tenant, "moderation", payload, f"check-{n}") for n, payload in enumerate(wrong)]
    await _task(road, other, "pictures-v2", {"text": "not yours"}, "other-tenant")
    road.mock.hold()
    calling = [{"name": f"u{n}", "api_key": "k-1234"} for n in range(2)]
    running = [await _task(road, tenant, "upscaler", payload, f"frame-{n}") for n, payload in enumerate(calling)]
    await road.ended(dead, status="failed")
    await asyncio.sleep(1)
    waiting = [await _task(road, tenant, "upscaler", {"name": f"w{n}"}, f"frame-{n + 2}") for n in range(6)]
    return Scene(road, tenant, other, done, running, waiting)


async def _task(road: Road, tenant: int, model: str, payload: object, biz_name: str) -> str:
    body = {"model": model, "payload": payload, "biz_name": biz_name}
    answer = await road.call(tenant, "POST", "/v1/tasks", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def show(folder: Path, own: Servers, database_url: str, *, stay: bool) -> None:
    """Play the scene, and let it be looked at."""
    async with open_scene(folder, own, database_url) as scene:
        if stay:
            print(scene.road.api, scene.road.keys, scene.done[:1], scene.running[:1], flush=True)  # noqa: T201
            await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/images"))
    parser.add_argument("--stay", action="store_true")
    arguments = parser.parse_args()
    with servers.servers_folder() as folder, stores(folder) as (own, database_url), suppress(KeyboardInterrupt):
        asyncio.run(show(folder, own, database_url, stay=arguments.stay))


if __name__ == "__main__":
    main()
