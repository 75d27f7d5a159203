"""The console without a browser: who gets in, what they see, and what they cannot do."""

from __future__ import annotations

import asyncio
import base64
import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from html import escape, unescape
from uuid import UUID

import httpx
import pytest
import pytest_asyncio

from libs.common.adapters.redis import keys
from libs.common.domain.errors import DatabaseUnavailable
from libs.common.ports_dead import KEPT_BYTES
from services.api import cancellation, wiring
from services.api.console import live, sessions
from services.api.console.rendering import MENU, PAGE_POLICY
from tests.support.api import Api, Tenant, until_true
from tests.support.console import Browser, browser, links_of, text_of

pytestmark = pytest.mark.asyncio(loop_scope="package")


@pytest_asyncio.fixture(loop_scope="package")
async def visitor(api: Api) -> AsyncIterator[Browser]:
    async with browser(api.url) as opened:
        yield opened


async def operator(api: Api, tenant: Tenant) -> str:
    return await api.key(tenant.id, ("read", "operate"), name="night shift")


# --- signing in and out


async def test_whoever_is_not_signed_in_comes_to_the_form_and_back(visitor: Browser, tenant: Tenant) -> None:
    page = await visitor.get("/console/models?x=1")
    assert "Sign in" in text_of(page)
    page = await visitor.post("/console/sign-in", key=tenant.key, next="/console/models?x=1")
    assert visitor.client.cookies["sluiceway_session"]
    assert "<h1>Models</h1>" in page


async def test_the_session_cookie_is_hard_to_steal(visitor: Browser, tenant: Tenant) -> None:
    await visitor.get("/console/sign-in")
    visitor.client.follow_redirects = False
    answer = await visitor.client.post(
        "/console/sign-in",
        data={"csrf": visitor.csrf, "key": tenant.key},
        headers={"X-Forwarded-Proto": "https"},
    )
    (cookie,) = [line for line in answer.headers.get_list("set-cookie") if "sluiceway_session=" in line]
    for part in ("HttpOnly", "SameSite=strict", "Secure", "Path=/console", f"Max-Age={sessions.SESSION_SECONDS}"):
        assert part in cookie
    assert tenant.key not in str(answer.headers)


@pytest.mark.parametrize("key", ["", "sw_", "nonsense", "sw_" + "x" * 43, "\u0000", "sw_" + "ä" * 43])
async def test_a_wrong_key_opens_nothing(visitor: Browser, key: str) -> None:
    await visitor.get("/console/sign-in")
    page = await visitor.post("/console/sign-in", expect=403, key=key)
    assert "API key" in text_of(page)
    assert "sluiceway_session" not in visitor.client.cookies


async def test_a_key_that_may_only_submit_is_told_so(api: Api, visitor: Browser, tenant: Tenant) -> None:
    await visitor.get("/console/sign-in")
    page = await visitor.post("/console/sign-in", expect=403, key=await api.key(tenant.id, ("submit",)))
    assert "none of the scopes" in text_of(page)


async def test_guessing_is_slowed_down(api: Api, tenant: Tenant) -> None:
    tries = sessions.Tries()
    for _ in range(10):
        tries.failed("192.0.2.1")
    with pytest.raises(Exception, match="wait 60 s"):
        tries.failed("192.0.2.1")
    tries.failed("192.0.2.2")
    tries.forget("192.0.2.1")
    tries.failed("192.0.2.1")


async def test_guesses_of_others_keep_no_right_key_out(visitor: Browser, tenant: Tenant) -> None:
    await visitor.get("/console/sign-in")
    form = {"csrf": visitor.csrf, "key": "sw_" + "x" * 43}
    answer = [await visitor.client.post("/console/sign-in", data=form) for _ in range(11)][-1]
    assert answer.status_code == 429
    assert 0 < int(answer.headers["retry-after"]) <= 60
    assert "has a right one is let in" in text_of(answer.text)
    assert 'name="key"' in answer.text, "who has one can send it from here"
    assert "<h1>Overview</h1>" in await visitor.post("/console/sign-in", key=tenant.key)


async def test_signing_out_ends_the_session_everywhere(api: Api, visitor: Browser, tenant: Tenant) -> None:
    await visitor.sign_in(tenant.key)
    stolen = dict(visitor.client.cookies)
    await visitor.post("/console/sign-out")
    async with httpx.AsyncClient(base_url=api.url, cookies=stolen, trust_env=False, verify=False) as thief:
        answer = await thief.get("/console/tasks")
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/sign-in?next=%2Fconsole%2Ftasks")


async def test_signing_out_leaves_others_signed_in(api: Api, visitor: Browser, tenant: Tenant) -> None:
    await visitor.sign_in(tenant.key)
    async with browser(api.url) as other:
        await other.sign_in(tenant.key)
        await other.post("/console/sign-out")
    assert "<h1>Models</h1>" in await visitor.get("/console/models")


async def test_a_revoked_key_is_out_at_once(api: Api, visitor: Browser, tenant: Tenant) -> None:
    await visitor.sign_in(tenant.key)
    assert "<h1>Models</h1>" in await visitor.get("/console/models")
    await api.sql("UPDATE api_key SET revoked_at = now() WHERE tenant_id = $1", tenant.id)
    assert "Sign in" in text_of(await visitor.get("/console/models"))


async def test_a_session_ends_by_itself_and_is_forgotten(api: Api, visitor: Browser, tenant: Tenant) -> None:
    await visitor.sign_in(tenant.key)
    await api.sql("UPDATE console_session SET expires_at = now() - interval '1 s'")
    assert "Sign in" in text_of(await visitor.get("/console/models"))
    await visitor.sign_in(tenant.key)
    assert len(await api.sql("SELECT FROM console_session WHERE expires_at < now()")) == 0


async def test_what_is_ordered_after_the_end_of_a_session_is_said_to_be_undone(
    api: Api, visitor: Browser, tenant: Tenant
) -> None:
    task = await tenant.task()
    for path, said in ((f"/console/tasks/{task}/cancel", True), ("/console/sign-out", False)):
        await visitor.sign_in(tenant.key)
        await api.sql("UPDATE console_session SET expires_at = now() - interval '1 s'")
        assert ("was not done" in await visitor.post(path)) == said
    assert (await tenant.call("GET", f"/v1/tasks/{task}")).json()["status"] == "submitted"


async def test_only_digests_of_cookies_are_stored(api: Api, visitor: Browser, tenant: Tenant) -> None:
    await visitor.sign_in(tenant.key)
    cookie = visitor.client.cookies["sluiceway_session"]
    rows = await api.sql("SELECT * FROM console_session")
    assert rows
    assert cookie.encode() not in repr(rows).encode()


@pytest.mark.parametrize(
    "elsewhere",
    ["https://evil.example/", "//evil.example", "/console\\..\\x", "/consolex", "/console\r\nX: y", "javascript:1"],
)
async def test_signing_in_leads_nowhere_else(visitor: Browser, tenant: Tenant, elsewhere: str) -> None:
    await visitor.get("/console/sign-in")
    visitor.client.follow_redirects = False
    answer = await visitor.client.post(
        "/console/sign-in", data={"csrf": visitor.csrf, "key": tenant.key, "next": elsewhere}
    )
    assert (answer.status_code, answer.headers["location"]) == (303, "/console")


