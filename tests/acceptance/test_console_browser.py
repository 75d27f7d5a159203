"""The console in a real browser, over real processes: what people do there, and what no page may do."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.support import servers
from tests.support.chromium import PHONE, Watched, chromium, executable, sign_in, watched
from tests.support.road import Road, Servers, open_road

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(executable() is None, reason="NO BROWSER: the console is not tested; install Debian's chromium"),
]
AXE = (Path(__file__).parents[1] / "support" / "axe-core-4.14.1.min.js").read_text()


@pytest.fixture(scope="module")
def database(road_servers: Servers, road_template: str) -> Iterator[str]:
    """The URL of the console's database."""
    servers.empty_redis(road_servers.redis.address)
    with servers.clone(road_servers.postgres.address, road_template) as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(road_servers: Servers, database: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Road]:
    """All processes, for all tests here; each test has a tenant of its own."""
    folder = tmp_path_factory.mktemp("console") / "road"
    async with open_road(folder, road_servers, database, uuid.uuid4().hex[:8]) as road:
        await road.start_all(executors=1)
        yield road


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def tenant(stack: Road) -> AsyncIterator[int]:
    """A tenant of this test's own, whose key may do everything."""
    tenant = await stack.tenant()
    await stack.model(tenant)
    await stack.sql(
        "INSERT INTO webhook (tenant_id, kind, url, secrets, disabled_at, disabled_reason)"
        " SELECT $1, 'endpoint', 'https://hooks.example/' || g, '', now(), 'it failed for five days'"
        " FROM generate_series(1, 2) g", tenant,
    )  # fmt: skip
    yield tenant
    stack.mock.let_go()


@pytest_asyncio.fixture(loop_scope="module")
async def seen(stack: Road, browser: Browser, tenant: int) -> AsyncIterator[Watched]:
    """A page of somebody who is signed in; it may complain of nothing and send nothing elsewhere."""
    async with watched(browser, stack.api) as opened:
        await sign_in(opened.page, stack.keys[tenant])
        yield opened
        assert opened.complaints == []


