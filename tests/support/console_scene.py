"""A small working day to look at: real processes, models that answer, some that fail.

`python -m tests.support.console_scene FOLDER` takes the pictures of docs/console.md into a folder;
`--stay` keeps everything running and prints where it is.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from math import sin
from pathlib import Path
from random import Random
from socket import gethostname
from typing import Any

import asyncpg
from playwright.async_api import Page

from libs.common.domain.buckets import bucket_of
from libs.common.embedded.postgres import EmbeddedPostgres
from libs.common.embedded.redis import EmbeddedRedis
from libs.common.embedded.sample_models import application
from libs.common.embedded.tansu import EmbeddedTansu
from tests.support import servers
from tests.support.chromium import PHONE, chromium, sign_in, watched
from tests.support.road import Road, Servers, open_road
from tests.support.serving import serving

WINDOW = {"width": 1240, "height": 780}
PHONE_OPTIONS: dict[str, Any] = {"viewport": PHONE, "is_mobile": True, "has_touch": True}
#: What pages are called, and where they are.
PAGES = {
    "overview": "/console",
    "tasks": "/console/tasks",
    "task": "/console/tasks/{scene.done[6]}",
    "task-running": "/console/tasks/{scene.waiting[3]}",
    "models": "/console/models",
    "model": "/console/model?name=upscaler",
    "dead": "/console/dead",
    "replays": "/console/replays",
    "outbox": "/console/outbox",
    "executors": "/console/executors",
    "tenants": "/console/tenants",
    "tenant": "/console/tenants/{scene.tenant}",
    "audit": "/console/audit",
    "actions": "/console/actions",
    "settings": "/console/settings",
}
#: Those that are shown in the dark and on a phone too.
TWICE = ("overview", "tasks", "task", "dead")
#: What a picture shows is of no machine in particular: these take the place of its names, folders and addresses.
FOLDER, HOST = "/srv/sluiceway", "node"
WRITTEN_ANEW = """rules => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const text = rules.reduce((text, [what, instead]) => text.replace(new RegExp(what, "g"), instead), node.data);
    if (text !== node.data) node.data = text;
  }
}"""
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
    async with serving(application()) as models, open_road(folder / "road", own, database_url, "scene") as road:
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
    await road.ended(dead, status="failed")  # before the models are held: one that came late would run on
    road.mock.hold()
    calling = [{"name": f"u{n}", "api_key": "k-1234"} for n in range(2)]
    running = [await _task(road, tenant, "upscaler", payload, f"frame-{n}") for n, payload in enumerate(calling)]
    await asyncio.sleep(1)
    waiting = [await _task(road, tenant, "upscaler", {"name": f"w{n}"}, f"frame-{n + 2}") for n in range(6)]
    await _hear(road, tenant)
    await _remember(road)
    return Scene(road, tenant, other, done, running, waiting)


async def _hear(road: Road, tenant: int) -> None:
    """Webhooks in several states; nothing is sent to them."""
    for name, events, paused, failing, disabled in (
        ("orders", 15, False, None, None),
        ("billing", 4, True, None, None),
        ("search", 1, False, "7 hours", None),
        ("old-shop", 15, False, "6 days", "every attempt of five days failed"),
    ):
        await road.sql(
            "INSERT INTO webhook (tenant_id, kind, url, events, secrets, paused, failing_since, disabled_at,"
            " disabled_reason) VALUES ($1, 'endpoint', $2, $3, '', $4, now() - CAST($5::text AS interval),"
            " CASE WHEN $6::text IS NOT NULL THEN now() - interval '1 day' END, $6)",
            tenant, f"https://hooks.example/{name}", events, paused, failing, disabled,
        )  # fmt: skip
    await road.sql(
        "INSERT INTO delivery (tenant_id, webhook_id, line, url, task_id, message_id, type, body, status, next_at,"
        " ended_at, dead_at, last_code, last_error)"
        " SELECT w.tenant_id, w.id, '', '', gen_random_uuid(), g || ':5', 'task.success', '{}', s.status,"
        " CASE WHEN s.status = 'pending' THEN now() + interval '1 hour' END,"
        " CASE WHEN s.status = 'dead' THEN now() - g * interval '1 hour' END,"
        " CASE WHEN s.status = 'dead' THEN now() - g * interval '1 hour' END, 503, 'it answered 503'"
        " FROM webhook w CROSS JOIN generate_series(1, 3) g"
        " CROSS JOIN LATERAL (SELECT CASE WHEN w.disabled_at IS NULL THEN 'pending' ELSE 'dead' END) s(status)"
        " WHERE w.tenant_id = $1 AND w.failing_since IS NOT NULL", tenant,
    )  # fmt: skip


async def _remember(road: Road) -> None:
    """An hour that was, so that the plots have something to show: a wave of work, and a bad quarter in it."""
    random = Random(4)
    connection = await asyncpg.connect(road.database_url)
    lanes = await connection.fetch("SELECT id FROM lane ORDER BY id LIMIT 3")
    for scope, subject in [(0, 0), *((2, lane["id"]) for lane in lanes)]:
        for minute in range(2, 60):
            wave = 1 + sin(minute / 9) ** 2 * 2 + random.random() * 0.4
            bad = random.randrange(2, 9) if 24 < minute < 36 else random.randrange(2)
            good = int((90 if scope == 0 else 30) * wave)
            waits, runs = [bucket_of(0.4 * wave * n) for n in (1, 3, 9)], [bucket_of(2.5 * n) for n in (1, 1.7, 4)]
            counts = [good // 2, good // 3, good // 9]
            await connection.execute(
                "INSERT INTO series VALUES ($1, $2, 1, date_trunc('minute', now()) - make_interval(mins => $3),"
                " $4, $5, 0, 0, 0, $6, $7, $8, $7, $9, $10) ON CONFLICT DO NOTHING",
                scope, subject, minute, good, bad, waits, counts, runs, int(40 * wave**2), 2.0 * wave**2,
            )  # fmt: skip
    await connection.close()


async def _task(road: Road, tenant: int, model: str, payload: object, biz_name: str) -> str:
    body = {"model": model, "payload": payload, "biz_name": biz_name}
    answer = await road.call(tenant, "POST", "/v1/tasks", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def take_pictures(scene: Scene, folder: Path) -> None:
    """Every page as docs/console.md shows it."""
    folder.mkdir(parents=True, exist_ok=True)
    key = scene.road.keys[scene.tenant]
    async with chromium() as browser:
        async with watched(browser, scene.road.api, viewport=WINDOW) as opened:
            await take(scene, opened.page, "/console/sign-in", folder / "console-sign-in.png")
            await sign_in(opened.page, key)
            await order_replay(scene, opened.page, folder)
            for name, path in PAGES.items():
                await take(scene, opened.page, path.format(scene=scene), folder / f"console-{name}.png")
            await pause(scene, opened.page, "captions", folder)
            await take(scene, opened.page, PAGES["actions"], folder / "console-actions.png")
        for suffix, options in {"dark": {"color_scheme": "dark", "viewport": WINDOW}, "phone": PHONE_OPTIONS}.items():
            async with watched(browser, scene.road.api, **options) as opened:
                await sign_in(opened.page, key)
                for name in TWICE:
                    picture = folder / f"console-{name}-{suffix}.png"
                    await take(scene, opened.page, PAGES[name].format(scene=scene), picture)


async def order_replay(scene: Scene, page: Page, folder: Path) -> None:
    """The dry run of a group, and the job that it becomes."""
    group = "/console/dead/order?kind=task&action=replay&code=model_http_422"
    await take(scene, page, group, folder / "console-dry-run.png")
    await page.get_by_label("Reason").fill("the new version of the model understands these")
    await page.get_by_role("button", name="Replay").click()
    await page.locator(".chip", has_text="done").wait_for()
    await page.locator("#items .chip", has_text="replayed").first.wait_for()
    await draw(scene, page, folder / "console-replay.png")


async def pause(scene: Scene, page: Page, model: str, folder: Path) -> None:
    """A model that is paused."""
    await page.goto(f"/console/model?name={model}")
    await page.get_by_text("Pause…").click()
    await page.get_by_label("Reason").fill("the provider's quota is used up until midnight")
    await page.get_by_role("button", name=f"Pause {model}").click()
    await page.get_by_text("model_paused").wait_for()
    await draw(scene, page, folder / "console-paused.png")


async def take(scene: Scene, page: Page, path: str, picture: Path) -> None:
    """One page, once its live part has spoken."""
    await page.goto(path)
    await page.wait_for_timeout(700)
    await draw(scene, page, picture)


async def draw(scene: Scene, page: Page, picture: Path) -> None:
    """The page as it is, but of a machine that nobody has."""
    own = scene.road.servers
    rules = [
        (re.escape(str(scene.road.folder)), FOLDER),
        (rf"{re.escape(gethostname())}-(?=\d)", f"{HOST}-"),
        (r"127\.0\.0\.1:\d+/sluiceway_test_\w+", "postgres.example:5432/sluiceway"),
        (re.escape(own.broker.address), "kafka.example:9092"),
        (r"(redis://)127\.0\.0\.1:\d+", "$1redis.example:6379"),
        (r"127\.0\.0\.1:\d+", "models.example"),
    ]
    await page.evaluate(WRITTEN_ANEW, rules)
    await page.screenshot(path=picture)


async def show(folder: Path, own: Servers, database_url: str, pictures: Path, *, stay: bool) -> None:
    """Play the scene, and let it be looked at."""
    async with open_scene(folder, own, database_url) as scene:
        if not stay:
            await take_pictures(scene, pictures)
        else:
            print(scene.road.api, scene.road.keys, scene.done[:1], scene.running[:1], flush=True)  # noqa: T201
            await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/images"))
    parser.add_argument("--stay", action="store_true")
    arguments = parser.parse_args()
    with servers.servers_folder() as folder, stores(folder) as (own, database_url), suppress(KeyboardInterrupt):
        asyncio.run(show(folder, own, database_url, arguments.folder, stay=arguments.stay))


if __name__ == "__main__":
    main()