async def test_a_link_on_another_site_asks_once_more_as_one_of_ours(visitor: Browser, tenant: Tenant) -> None:
    page = await visitor.get("/console/tasks?status=open&biz_name=%22a", headers={"Sec-Fetch-Site": "cross-site"})
    assert 'content="0;url=/console/tasks?status=open&amp;biz_name=%22a"' in page


# --- forms


@pytest.mark.parametrize("path", ["/console/sign-out", "/console/theme", f"/console/tasks/{uuid.uuid4()}/cancel"])
async def test_a_form_without_its_token_does_nothing(visitor: Browser, tenant: Tenant, path: str) -> None:
    await visitor.sign_in(tenant.key)
    visitor.csrf = "0" * 64
    page = text_of(await visitor.post(path, expect=403))
    assert "too old" in page
    assert "API key" not in page, "the key is not to blame"
    assert "<h1>Models</h1>" in await visitor.get("/console/models")


async def test_the_token_of_another_session_does_nothing(api: Api, visitor: Browser, tenant: Tenant) -> None:
    await visitor.sign_in(tenant.key)
    async with browser(api.url) as other:
        await other.sign_in(tenant.key)
        visitor.csrf = other.csrf
    await visitor.post("/console/theme", expect=403, theme="dark")


async def test_a_form_of_another_site_does_nothing(visitor: Browser, tenant: Tenant) -> None:
    await visitor.sign_in(tenant.key)
    answer = await visitor.client.post(
        "/console/sign-out", data={"csrf": visitor.csrf}, headers={"Sec-Fetch-Site": "cross-site"}
    )
    assert answer.status_code == 403


async def test_a_form_that_is_none(visitor: Browser, tenant: Tenant) -> None:
    await visitor.sign_in(tenant.key)
    for body in (b"\xff\xfe", b"csrf=%ff", b"a=1&" * 3_000, b"{}", b""):
        answer = await visitor.client.post("/console/theme", content=body)
        assert answer.status_code in (400, 403)
    answer = await visitor.client.post("/console/theme", content=b"x" * 100_000)
    assert answer.status_code == 413


# --- pages


async def test_a_dead_delivery_of_a_cleaned_task_leads_to_no_page_of_it(visitor: Browser, tenant: Tenant) -> None:
    await visitor.sign_in(tenant.key)
    hook = (await tenant.call("POST", "/v1/webhooks", json={"url": "http://127.0.0.1:9/hook"})).json()["id"]
    task = await tenant.task()
    for which in (task, None):
        page = await visitor.get(f"/console/dead/delivery/{await tenant.delivery(hook, task=which)}")
        assert bool([link for link in links_of(page) if "/console/tasks/" in link]) == (which is not None)
        assert ("was cleaned" in text_of(page)) == (which is None)


async def test_every_page_has_strict_headers_and_loads_nothing_from_elsewhere(
    api: Api, visitor: Browser, tenant: Tenant
) -> None:
    task = await tenant.task()
    await visitor.sign_in(await operator(api, tenant))
    seen, kinds = set(), Counter[str]()
    waiting = ["/console", f"/console/tasks/{task}", "/console/sign-in", "/console/nowhere"]
    while waiting:
        path = waiting.pop()
        seen.add(path)
        answer = await visitor.client.get(path)
        # Other tests say that tasks have files, and store none.
        missing = path == "/console/nowhere" or ("/result/" in path and answer.status_code != 200)
        assert answer.status_code == (404 if missing else 200), path
        if not answer.headers["content-type"].startswith("text/html"):
            continue
        assert answer.headers["content-security-policy"] == PAGE_POLICY
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"<script(?![^>]*\ssrc=)|\sstyle=|<style|\son[a-z]+=|hx-on", answer.text), path
        for link in links_of(answer.text):
            assert link.startswith(("/", "#")) or not re.match(r"[a-z]+:|//", link), (path, link)
            local = link.partition("#")[0]
            # An operator's lists show all that other tests left: of each kind of page some will do.
            kind = re.sub(r"=[^&]*|[0-9a-f]{8}-[0-9a-f-]{27}|\d+", "*", local)
            known = local in seen or local in waiting or kinds[kind] == 5
            if local.startswith("/console") and f'href="{escape(link)}"' in answer.text and not known:
                waiting.append(local)
                kinds[kind] += 1
    paths = {path.partition("?")[0] for path in seen}
    assert {place.path for place in MENU} | {"/console/model"} <= paths