async def assert_accessible(page: Page, *rules: str) -> None:
    """axe finds nothing, by all of its rules or by these."""
    await page.evaluate(AXE)
    chosen = {"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
    found = await page.evaluate("options => axe.run(document, options)", chosen)
    assert [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found["violations"]] == []


async def test_a_task_is_watched_from_submit_to_result(stack: Road, seen: Watched, tenant: int) -> None:
    page = seen.page
    stack.mock.hold()
    (task,) = await stack.submit(tenant, api_key="sk-hidden-123")
    await page.goto(f"/console/tasks/{task}")
    state = page.get_by_label("State")
    await expect(state.locator(".chip")).to_have_text("processing")
    await expect(page.get_by_label("What the model gets")).not_to_contain_text("sk-hidden")
    await assert_accessible(page)
    stack.mock.let_go()
    await expect(state.locator(".chip")).to_have_text("success")
    await expect(page.get_by_role("heading", name="Result")).to_be_visible()
    await expect(page.locator(".live")).to_have_text("final")
    assert page.url.endswith(task)  # never loaded again


async def test_a_list_changes_by_itself_and_keys_walk_through_it(stack: Road, seen: Watched, tenant: int) -> None:
    page = seen.page
    stack.mock.hold()
    tasks = await stack.submit(tenant, 3)
    await page.goto("/console/tasks")
    await expect(page.locator("tbody .chip", has_text="processing")).to_have_count(3)
    await page.keyboard.press("j")
    await page.keyboard.press("j")
    await expect(page.locator("tbody tr").nth(1)).to_have_class("here")
    stack.mock.let_go()
    await expect(page.locator("tbody .chip", has_text="success")).to_have_count(3)
    await page.get_by_role("button", name="Status").click()
    await expect(page.get_by_role("columnheader", name="Status")).to_have_attribute("aria-sort", "ascending")
    await page.keyboard.press("g")
    await page.keyboard.press("m")
    await expect(page.get_by_role("heading", name="Models")).to_be_visible()
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog")).to_be_visible()
    await assert_accessible(page)
    assert len(tasks) == 3


async def test_a_running_task_is_canceled(stack: Road, seen: Watched, tenant: int) -> None:
    page = seen.page
    stack.mock.hold()
    (task,) = await stack.submit(tenant)
    await page.goto(f"/console/tasks/{task}")
    await expect(page.get_by_label("State").locator(".chip")).to_have_text("processing")
    await page.get_by_role("button", name="Cancel task").click()
    await expect(page.get_by_label("State").locator(".chip")).to_have_text("canceled")
    stack.mock.let_go()


async def test_many_are_canceled_after_their_count_was_shown(stack: Road, seen: Watched, tenant: int) -> None:
    page = seen.page
    await stack.model(tenant, "narrow", max_concurrency=1)
    stack.mock.hold()
    tasks = await stack.submit(tenant, 5, "narrow")
    await page.goto("/console/tasks?model=narrow")
    await page.get_by_role("link", name="Cancel all of these…").click()
    await expect(page.get_by_role("main")).to_contain_text("5 open tasks would be canceled")
    await assert_accessible(page)
    await page.get_by_role("button", name="Cancel 5 tasks").click()
    await expect(page.get_by_role("status").first).to_contain_text("canceled")
    await stack.ended(tasks, status="canceled")
    stack.mock.let_go()


async def test_a_dead_group_is_found_tried_dry_replayed_and_succeeds(stack: Road, seen: Watched, tenant: int) -> None:
    page = seen.page
    await stack.model(tenant, "broken")
    tasks = await stack.submit(tenant, 3, "broken", fail=1, status=400)
    await stack.ended(tasks, status="failed")
    await page.goto(f"/console/dead?tenant={tenant}")
    group = page.get_by_role("group", name="Groups").get_by_role("row").filter(has_text="model_http_400")
    await expect(group).to_contain_text("3")
    await assert_accessible(page)
    await group.get_by_role("link", name="Replay…").click()
    await expect(page.get_by_role("main")).to_contain_text("3 tasks")
    assert await stack.statuses(tasks) == {"failed": 3}  # a dry run
    await assert_accessible(page)
    await page.get_by_label("Reason").fill("the model was mended")
    await page.get_by_role("button", name="Replay 3").click()
    progress = page.get_by_role("region", name="Progress")
    await expect(progress.locator(".chip")).to_have_text("done", timeout=30_000)
    await expect(page.locator("#items .chip", has_text="replayed")).to_have_count(3)
    await assert_accessible(page)
    await stack.ended(tasks)
    await page.goto(f"/console/dead?tenant={tenant}")
    await expect(page.get_by_role("main")).to_contain_text("None of the dead matches")


async def test_a_paused_model_says_why_its_task_waits(stack: Road, seen: Watched, tenant: int) -> None:
    page = seen.page
    await stack.model(tenant, "held")
    await page.goto(f"/console/model?name=held&tenant={tenant}")
    await page.get_by_text("Pause…").click()
    await page.get_by_label("Reason").fill("the provider is mended until six")
    await assert_accessible(page)
    await page.get_by_role("button", name="Pause held").click()
    await expect(page.get_by_label("What holds it")).to_contain_text("model_paused")
    (task,) = await stack.submit(tenant, 1, "held")
    await page.goto(f"/console/tasks/{task}")
    await expect(page.get_by_label("What it waits for")).to_contain_text("the provider is mended until six")
    await assert_accessible(page)
    other = await page.context.new_page()
    await other.goto(f"/console/model?name=held&tenant={tenant}")
    await other.get_by_role("button", name="Resume").click()
    await expect(page.get_by_label("State").locator(".chip")).to_have_text("success")
    await other.goto("/console/actions")
    await expect(other.get_by_role("main")).to_contain_text("the provider is mended until six")


async def test_results_are_shown_and_run_nothing(stack: Road, seen: Watched, tenant: int) -> None:
    page = seen.page
    (task,) = await stack.submit(tenant)
    await stack.ended([task])
    await page.goto(f"/console/tasks/{task}")
    picture = page.get_by_role("img", name="Result 0")
    await expect(picture).to_be_visible()
    answer = await page.request.get(f"/console/tasks/{task}/result/0")
    assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert (await stack.sql("SELECT fetched_at FROM task WHERE public_id = $1", task))[0]["fetched_at"] is None


async def test_an_audit_finds_nothing_and_an_executor_can_be_kept(stack: Road, seen: Watched) -> None:
    page = seen.page
    await page.goto("/console/audit")
    await page.get_by_role("button", name="Look", exact=True).click()
    await expect(page.locator(".report")).to_contain_text("What was looked at", timeout=30_000)
    await assert_accessible(page)
    await page.goto("/console/executors")
    await expect(page.get_by_role("group", name="List of executors").locator(".chip")).to_have_text("reading")


#: Between them they have everything that has a colour.
COLOURFUL = ("/console", "/console/tasks", "/console/dead", "/console/tasks/{task}")
#: The colour behind everything, as three numbers.
GROUND = "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).slice(0, 3).map(Number)"
PAGES = (
    "/console/sign-in",
    "/console",
    "/console?span=day",
    "/console/tasks",
    "/console/models",
    "/console/model?name=m",
    "/console/dead",
    "/console/replays",
    "/console/outbox",
    "/console/executors",
    "/console/tenants",
    "/console/tenants/{tenant}",
    "/console/audit",
    "/console/actions",
    "/console/settings",
    "/console/tasks/{task}",
)


#: Tables of more than one row: heads that do not sort, and cells of numbers whose text is none and that say no other.
UNSORTED = """() => [...document.querySelectorAll("table")].filter((table) => table.tBodies[0].rows.length > 1)
  .map((table) => ({
    heads: [...table.querySelectorAll("thead th")]
      .filter((head) => head.textContent.trim() && !head.hasAttribute("data-unsorted") && !head.querySelector("button"))
      .map((head) => head.textContent).join(),
    texts: [...table.querySelectorAll("tbody td.number")]
      .filter((cell) => cell.dataset.value === undefined && !Number.isFinite(Number(cell.textContent.trim())))
      .map((cell) => cell.textContent).join(),
  }))"""


async def test_axe_finds_nothing_on_any_page(stack: Road, browser: Browser, tenant: int) -> None:
    (task,) = await stack.submit(tenant)
    await stack.ended([task])
    async with watched(browser, stack.api) as opened:
        page = opened.page
        await page.goto(PAGES[0])
        await assert_accessible(page)
        await sign_in(page, stack.keys[tenant])
        for path in PAGES[1:]:
            await page.emulate_media(color_scheme="light")
            await page.goto(path.format(tenant=tenant, task=task))
            await assert_accessible(page)
            light = await page.evaluate(GROUND)
            await page.emulate_media(color_scheme="dark")
            if path in COLOURFUL:
                await assert_accessible(page, "color-contrast")  # all that colours change
            assert sum(await page.evaluate(GROUND)) < 200 < sum(light)
        assert opened.complaints == []


async def test_every_table_is_sorted_by_its_heads_dates_by_their_time(
    stack: Road, browser: Browser, tenant: int
) -> None:
    await stack.model(tenant, "broken", retry_times=1)
    tasks = await stack.submit(tenant, 3, "broken", fail=9)
    await stack.ended(tasks, status="failed")
    for ordered in ("2026-02-05T10:00:00Z", "2026-01-31T09:00:00Z", "2025-12-24T08:00:00Z"):
        await stack.sql(
            "INSERT INTO replay_job (action, kind, asked, most, rate, reason, asked_by, state, created_at, ended_at)"
            " SELECT 'replay', 'task', '{}', 1, 1, 'r', 'b', 'done', at, at"
            " FROM (SELECT CAST($1::text AS timestamptz) AS at) a",
            ordered,
        )
    await stack.sql("INSERT INTO tenant (id) SELECT generate_series(901, 903)")
    order = f"/console/dead/order?kind=task&action=replay&tenant={tenant}"
    async with watched(browser, stack.api) as opened:
        page = opened.page
        await sign_in(page, stack.keys[tenant])
        sorted_ones = 0
        for path in (*PAGES[1:], f"/console/dead/task/{tasks[0]}", order):
            await page.goto(path.format(tenant=tenant, task=tasks[0]))
            tables = await page.evaluate(UNSORTED)
            assert [table for table in tables if table["heads"] or table["texts"]] == [], path
            sorted_ones += len(tables)
        assert sorted_ones > 10
        await page.goto("/console/replays")
        head = page.get_by_role("button", name="Ordered")
        for falling in (False, True):
            await head.click()
            shown = await page.locator("td[data-label=Ordered] time").all()
            times = [await one.get_attribute("datetime") or "" for one in shown]
            assert times == sorted(times, reverse=falling), "by their time, not by the letters of their day"
            assert len(set(times)) > 2
        assert opened.complaints == []


async def test_a_live_table_stays_as_it_was_sorted(stack: Road, seen: Watched, tenant: int) -> None:
    page = seen.page
    stack.mock.hold()
    (task,) = await stack.submit(tenant)
    await page.goto(f"/console/tasks/{task}")
    table = page.get_by_role("group", name="Attempts", exact=True)
    await table.get_by_role("button", name="Lasted").click()
    await table.get_by_role("button", name="Lasted").click()
    head = table.get_by_role("columnheader", name="Lasted")
    await expect(head).to_have_attribute("aria-sort", "descending")
    stack.mock.let_go()
    await expect(page.get_by_label("State").locator(".chip")).to_have_text("success", timeout=20_000)
    await expect(head).to_have_attribute("aria-sort", "descending")
    await expect(table.get_by_role("button", name="Lasted")).to_be_focused()


async def test_a_value_between_gaps_is_seen_in_its_plot(stack: Road, seen: Watched, tenant: int) -> None:
    for scope, subject in ((0, "0"), (2, f"(SELECT id FROM lane WHERE tenant_id = {tenant})")):
        await stack.sql(
            f"INSERT INTO series SELECT {scope}, {subject}, 1, date_trunc('minute', now()) - make_interval(mins => m),"
            " 1, 0, 0, 0, 0, '{9}', '{1}', '{9}', '{1}', 7, CASE m WHEN 30 THEN 7.0 END"
            " FROM generate_series(28, 32) m ON CONFLICT DO NOTHING"
        )
    await seen.page.goto(f"/console?tenant={tenant}&model=m")
    plot = seen.page.locator("div[data-plot]", has=seen.page.locator("canvas")).last
    await expect(plot).to_be_visible()
    coloured = await plot.locator("canvas").evaluate(
        "canvas => { const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);"
        " let found = 0; for (let i = 0; i < data.length; i += 4) {"
        " const [red, green, blue, there] = data.slice(i, i + 4);"
        " found += there > 99 && Math.max(red, green, blue) - Math.min(red, green, blue) > 90; } return found; }"
    )
    assert coloured >= 9, "the oldest that waited, half an hour ago"


async def test_legends_tell_the_newest_values_until_somebody_points(stack: Road, seen: Watched, tenant: int) -> None:
    """They named lines, and no values; of three, the last was cut off."""
    for scope, subject in ((0, "0"), (2, f"(SELECT id FROM lane WHERE tenant_id = {tenant})")):
        await stack.sql(
            f"INSERT INTO series SELECT {scope}, {subject}, 1, date_trunc('minute', now()) - make_interval(mins => m),"
            " m, 0, 0, 0, 0, '{9}', '{1}', '{9}', '{1}', 7, 0.004 FROM generate_series(3, 9) m ON CONFLICT DO NOTHING"
        )
    await seen.page.set_viewport_size({"width": 360, "height": 800})
    await seen.page.goto(f"/console?tenant={tenant}&model=m")
    legends = seen.page.locator("div[data-plot] .u-legend")
    await expect(legends.first).to_contain_text(re.compile(r"success\s*:?\s*\d"))
    cut = "places => places.filter(place => place.scrollHeight > place.clientHeight + 1).length"
    assert await seen.page.locator("div[data-plot]").evaluate_all(cut) == 0


async def test_colours_can_be_chosen(seen: Watched) -> None:
    page = seen.page
    await page.get_by_label("Colours").select_option("dark")
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    await page.goto("/console/models")
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")


async def test_a_phone_shows_every_page_without_scrolling_sideways(stack: Road, browser: Browser, tenant: int) -> None:
    (task,) = await stack.submit(tenant)
    await stack.ended([task])
    async with watched(browser, stack.api, viewport=PHONE, is_mobile=True, has_touch=True) as opened:
        page = opened.page
        await sign_in(page, stack.keys[tenant])
        for path in PAGES[1:]:
            await page.goto(path.format(tenant=tenant, task=task))
            wide = await page.evaluate("document.documentElement.scrollWidth")
            assert wide <= PHONE["width"], path
        await page.goto("/console")
        await page.get_by_text("Pause everything…").click()
        asked = await page.get_by_role("button", name="Pause all dispatching").bounding_box()
        assert asked is not None
        assert 0 < asked["x"] < asked["x"] + asked["width"] < PHONE["width"]
        assert opened.complaints == []


@pytest.mark.parametrize("width", [320, 800])
async def test_no_page_is_wider_than_a_small_window(stack: Road, browser: Browser, tenant: int, width: int) -> None:
    (task,) = await stack.submit(tenant)
    await stack.ended([task])
    async with watched(browser, stack.api, viewport={"width": width, "height": 640}) as opened:
        await sign_in(opened.page, stack.keys[tenant])
        for path in PAGES[1:]:
            await opened.page.goto(path.format(tenant=tenant, task=task))
            assert await opened.page.evaluate("document.documentElement.scrollWidth") <= width, path


async def test_pages_can_be_read_without_scripts(stack: Road, browser: Browser, tenant: int) -> None:
    (task,) = await stack.submit(tenant)
    await stack.ended([task])
    async with watched(browser, stack.api, java_script_enabled=False) as opened:
        page = opened.page
        await sign_in(page, stack.keys[tenant])
        await expect(page.locator(".live"), "nothing here changes by itself").to_be_hidden()
        await page.get_by_role("link", name="Tasks", exact=True).click()
        await page.get_by_role("link", name=task[-12:]).click()
        await expect(page.get_by_label("State").locator(".chip")).to_have_text("success")
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


async def test_a_tenant_sees_no_other(stack: Road, browser: Browser, seen: Watched, tenant: int) -> None:
    other = await stack.tenant()
    await stack.sql("UPDATE api_key SET scopes = '{read}' WHERE tenant_id = $1", other)
    (task,) = await stack.submit(tenant)
    async with watched(browser, stack.api) as opened:
        page = opened.page
        await sign_in(page, stack.keys[other])
        await expect(page.get_by_role("main")).not_to_contain_text(task[-12:])
        for path in (f"/console/tasks/{task}", f"/console/tasks/{task}?tenant={tenant}", "/console/model?name=m"):
            answer = await page.goto(path)
            assert answer is not None
            assert answer.status == 404
            assert task not in await page.get_by_role("main").inner_text()