async def test_assets_may_be_kept_as_long_as_they_do_not_change(visitor: Browser, tenant: Tenant) -> None:
    page = await visitor.get("/console/sign-in")
    (style,) = [link for link in links_of(page) if "console.css" in link]
    answer = await visitor.client.get(style)
    assert "immutable" in answer.headers["cache-control"]
    again = await visitor.client.get(style, headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304
    other = await visitor.client.get(style.partition("?")[0])
    assert other.headers["cache-control"] == "no-cache"
    for missing in ("x", "../app.py", "..%2fapp.py", "vendor/uplot-LICENSE.txt"):
        assert (await visitor.client.get(f"/console/static/{missing}")).status_code == 404


async def test_what_a_tenant_sees_is_its_own(api: Api, visitor: Browser, tenant: Tenant) -> None:
    other = await api.tenant()
    await other.model("m-of-other")
    task = await other.task("m-of-other", biz_name="secret-biz")
    await visitor.sign_in(tenant.key)
    for path in ("/console/tasks", "/console/models", "/console/tasks?biz_name=secret-biz"):
        assert task not in (page := await visitor.get(path))
        assert "m-of-other" not in page
    await visitor.get(f"/console/tasks/{task}", expect=404)
    await visitor.get(f"/console/tasks?id={task}", expect=404)
    await visitor.get("/console/model?name=m-of-other", expect=404)
    assert task not in await visitor.get(f"/console/tasks/live?ids={task}")
    await visitor.post(f"/console/tasks/{task}/cancel", expect=404)
    assert [row["status"] for row in await other.stored()] == [1]


async def test_pages_of_operators_are_not_for_tenants(visitor: Browser, tenant: Tenant) -> None:
    page = await visitor.sign_in(tenant.key)
    assert "/console/settings" not in page
    assert "operate" in text_of(await visitor.get("/console/settings", expect=403))


@pytest.mark.parametrize("error", [KeyError("canary-9"), asyncio.CancelledError(), DatabaseUnavailable("no way")])
async def test_an_audit_that_fails_says_so_and_ends_its_page(
    api: Api, visitor: Browser, tenant: Tenant, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def no_audit(_settings: object) -> object:
        raise error

    monkeypatch.setattr(wiring, "open_audit", no_audit)
    await visitor.sign_in(await operator(api, tenant))
    await visitor.get("/console/audit")
    answer = await visitor.client.post("/console/audit", data={"csrf": visitor.csrf})
    assert answer.text.rstrip().endswith("</html>")
    assert 'class="stack report"' in answer.text, "this hides that it is looking"
    assert ("no way" if isinstance(error, DatabaseUnavailable) else "quote trace") in text_of(answer.text)
    assert "canary" not in answer.text
    assert "audit_running" not in text_of((await visitor.client.get("/console/audit")).text)


async def test_an_audit_shows_a_slot_whose_owner_is_no_text(api: Api, visitor: Browser, tenant: Tenant) -> None:
    await tenant.task()
    (lane,) = await api.sql("SELECT id FROM lane WHERE tenant_id = $1", tenant.id)
    await api.redis.command_many([("ZADD", keys.gate(lane["id"]), 10**15, b"\xff")])
    await visitor.sign_in(await operator(api, tenant))
    assert "slot \\xff" in text_of(await visitor.post("/console/audit"))


async def test_plots_of_an_unknown_model_are_a_state_of_the_page_and_those_of_a_deleted_one_are_there(
    api: Api, visitor: Browser, tenant: Tenant
) -> None:
    task = await tenant.task()
    lane = (await api.sql("SELECT lane FROM task WHERE public_id = $1", UUID(task)))[0]["lane"]
    minute = "date_trunc('minute', now()) - interval '5 min'"
    for scope, subject in ((0, 0), (2, lane)):
        await api.sql(
            f"INSERT INTO series VALUES ($1, $2, 1, {minute}, 4321, 0, 0, 0, 0, '{{}}', '{{}}', '{{}}', '{{}}', 0, 0)"
            " ON CONFLICT DO NOTHING",
            scope, subject,
        )  # fmt: skip
    await tenant.call("DELETE", "/v1/models/m")
    await visitor.sign_in(tenant.key)
    page = await visitor.get("/console?model=nobody", expect=404)
    assert "No such model" in text_of(page)
    assert "Busy models" in text_of(page)
    assert "/console/plots" not in "".join(links_of(page)), "it is not asked for again"
    await visitor.get("/console?model=%00", expect=404)
    page = await visitor.get("/console?model=m&span=hour")
    assert ">4321<" in page
    assert 'aria-label="Ended, attempts a minute' in page
    assert task in await visitor.get("/console/tasks?model=m")
    await visitor.get("/console/model?name=m", expect=404)


async def test_settings_hide_what_is_secret(api: Api, visitor: Browser, tenant: Tenant) -> None:
    await visitor.sign_in(await operator(api, tenant))
    page = await visitor.get("/console/settings")
    assert "SLUICEWAY_SECRET_KEYS" in page
    assert "a2tra2tra2tr" not in page  # base64 of the test's key


async def test_filters_live_in_the_address(visitor: Browser, tenant: Tenant) -> None:
    await tenant.model("n")
    one = await tenant.task("m", biz_name="first")
    two = await tenant.task("n", biz_name="<script>alert(1)</script>")
    await visitor.sign_in(tenant.key)

    async def found(query: str) -> set[str]:
        page = await visitor.get(f"/console/tasks?{query}")
        return {task for task in (one, two) if f'data-href="/console/tasks/{task}"' in page}

    assert await found("") == {one, two}
    assert await found("model=n") == {two}
    assert await found("biz_name=first") == {one}
    assert await found("status=open") == {one, two}
    assert await found("status=success") == set()
    assert await found("model=n&biz_name=first") == set()
    assert "<script>alert(1)</script>" not in await visitor.get("/console/tasks")
    page = await visitor.get(f"/console/tasks?id={one}")
    assert f"<title>Task {one[-12:]}" in page
    assert "is no task id" in text_of(await visitor.get("/console/tasks?id=abc"))
    for wrong in ("status=nonsense", "cursor=x", "model=%00"):
        assert text_of(await visitor.get(f"/console/tasks?{wrong}", expect=400))


async def test_pages_go_on_by_cursor(visitor: Browser, tenant: Tenant) -> None:
    tasks = [{"model": "m", "payload": {}, "biz_name": f"b{number}"} for number in range(120)]
    answer = await tenant.call("POST", "/v1/tasks/batch", json={"tasks": tasks})
    assert answer.status_code == 202
    await visitor.sign_in(tenant.key)
    seen: list[str] = []
    path: str | None = "/console/tasks?model=m"
    while path:
        page = await visitor.get(path)
        seen += re.findall(r'data-href="/console/tasks/([^"]+)"', page)
        path = next((link for link in links_of(page) if "cursor=" in link and "/tasks?" in link), None)
    assert len(seen) == len(set(seen)) == 120


async def test_previews_answer_parts(visitor: Browser, tenant: Tenant) -> None:
    content = bytes(range(256)) * 40
    task = await tenant.result(content, kind="mp4")
    await visitor.sign_in(tenant.key)
    path = f"/console/tasks/{task}/result/0"
    for asked, start, end in (
        ("0-", 0, 10_240),
        ("5-5", 5, 6),
        ("10000-20000", 10_000, 10_240),
        ("-3", 10_237, 10_240),
    ):
        answer = await visitor.client.get(path, headers={"Range": f"bytes={asked}"})
        assert (answer.status_code, answer.content) == (206, content[start:end])
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/10240"
        assert answer.headers["content-length"] == str(end - start)
        assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
    answer = await visitor.client.get(path, headers={"Range": "bytes=10240-"})
    assert (answer.status_code, answer.content, answer.headers["content-range"]) == (416, b"", "bytes */10240")
    answer = await visitor.client.get(path)
    assert (answer.status_code, answer.content, answer.headers["accept-ranges"]) == (200, content, "bytes")
    answer = await visitor.client.get(f"{path}?save=1", headers={"Range": "bytes=0-1"})
    assert (answer.status_code, answer.content) == (206, content[:2])
    page = await tenant.result(b"<script>alert(1)</script>", kind="html")
    answer = await visitor.client.get(f"/console/tasks/{page}/result/0", headers={"Range": "bytes=0-1"})
    assert (answer.status_code, answer.content) == (206, b"<s")
    assert answer.headers["content-disposition"].startswith("attachment")


async def test_a_look_at_a_task_does_not_fetch_it_and_shows_no_secret(
    api: Api, visitor: Browser, tenant: Tenant
) -> None:
    task = await tenant.task(payload={"prompt": "a quiet sea", "api_key": "sk-very-secret-1"}, input_ref="ref-7")
    await api.sql(
        "WITH d AS (DELETE FROM dispatch WHERE public_id = $1) UPDATE task SET status = 6, finished_at = now(),"
        " oss_file = 'file:///r.png', file_type = 'png', file_size = 9 WHERE public_id = $1",
        uuid.UUID(task),
    )
    await visitor.sign_in(tenant.key)

    async def logged() -> bool:
        return "POST /v1/tasks" in text_of(await visitor.get(f"/console/tasks/{task}"))

    await until_true(logged)
    page = text_of(await visitor.get(f"/console/tasks/{task}"))
    for shown in ("success", "a quiet sea", "ref-7", "file:///r.png"):
        assert shown in page
    assert "sk-very-secret-1" not in page
    assert (await tenant.stored())[0]["fetched_at"] is None


async def test_the_overview_is_found_with_a_slash_too(visitor: Browser) -> None:
    answer = await visitor.client.get("/console/", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/console")


async def test_tasks_of_unknown_or_wrong_ids_are_404_pages(visitor: Browser, tenant: Tenant) -> None:
    await visitor.sign_in(tenant.key)
    for wrong in (uuid.uuid4(), "abc", "%00", "a/b"):
        assert "no such task" in text_of(await visitor.get(f"/console/tasks/{wrong}", expect=404)) or wrong == "a/b"


async def test_colours_are_remembered(visitor: Browser, tenant: Tenant) -> None:
    await visitor.sign_in(tenant.key)
    page = await visitor.post("/console/theme", theme="dark", next="/console/models")
    assert 'data-theme="dark"' in page
    assert "<h1>Models</h1>" in page
    await visitor.post("/console/theme", theme="<x>", next="/console/models")
    assert 'data-theme="auto"' in await visitor.get("/console/models")


# --- cancel


async def test_one_task_is_canceled(visitor: Browser, tenant: Tenant) -> None:
    task = await tenant.task()
    await visitor.sign_in(tenant.key)
    await visitor.get(f"/console/tasks/{task}")
    page = await visitor.post(f"/console/tasks/{task}/cancel")
    assert "canceled" in text_of(page)
    assert [row["status"] for row in await tenant.stored()] == [9]


async def test_many_are_counted_first_and_newer_ones_left_alone(visitor: Browser, tenant: Tenant) -> None:
    await tenant.model("n")
    meant = [await tenant.task("n") for _ in range(5)]
    kept = await tenant.task("m")
    await visitor.sign_in(tenant.key)
    page = await visitor.get("/console/tasks/cancel?model=n")
    assert "5 open tasks would be canceled" in text_of(page)
    fields = _fields(page)
    assert {row["status"] for row in await tenant.stored()} == {1}
    newer = await tenant.task("n")
    assert "5 canceled" in text_of(await visitor.post("/console/tasks/cancel", **fields))
    ended = {str(row["public_id"]) for row in await tenant.stored() if row["status"] == 9}
    assert ended == set(meant)
    assert {kept, newer}.isdisjoint(ended)
    for wrong in ("", "x", str(2**63), "9" * 5_000):
        await visitor.post("/console/tasks/cancel", expect=400, **{**fields, "upto": wrong})
    await visitor.post("/console/tasks/cancel", expect=400, **{**fields, "biz_name": "\x00"})


async def test_many_are_canceled_beside_one_whose_rows_are_locked(api: Api, visitor: Browser, tenant: Tenant) -> None:
    older, stuck, newer = [await tenant.task() for _ in range(3)]
    await visitor.sign_in(tenant.key)
    page = await visitor.get("/console/tasks/cancel?model=m")
    fields = _fields(page)
    async with api.pool.acquire() as other, other.transaction():
        await other.execute("SELECT FROM dispatch WHERE public_id = $1 FOR UPDATE", UUID(stuck))
        told = text_of(await visitor.post("/console/tasks/cancel", **fields))
    assert "2 canceled" in told
    assert "Not canceled: 1." in told
    assert {str(row["public_id"]) for row in await tenant.stored() if row["status"] == 9} == {older, newer}
    assert "1 canceled" in text_of(await visitor.post("/console/tasks/cancel", **fields))


async def test_many_that_are_locked_keep_none_of_the_others(api: Api, visitor: Browser, tenant: Tenant) -> None:
    older, *stuck, newer = [await tenant.task() for _ in range(17)]
    await visitor.sign_in(tenant.key)
    fields = _fields(await visitor.get("/console/tasks/cancel?model=m"))
    async with api.pool.acquire() as other, other.transaction():
        await other.execute("SELECT FROM task WHERE public_id = ANY ($1) FOR UPDATE", [UUID(one) for one in stuck])
        told = text_of(await visitor.post("/console/tasks/cancel", **fields))
        assert "2 canceled" in told
        assert "Not canceled: 15. A transaction that somebody left open" in told
        assert {str(row["public_id"]) for row in await tenant.stored() if row["status"] == 9} == {older, newer}
    assert "15 canceled" in text_of(await visitor.post("/console/tasks/cancel", **fields))


async def test_one_that_is_just_being_moved_is_canceled_all_the_same(
    api: Api, visitor: Browser, tenant: Tenant
) -> None:
    """It was told to be locked by somebody who forgot a transaction."""
    task = await tenant.task()
    await visitor.sign_in(tenant.key)
    fields = _fields(await visitor.get("/console/tasks/cancel?model=m"))
    async with api.pool.acquire() as other:
        move = other.transaction()
        await move.start()
        await other.execute("SELECT FROM dispatch WHERE public_id = $1 FOR UPDATE", UUID(task))
        canceling = asyncio.create_task(visitor.post("/console/tasks/cancel", **fields))
        await asyncio.sleep(0.2)
        await move.rollback()
        assert "1 canceled" in text_of(await canceling)


async def test_whose_points_cannot_go_back_now_keep_none_of_the_others(
    api: Api, visitor: Browser, tenant: Tenant
) -> None:
    await tenant.model("dear", price=1)
    for _ in range(14):
        await tenant.task("dear")
    free = await tenant.task()
    await visitor.sign_in(tenant.key)
    fields = _fields(await visitor.get("/console/tasks/cancel"))
    async with api.pool.acquire() as other, other.transaction():
        await other.execute("SELECT FROM quota_usage WHERE tenant_id = $1 FOR UPDATE", tenant.id)
        told = text_of(await visitor.post("/console/tasks/cancel", **fields))
    assert "Not canceled: 14." in told
    assert [str(row["public_id"]) for row in await tenant.stored() if row["status"] == 9] == [free]


async def test_older_ones_are_reached_although_the_newest_are_locked(
    api: Api, visitor: Browser, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancellation, "BULK_LIMIT", 2)
    older = await tenant.task()
    stuck = [await tenant.task() for _ in range(2)]
    await visitor.sign_in(tenant.key)
    asked = await visitor.get("/console/tasks/cancel?model=m")
    assert "2 open tasks would be canceled" in text_of(asked)
    async with api.pool.acquire() as other, other.transaction():
        await other.execute("SELECT FROM dispatch WHERE public_id = ANY ($1) FOR UPDATE", [UUID(one) for one in stuck])
        page = await visitor.post("/console/tasks/cancel", **_fields(asked))
        assert "0 canceled" in text_of(page)
        assert "Not canceled: 2." in text_of(page)
        asked = await visitor.get(_older(page))
        assert "1 open task would be canceled" in text_of(asked)
        page = await visitor.post("/console/tasks/cancel", **_fields(asked))
    assert "1 canceled" in text_of(page)
    assert "There may be more" not in text_of(page)
    assert [str(row["public_id"]) for row in await tenant.stored() if row["status"] == 9] == [older]


async def test_a_bulk_cancel_does_not_wait_for_task_after_task_of_a_locked_table(
    api: Api, visitor: Browser, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancellation, "_MOST_LOCKED", 0)
    for _ in range(6):
        await tenant.task()
    await visitor.sign_in(tenant.key)
    fields = _fields(await visitor.get("/console/tasks/cancel?model=m"))
    async with api.pool.acquire() as other, other.transaction():
        await other.execute("LOCK TABLE dispatch IN SHARE MODE")
        page = await visitor.post("/console/tasks/cancel", **fields)
    assert "Not canceled: 4." in text_of(page)
    assert "Not tried: 2." in text_of(page)
    assert "2 open tasks would be canceled" in text_of(await visitor.get(_older(page)))


def _fields(page: str) -> dict[str, str]:
    """The form of a bulk cancel, as it was counted."""
    return dict(re.findall(r'name="(model|status|biz_name|upto)" value="([^"]*)"', page))


def _older(page: str) -> str:
    """Where a bulk cancel goes on."""
    found = re.search(r'href="(/console/tasks/cancel[^"]*)"', page)
    assert found
    return unescape(found.group(1))


async def test_reading_alone_cancels_nothing(api: Api, visitor: Browser, tenant: Tenant) -> None:
    task = await tenant.task()
    page = await visitor.sign_in(await api.key(tenant.id, ("read",)))
    assert "/cancel" not in page
    await visitor.get(f"/console/tasks/{task}")
    await visitor.post(f"/console/tasks/{task}/cancel", expect=403)
    await visitor.get("/console/tasks/cancel", expect=403)


# --- live parts


async def test_a_task_is_watched_live_to_its_end(visitor: Browser, tenant: Tenant) -> None:
    task = await tenant.task()
    await visitor.sign_in(tenant.key)
    page = await visitor.get(f"/console/tasks/{task}")
    (url,) = [link for link in links_of(page) if link.endswith("/live")]
    heard: list[str] = []
    async with visitor.client.stream("GET", url) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        async for line in stream.aiter_lines():
            heard.append(line)
            if "submitted" in line and "chip" in line:
                await tenant.call("POST", f"/v1/tasks/{task}/cancel")
    assert any("chip canceled" in line for line in heard)
    assert "event: end" in heard


async def test_a_live_part_says_when_its_session_is_over(api: Api, visitor: Browser, tenant: Tenant) -> None:
    task = await tenant.task()
    await visitor.sign_in(tenant.key)
    heard: list[str] = []
    async with visitor.client.stream("GET", f"/console/tasks/{task}/live") as stream:
        async for line in stream.aiter_lines():
            heard.append(line)
            if "chip submitted" in line:
                await api.sql("UPDATE api_key SET revoked_at = now() WHERE tenant_id = $1", tenant.id)
    assert any("You are signed out here" in line for line in heard)


async def test_a_reader_that_leaves_is_not_served_any_longer(api: Api, visitor: Browser, tenant: Tenant) -> None:
    task = await tenant.task()
    await visitor.sign_in(tenant.key)
    async with visitor.client.stream("GET", f"/console/tasks/{task}/live") as stream:
        await anext(stream.aiter_lines())

    async def left() -> bool:
        return not any(running.get_name() == "console-reader" for running in asyncio.all_tasks())

    await until_true(left)


@pytest.mark.parametrize("limit", ["MOST_OPEN", "MOST_OF_ONE"])
async def test_too_many_live_parts_are_refused_and_the_page_stands(
    visitor: Browser, tenant: Tenant, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(live, limit, 1)
    task = await tenant.task()
    await visitor.sign_in(tenant.key)
    async with visitor.client.stream("GET", f"/console/tasks/{task}/live") as stream:
        lines = stream.aiter_lines()  # held, or it is closed
        await anext(lines)
        answer = await visitor.client.get("/console/live")
        assert (answer.status_code, answer.headers["retry-after"], answer.content) == (503, "30", b"")
        # as a stream, which its reader asks for again; anything else would be put into the page, or given up
        assert answer.headers["content-type"].startswith("text/event-stream")
    assert '"noSwap":[204,304,"4xx","5xx"]' in await visitor.get("/console")


async def test_one_tenants_live_parts_leave_room_for_the_others(
    api: Api, visitor: Browser, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MOST_OF_ONE", 1)
    task = await tenant.task()
    await visitor.sign_in(tenant.key)
    async with visitor.client.stream("GET", f"/console/tasks/{task}/live") as stream:
        lines = stream.aiter_lines()  # held, or it is closed
        await anext(lines)
        async with browser(api.url) as other:
            await other.sign_in((await api.tenant()).key)
            async with other.client.stream("GET", "/console/live") as theirs:
                assert theirs.status_code == 200


async def test_a_live_part_that_fails_leaves_its_place_to_the_next(
    api: Api, visitor: Browser, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MOST_OF_ONE", 1)
    task = await tenant.task()
    await visitor.sign_in(tenant.key)

    async def fail(*_: object) -> None:
        raise RuntimeError("a surprise")

    with monkeypatch.context() as failing:
        failing.setattr(api.service.hub, "watch", fail)
        assert (await visitor.client.get(f"/console/tasks/{task}/live")).status_code == 500
    async with visitor.client.stream("GET", f"/console/tasks/{task}/live") as stream:
        assert stream.status_code == 200


async def test_live_parts_end_while_the_process_drains(api: Api, visitor: Browser, tenant: Tenant) -> None:
    task = await tenant.task()
    await visitor.sign_in(tenant.key)
    async with visitor.client.stream("GET", f"/console/tasks/{task}/live") as stream:
        lines = stream.aiter_lines()
        await anext(lines)
        api.health.draining = True
        try:
            heard = [line async for line in lines]
        finally:
            api.health.draining = False
    assert "event: end" not in heard  # its browser asks another process


async def test_a_list_is_told_of_its_own_tasks_alone(visitor: Browser, tenant: Tenant) -> None:
    shown, other = await tenant.task(), await tenant.task()
    await visitor.sign_in(tenant.key)
    heard: list[str] = []
    async with visitor.client.stream("GET", f"/console/tasks/live?ids={shown},nonsense") as stream:
        async for line in stream.aiter_lines():
            heard.append(line)
            if "chip submitted" in line:
                await tenant.call("POST", f"/v1/tasks/{other}/cancel")
                await tenant.call("POST", f"/v1/tasks/{shown}/cancel")
    assert any("chip canceled" in line for line in heard)
    assert not any(other in line for line in heard)


# --- what operators look after


async def test_a_tenant_named_in_the_address_is_for_operators_alone(api: Api, visitor: Browser, tenant: Tenant) -> None:
    other = await api.tenant()
    await other.model("m-of-other")
    task = await other.task("m-of-other")
    paths = (f"/console/tasks?tenant={other.id}", f"/console/model?name=m-of-other&tenant={other.id}")
    await visitor.sign_in(tenant.key)
    assert task not in await visitor.get(paths[0])
    await visitor.get(paths[1], expect=404)
    await visitor.get(f"/console/tasks/{task}?tenant={other.id}", expect=404)
    await visitor.post("/console/sign-out")
    await visitor.sign_in(await operator(api, tenant))
    for path in paths:
        assert "m-of-other" in await visitor.get(path)
    page = await visitor.get(f"/console/tasks/{task}?tenant={other.id}")
    assert f'action="/console/tasks/{task}/cancel?tenant={other.id}"' in page
    assert "canceled" in text_of(await visitor.post(f"/console/tasks/{task}/cancel?tenant={other.id}"))
    for wrong in ("x", "1" * 30, "--1", "%00"):
        await visitor.get(f"/console/tasks?tenant={wrong}", expect=400)


async def test_pausing_needs_an_operator_and_is_recorded(api: Api, visitor: Browser, tenant: Tenant) -> None:
    await visitor.sign_in(tenant.key)
    assert "Pause" not in await visitor.get("/console/model?name=m")
    await visitor.post("/console/model/pause", expect=403, name="m", reason="x")
    await visitor.post("/console/pause-all", expect=403, reason="x")
    await visitor.post("/console/sign-out")
    await visitor.sign_in(await operator(api, tenant))
    page = text_of(await visitor.post("/console/model/pause", name="m", reason="for <b>now</b>"))
    assert "for <b>now</b>" in page
    assert "m of tenant" in page
    assert "for <b>now</b>" in text_of(await visitor.get("/console/actions"))
    page = text_of(await visitor.post("/console/model/pause", name="m", resume="1"))
    assert "is paused since" not in page
    await visitor.post("/console/model/pause", expect=404, name="nobody", reason="x")
    await visitor.post("/console/model/pause", expect=400, name="m", reason="x" * 501)


async def test_a_tenants_webhooks_are_seen_with_their_state_and_what_waits(
    api: Api, visitor: Browser, tenant: Tenant
) -> None:
    urls = [f"http://127.0.0.1:9/hook-{n}?token=canary-6" for n in range(5)]
    made = [await tenant.call("POST", "/v1/webhooks", json={"url": url, "events": ["failed"]}) for url in urls]
    off, held, paused, failing, fine = (answer.json()["id"] for answer in made)
    await api.sql(
        "UPDATE webhook SET disabled_at = now(), disabled_reason = 'failed for <5> days' WHERE id = $1", int(off)
    )
    await tenant.call("PATCH", f"/v1/webhooks/{paused}", json={"paused": True})
    await api.sql("UPDATE webhook SET failing_since = '2026-02-05T10:00:00Z' WHERE id = $1", int(failing))
    for webhook, status in ((off, "dead"), (off, "dead"), (failing, "pending"), (failing, "delivered")):
        await tenant.delivery(webhook, status)
    other = await api.tenant()
    theirs = (await other.call("POST", "/v1/webhooks", json={"url": "http://127.0.0.1:9/theirs"})).json()["id"]
    await other.delivery(theirs)
    await visitor.sign_in(await operator(api, tenant))
    await visitor.post("/console/outbox/pause", webhook=held, reason="it moves")
    page = await visitor.get(f"/console/tenants/{tenant.id}")
    rows = {found[1]: text_of(row) for row in page.split("<tr>") if (found := re.search(r"/hook-(\d)", row))}
    assert "switched off failed for <5> days" in unescape(rows["0"])
    assert "0 2" in rows["0"]
    assert "held" in rows["1"]
    assert "night shift" in rows["1"]
    assert ": it moves" in rows["1"]
    assert "paused by its tenant" in rows["2"]
    assert "failing" in rows["3"]
    assert "2026-02-05 10:00:00 1 0" in rows["3"]
    assert "active" in rows["4"]
    assert f"#{fine} failed active" in rows["4"]
    assert "theirs" not in page
    assert "canary" not in page
    assert f"/console/dead?kind=delivery&tenant={tenant.id}" in links_of(page)
    page = await visitor.get(f"/console/tenants/{(await api.tenant()).id}")
    assert "No webhooks" in text_of(page)


async def test_a_webhook_is_held_and_resumed_on_the_outbox_page(api: Api, visitor: Browser, tenant: Tenant) -> None:
    hook = (await tenant.call("POST", "/v1/webhooks", json={"url": "http://127.0.0.1:9/hook"})).json()["id"]
    note = f"What is sent to webhook {hook} of tenant {tenant.id} is paused since"
    await visitor.sign_in(await operator(api, tenant))
    page = text_of(await visitor.post("/console/outbox/pause", webhook=hook, reason="it <b>moves</b>"))
    assert note in page
    assert "it <b>moves</b>" in page
    for path in ("/dead?kind=delivery", "/dead", f"/tenants/{tenant.id}"):
        page = await visitor.get(f"/console{path}")
        assert note in text_of(page), path
        assert 'action="/console/outbox/pause"' in page

    async def told() -> bool:
        return note in text_of(await visitor.get("/console"))

    await until_true(told)  # what everybody sees is looked at once a second
    assert note not in text_of(await visitor.get("/console/dead?kind=task"))
    assert note not in text_of(await visitor.post("/console/outbox/pause", webhook=hook, resume="1"))
    for nothing in ("0", "x", "9" * 19, "9" * 5_000, ""):
        await visitor.post("/console/outbox/pause", expect=404, webhook=nothing, reason="x")
    await visitor.post("/console/outbox/pause", expect=400, webhook=hook, reason="x" * 501)
    await visitor.post("/console/sign-out")
    await visitor.sign_in(tenant.key)
    await visitor.post("/console/outbox/pause", expect=403, webhook=hook, reason="x")
    await api.sql("UPDATE pause SET ended = NULL WHERE webhook_id = $1", int(hook))
    page = text_of(await visitor.get("/console"))
    assert f"What is sent to webhook {hook} is paused since" in page
    assert "by an operator: it <b>moves</b>" in page
    assert "night shift" not in page
    await api.sql("UPDATE pause SET ended = now() WHERE webhook_id = $1", int(hook))
    visitor.csrf = "0" * 64
    await visitor.post("/console/outbox/pause", expect=403, webhook=hook, reason="x")


async def test_a_tenant_is_weighed_paused_and_limited(api: Api, visitor: Browser, tenant: Tenant) -> None:
    await visitor.sign_in(await operator(api, tenant))
    path = f"/console/tenants/{tenant.id}"
    assert f"/console/tenants/{tenant.id}" in await visitor.get(f"/console/tenants?after={tenant.id - 1}")
    await visitor.get(path)
    assert 'value="7"' in await visitor.post(f"{path}/weight", weight="7")
    assert "paused" in text_of(await visitor.post(f"{path}/pause", reason="asked to"))
    await visitor.post(f"{path}/pause", resume="1")
    assert "amy" in text_of(await visitor.post(f"{path}/limit", user="amy", points="500"))
    # Taken away is the limit whose button it is, not that of somebody whose name is nearly the same, or of all others.
    for user in ("amy ", "  ", ""):
        await api.sql(
            "INSERT INTO quota_limit (tenant_id, user_name, points_per_day) VALUES ($1, $2, 5)", tenant.id, user
        )
    for user in ("amy ", "  "):
        await visitor.post(f"{path}/limit", user=user, clear="1")
    rows = await api.sql("SELECT user_name FROM quota_limit WHERE tenant_id = $1 ORDER BY 1", tenant.id)
    assert [row["user_name"] for row in rows] == ["", "amy"]
    assert "amy" not in text_of(await visitor.post(f"{path}/limit", user="amy", clear="1"))
    rows = await api.sql("SELECT weight, paused FROM tenant WHERE id = $1", tenant.id)
    assert dict(rows[0]) == {"weight": 7, "paused": False}
    for fields in ({"weight": "0"}, {"weight": "1001"}, {"weight": "x"}, {}):
        await visitor.post(f"{path}/weight", expect=400, **fields)
    await visitor.get("/console/tenants/x", expect=404)
    await visitor.get("/console/tenants/-9223372036854775807", expect=404)


async def test_what_operators_look_after_is_not_for_tenants(visitor: Browser, tenant: Tenant) -> None:
    await visitor.sign_in(tenant.key)
    for path in ("outbox", "executors", "tenants", f"tenants/{tenant.id}", "audit", "actions", "settings"):
        await visitor.get(f"/console/{path}", expect=403)
    for path in ("audit", "executors/drain", f"tenants/{tenant.id}/weight", f"tenants/{tenant.id}/limit"):
        await visitor.post(f"/console/{path}", expect=403)


@pytest.mark.parametrize("posture", ["starting", "crowded", "hangs", "something new"])
async def test_an_executor_is_shown_whatever_it_says_of_itself(
    api: Api, visitor: Browser, tenant: Tenant, posture: str
) -> None:
    await visitor.sign_in(await operator(api, tenant))
    name = f"e-{uuid.uuid4()}"
    await api.sql(  # its next heartbeat is far away
        "INSERT INTO executor (id, name, slots, posture, beat_at, adapters)"
        " VALUES (nextval('executor_ids') + 1000000, $1, 9, $2, now() + interval '1 min', '{replicate,cog}')",
        name,
        posture,
    )

    async def shown() -> bool:
        return name in await visitor.get("/console/executors")

    try:
        await until_true(shown)
        page = text_of(await visitor.get("/console/executors"))
        assert posture in page
        # Other executors may be there; it is said how many have an adapter where not all have.
        adapters = page.partition("Adapters by which they can call models: ")[2]
        assert re.match(r"cog( \(1 of \d+ executors\))?, replicate", adapters), adapters[:200]
    finally:
        await api.sql("DELETE FROM executor WHERE name = $1", name)


async def test_an_operators_addresses_name_the_tenant_so_that_colleagues_see_the_same(
    api: Api, visitor: Browser, tenant: Tenant
) -> None:
    task = await tenant.task()
    await visitor.sign_in(await operator(api, tenant))
    for path in ("/console/tasks", f"/console/models?tenant={tenant.id}"):
        inside = [
            link
            for link in links_of(await visitor.get(path))
            if link.startswith(("/console/tasks/", "/console/model?"))
        ]
        assert inside, path
        assert all(f"tenant={tenant.id}" in link for link in inside), (path, inside)
    page = await visitor.get(f"/console/models?tenant={tenant.id}&after=1000000000")
    assert f'href="/console/models?tenant={tenant.id}"' in page
    assert f"tenant={tenant.id}" in str((await visitor.client.get(f"/console/tasks?id={task}")).url)


@pytest.mark.parametrize(
    "query",
    [
        "models?after=" + "9" * 5_000,
        "tasks?cursor=" + base64.b64encode(b"task:" + b"9" * 5_000).decode(),
        "tenants/1?after=%00",
    ],
    ids=["model", "task", "nul"],
)
async def test_an_address_that_names_no_place_is_said_to(
    api: Api, visitor: Browser, tenant: Tenant, query: str
) -> None:
    await visitor.sign_in(await operator(api, tenant))
    await visitor.get(f"/console/{query.replace('tenants/1', f'tenants/{tenant.id}')}", expect=400)


async def test_an_executor_that_nobody_knows_cannot_be_drained(api: Api, visitor: Browser, tenant: Tenant) -> None:
    await visitor.sign_in(await operator(api, tenant))
    assert "no executor" in text_of(await visitor.post("/console/executors/drain", expect=404, name="nobody"))


async def test_the_dead_of_a_tenant_are_seen_and_replayed_inside_it(api: Api, visitor: Browser, tenant: Tenant) -> None:
    other = await api.tenant()
    await other.model("m")
    mine, theirs = await bury(tenant), await bury(other)
    await visitor.sign_in(tenant.key)
    page = await visitor.get("/console/dead")
    assert mine in page
    assert theirs not in page
    await visitor.get(f"/console/dead/task/{theirs}", expect=404)
    assert "it is broken" in text_of(await visitor.get(f"/console/dead/task/{mine}"))
    order = {"kind": "task", "action": "replay", "id": theirs, "reason": "mended"}
    await visitor.get(f"/console/dead/order?kind=task&id={mine}")
    await visitor.post("/console/dead/order", expect=404, **order)
    page = await visitor.post("/console/dead/order", **{**order, "id": mine})
    assert "Job #" in page
    assert mine[-12:] in page
    assert f"user-of-{tenant.id} of tenant {tenant.id}" in page
    assert "replay tasks" in text_of(await visitor.get("/console/replays"))


async def test_a_tenant_is_not_led_to_an_operators_job(api: Api, visitor: Browser, tenant: Tenant) -> None:
    task = await bury(tenant)
    other = Tenant(api, (await api.tenant()).id, await operator(api, tenant))
    answer = await other.call("POST", "/v1/replays", json={"ids": [task], "reason": "unpaid bill"})
    path = f"/console/replays/{answer.json()['id']}"
    for key, led in ((tenant.key, False), (other.key, True)):
        visitor.client.cookies.clear()
        await visitor.sign_in(key)
        for page in ("/console/dead?code=model_http_500", f"/console/dead/task/{task}"):
            shown = await visitor.get(page)
            assert (path in links_of(shown)) == led, page
            assert ("operator's" in unescape(text_of(shown))) != led, page
        assert ("night shift" in shown, "unpaid bill" in shown) == (led, led), "no tenant reads who, and why"
        await visitor.get(path, expect=200 if led else 404)


async def test_a_dry_run_changes_nothing_and_an_order_needs_a_reason(
    api: Api, visitor: Browser, tenant: Tenant
) -> None:
    await bury(tenant)
    await visitor.sign_in(tenant.key)
    page = text_of(await visitor.get("/console/dead/order?kind=task&action=drop&code=model_http_500"))
    assert "1 task" in page
    await api.sql("UPDATE lane SET closed = true WHERE tenant_id = $1", tenant.id)
    page = text_of(await visitor.get("/console/dead/order?kind=task&action=replay&code=model_http_500"))
    assert "The job would refuse 1 of them, which stay dead: 1 model_deleted." in page
    fields = {"kind": "task", "action": "drop", "code": "model_http_500", "counted": "1000"}
    assert "reason" in text_of(await visitor.post("/console/dead/order", expect=400, **fields))
    for wrong in ({"limit": "x"}, {"limit": "0"}, {"rate": "x"}, {"rate": "nan"}, {"since": "soon"}):
        await visitor.post("/console/dead/order", expect=400, reason="r", **{**fields, **wrong})
    await visitor.post("/console/dead/order", expect=404, reason="r", kind="nonsense")
    assert await api.sql("SELECT FROM dead_task WHERE tenant_id = $1", tenant.id)


async def test_an_order_takes_what_was_counted_and_nothing_that_died_since(
    api: Api, visitor: Browser, tenant: Tenant
) -> None:
    counted = [await bury(tenant), await bury(tenant)]
    await visitor.sign_in(tenant.key)
    page = await visitor.get("/console/dead/order?kind=task&action=drop&code=model_http_500&text=%20broken&limit=1")
    assert "1 task; these are the oldest, there may be more" in text_of(page)
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page)) | {"reason": "r"}
    del fields["csrf"]
    page = await visitor.post("/console/dead/order", expect=400, **fields, limit="50")
    assert "counted anew" in text_of(page)
    assert "2 tasks" in text_of(page)
    fields |= dict(re.findall(r'<input type="hidden" name="(counted|upto)" value="([^"]*)"', page))
    later = await bury(tenant)
    page = await visitor.post("/console/dead/order", **fields, limit="50")
    assert all(task[-12:] in page for task in counted)
    assert later[-12:] not in page


async def test_filters_of_the_dead_live_in_the_address(api: Api, visitor: Browser, tenant: Tenant) -> None:
    task = await bury(tenant)
    await visitor.sign_in(tenant.key)
    page = await visitor.get("/console/dead")
    model = await api.sql("SELECT model_id FROM task WHERE public_id = $1", UUID(task))
    (group,) = set(re.findall(r"model_id=(\w+)", page))
    assert group == str(model[0]["model_id"]), "a group is replayed by its model's id"
    for query in (
        "", "kind=task", "code=model_http_500", "model=m", "text=broken", "since=2020-01-01T00:00", f"model_id={group}",
    ):  # fmt: skip
        assert task in await visitor.get(f"/console/dead?{query}"), query
    for query in ("kind=event", "code=x", "model=x", "text=nothing", "until=2020-01-01T00:00", "model_id=none"):
        assert task not in await visitor.get(f"/console/dead?{query}"), query
    for query in (
        "since=x",
        "since=0001-01-01T00:00%2B14:00",
        "until=9999-12-31T23:59-14:00",
        "tenant=x",
        "text=%00",
        "cursor=x",
        "model_id=x",
    ):
        await visitor.get(f"/console/dead?{query}", expect=400)
    await visitor.get("/console/dead?kind=x", expect=404)


async def test_dead_deliveries_are_narrowed_to_those_of_a_webhook(api: Api, visitor: Browser, tenant: Tenant) -> None:
    hooks = [
        (await tenant.call("POST", "/v1/webhooks", json={"url": f"http://127.0.0.1:9/{n}"})).json()["id"] for n in "ab"
    ]
    for hook in (hooks[0], hooks[0], hooks[1]):
        await tenant.delivery(hook, "dead")
    await visitor.sign_in(await operator(api, tenant))
    mine = f"/console/dead?kind=delivery&webhook={hooks[0]}"
    path = f"/console/dead?kind=delivery&tenant={tenant.id}&webhook={hooks[0]}"
    assert path in links_of(await visitor.get(f"/console/tenants/{tenant.id}"))
    page = await visitor.get(path)
    assert f'name="webhook" value="{hooks[0]}"' in page
    assert text_of(page).count(f"webhook #{hooks[0]}") == 2
    assert f"webhook #{hooks[1]}" not in text_of(page)
    orders = [link for link in links_of(page) if "/dead/order?" in link]
    assert len(orders) == 3, "all, none of all, and the group"
    assert all(f"webhook={hooks[0]}" in link for link in orders)
    page = await visitor.get(orders[0])
    assert "2 deliveries" in text_of(page)
    page = await visitor.post(
        "/console/dead/order", kind="delivery", action="drop", tenant=str(tenant.id), webhook=hooks[0],
        reason="that server is gone", counted="1000", limit="1000",
    )  # fmt: skip
    assert "Job #" in page
    (job,) = await api.sql("SELECT asked, total FROM replay_job ORDER BY id DESC LIMIT 1")
    assert (job["total"], f'"webhook": "{hooks[0]}"' in job["asked"]) == (2, True)
    (other,) = await api.sql("SELECT id FROM delivery WHERE webhook_id = $1", int(hooks[1]))
    assert mine.replace(hooks[0], hooks[1]) in links_of(await visitor.get(f"/console/dead/delivery/{other['id']}"))
    assert 'name="webhook"' not in await visitor.get("/console/dead?kind=task"), "tasks have none"
    for nothing in ("0", "9" * 19):
        assert "matches" in text_of(await visitor.get(f"/console/dead?webhook={nothing}"))
    for wrong in ("x", "-1", "none", "9" * 20):
        await visitor.get(f"/console/dead?webhook={wrong}", expect=400)


async def test_what_the_broker_refuses_stands_above_the_numbers(api: Api, visitor: Browser, tenant: Tenant) -> None:
    await api.sql(
        "INSERT INTO process (role, name, broker_reachable, refused_lanes, refused_causes, events_refused)"
        " VALUES ('dispatcher', 'd-refused', true, '{1,2}', '{x,y}', 'InvalidReplicationFactorError: <3>')"
    )
    await visitor.sign_in(await operator(api, tenant))

    async def told() -> bool:
        page = text_of(await visitor.get("/console"))
        return "refuses the topic of events: InvalidReplicationFactorError: <3>. No end is announced." in page

    try:
        await until_true(told)  # what everybody sees is looked at once a second
        assert "topics the broker refuses: 2. Their pages say why." in text_of(await visitor.get("/console"))
        assert "topic of events: InvalidReplicationFactorError" in text_of(await visitor.get("/console/executors"))
    finally:
        await api.sql("DELETE FROM process WHERE name = 'd-refused'")


_TEXT_AREA = re.compile(r'<textarea name="mended"[^>]*>\n(.*?)</textarea>', re.DOTALL)


@pytest.mark.parametrize(
    ("value", "size", "field"),
    [
        (b'\n{"v": 1, "text": "<b>5 & \xc3\xa4"}', None, '\n{"v": 1, "text": "<b>5 & ä"}'),
        (b'{"v": 1, "password": "canary-5"}', None, ""),
        (b'{"v": 1, "text": "' + b"x" * 70_000 + b'"}', None, ""),
        (b"\xff\xfe", None, None),
        (b"a\x00b", None, None),
        (b'{"v": 1, "tex', 2_000_000, None),
        (None, 0, ""),
    ],
    ids=["text", "masked", "longer than shown", "bytes", "nul", "cut", "no value"],
)
async def test_a_message_is_edited_where_all_of_it_may_be_shown(
    api: Api, visitor: Browser, tenant: Tenant, value: bytes | None, size: int | None, field: str | None
) -> None:
    number = await poison(api, value, size)
    await visitor.sign_in(await operator(api, tenant))
    page = await visitor.get(f"/console/dead/message/{number}")
    assert "canary" not in page
    found = _TEXT_AREA.search(page)
    assert (unescape(found[1]) if found else None) == field
    assert ("--value FILE" in text_of(page)) == (field is None)
    assert ("write the whole message" in text_of(page)) == (field == "" and value is not None)
    assert "Headers sent-by a stranger" in text_of(page)


async def test_a_message_is_sent_as_it_was_mended_and_never_with_a_mask(
    api: Api, visitor: Browser, tenant: Tenant
) -> None:
    number = await poison(api, b'{"v": 1, "password": "canary-5"}')
    await visitor.sign_in(await operator(api, tenant))
    path = f"/console/dead/message/{number}/mended"
    await visitor.get(f"/console/dead/message/{number}")
    masked = '{"v": 1, "password": "***", "text": "<&>"}'
    page = await visitor.post(path, expect=400, mended=masked, reason="by hand")
    assert "in place of a secret" in text_of(page)
    assert unescape(_TEXT_AREA.findall(page)[0]) == masked, "what was written is still there"
    assert 'value="by hand"' in page
    for wrong in ({"mended": "", "reason": "r"}, {"mended": "{}", "reason": ""}):
        await visitor.post(path, expect=400, **wrong)
    await visitor.post(path, expect=413, mended="x" * (7 * KEPT_BYTES), reason="r")
    await visitor.get(f"/console/dead/message/{number}")
    page = await visitor.post(path, mended="ä\r\n" * (KEPT_BYTES // 3), reason="by hand")
    assert "replay messages" in text_of(page)
    (job,) = await api.sql("SELECT mended FROM replay_job ORDER BY id DESC LIMIT 1")
    assert job["mended"] == "ä\n".encode() * (KEPT_BYTES // 3)


async def poison(api: Api, value: bytes | None, size: int | None = None) -> int:
    """A message that nobody could read; `size` is what it had before it was cut."""
    whole = size if size is not None else len(value or b"")
    (row,) = await api.sql(
        'INSERT INTO dead_message (topic, "partition", "offset", digest, value, size, headers, code, cause)'
        " VALUES ($1, 0, 0, '\\x00', $2, $3, $4, 'not_json', 'not JSON') RETURNING id",
        uuid.uuid4().hex, value, whole, '[["sent-by", "a stranger"]]',
    )  # fmt: skip
    number: int = row["id"]
    return number


async def bury(tenant: Tenant) -> str:
    """A task of the tenant that died."""
    task = await tenant.task(payload={"x": 1})
    await tenant.bury([task], "it is broken", "model_http_500")
    return task
