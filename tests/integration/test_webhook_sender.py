"""Deliveries from the table to a receiver: signed, on schedule, each by itself, and given up in the end."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from aiohttp import web

from libs.common.adapters.egress import EgressGuard
from libs.common.adapters.postgres import right
from libs.common.adapters.postgres.database import Database
from libs.common.adapters.postgres.deliveries import PostgresDeliveries
from libs.common.adapters.postgres.webhooks import PostgresWebhooks
from libs.common.adapters.secrets import KeyRing
from libs.common.adapters.webhook_post import open_webhook_post
from libs.common.domain.webhook import ATTEMPTS
from libs.common.operations.webhooks import WebhookAdministration
from libs.common.ports_webhooks import Answer, Delivery, HookedEvent, Place, Reach, Tried, Webhook
from libs.common.runtime import failpoints
from services.dispatcher import webhooks
from services.dispatcher.webhooks import PER_LINE, WebhookSender
from services.janitor.sweeps.prune import Prune
from tests.support.descriptors import no_more_files
from tests.support.house import House
from tests.support.receiver import Receiver, open_receiver
from tests.support.sights import controls_of
from tests.support.waiting import until

TENANT = 7
RING = KeyRing("t:" + "dGVzdCB0ZXN0IHRlc3QgdGVzdCB0ZXN0IHRlc3QgMTI=")


@dataclass
class Post:
    """A sender over real tables, and the receiver at the other end."""

    house: House
    receiver: Receiver
    deliveries: PostgresDeliveries
    sender: WebhookSender
    desk: WebhookAdministration

    async def webhook(self, path: str = "/hook", tenant: int = TENANT, **fields: Any) -> tuple[Webhook, str]:
        url = {} if fields.get("kind") == "tasks" else {"url": self.receiver.url + path}
        return await self.desk.create(tenant, {**url, **fields})

    async def event(self, *, url: str | None = None, bit: int = 1, tenant: int = TENANT, line: str = "") -> str:
        """An end whose event was acknowledged by Kafka; its message id."""
        (row,) = await self.house.sql(
            "INSERT INTO event (task_id, version, status, attempt) VALUES (1, 5, 6, 1) RETURNING id, finished_at"
        )
        message, body = f"{uuid4()}:5", '{"type":"task.success","data":{"creator":"Jürgen ✓"}}'
        hooked = HookedEvent(
            row["id"], tenant, uuid4(), bit, message, "task.success", body, url, line, row["finished_at"]
        )
        await self.house.database.fetch("hand_to_webhooks", *_columns(hooked))
        return message

    async def send(self) -> int:
        """One look; what it begins is over when this returns."""
        begun = await self.sender.send_due()
        await self.sender.idle()
        return begun

    async def later(self) -> None:
        """The time of every next attempt has come."""
        await self.house.sql("UPDATE delivery SET next_at = now() WHERE status = 'pending'")

    async def states(self) -> list[tuple[str, int, int | None]]:
        rows = await self.house.sql("SELECT status, attempts, last_code FROM delivery ORDER BY id")
        return [(row["status"], row["attempts"], row["last_code"]) for row in rows]


def _columns(event: HookedEvent) -> list[list[Any]]:
    return [
        [value]
        for value in (
            event.id, event.tenant_id, event.task_id, event.bit, event.message_id, event.type, event.body, event.url,
            event.line, event.finished_at,
        )
    ]  # fmt: skip


@asynccontextmanager
async def open_sender(post: Post, allow: str = "127.0.0.0/8", seconds: float = 5) -> AsyncIterator[WebhookSender]:
    async with open_webhook_post(EgressGuard.from_setting(allow), seconds=seconds) as poster:
        yield WebhookSender(PostgresDeliveries(post.house.database), poster, RING.open, Random(1))


@pytest.fixture
async def post(house: House) -> AsyncIterator[Post]:
    await house.sql("TRUNCATE webhook, delivery, delivery_try")
    guard = EgressGuard.from_setting("127.0.0.0/8")
    async with open_receiver() as receiver, open_webhook_post(guard, seconds=5) as poster:
        deliveries = PostgresDeliveries(house.database)
        sender = WebhookSender(deliveries, poster, RING.open, Random(1))
        yield Post(
            house, receiver, deliveries, sender, WebhookAdministration(PostgresWebhooks(house.database), RING, guard)
        )
        await deliveries.close()


async def test_an_end_reaches_each_address_that_wants_it_signed_by_its_own_secret(post: Post) -> None:
    (_, all_ends), (_, failures) = await post.webhook("/all"), await post.webhook("/failures", events=["failed"])
    await post.webhook("/foreign", tenant=8)
    message = await post.event()
    assert await post.send() == 1
    (received,) = post.receiver.received
    assert (received.path, received.id) == ("/all", message)
    assert received.signed_by(all_ends)
    assert not received.signed_by(failures)
    assert received.headers["content-type"] == "application/json"
    assert received.message["data"]["creator"] == "Jürgen ✓"
    assert await post.states() == [("delivered", 1, 200)]
    assert await post.house.sql("SELECT 1 FROM event") == []
    await post.event(bit=2)
    assert await post.send() == 2
    assert post.receiver.at("/failures")[0].signed_by(failures)
    assert await post.send() == 0


async def test_a_tasks_own_address_is_signed_by_the_tenants_secret_for_tasks(post: Post) -> None:
    own = post.receiver.url + "/own"
    await post.event(url=own)  # nothing signs for it
    assert await post.send() == 0
    _, secret = await post.webhook(kind="tasks")
    await post.event(url=own, line=post.receiver.url)
    await post.event()
    assert await post.send() == 1
    assert post.receiver.at("/own")[0].signed_by(secret)


async def test_failures_come_back_on_schedule_and_die_with_what_was_answered(post: Post) -> None:
    webhook, _ = await post.webhook()
    post.receiver.answers["/hook"] = 503
    message = await post.event()
    for attempt in range(1, ATTEMPTS + 1):
        assert await post.send() == 1
        (row,) = await post.house.sql("SELECT *, extract(epoch FROM next_at - now())::int AS pause FROM delivery")
        assert row["attempts"] == attempt
        if attempt == 2:
            assert 280 <= row["pause"] <= 300 * 1.2
        assert await post.send() == 0
        await post.later()
    assert await post.states() == [("dead", ATTEMPTS, 503)]
    assert {received.id for received in post.receiver.received} == {message}
    (shown,) = (await post.desk.deliveries(TENANT, webhook.id, None, 10))[0]
    assert [tried["attempt"] for tried in shown.tries] == list(range(1, ATTEMPTS + 1))
    assert (shown.last_error, shown.tries[0]["error"]) == ("status 503", "status 503")
    assert shown.tries[0]["answer"].startswith("answered 503")
    assert len(shown.tries[0]["answer"]) == 1_024
    (row,) = await post.house.sql("SELECT dead_at, next_at FROM delivery")
    assert row["dead_at"] is not None
    assert row["next_at"] is None

    post.receiver.answers["/hook"] = 204
    await post.desk.redeliver(TENANT, webhook.id, shown.id)
    assert await post.send() == 1
    assert await post.states() == [("delivered", ATTEMPTS + 1, 204)]
    assert post.receiver.received[-1].id == message


async def test_only_2xx_in_time_counts(post: Post) -> None:
    elsewhere = {"Location": post.receiver.url + "/elsewhere"}
    post.receiver.answers |= {
        "/moved": lambda: web.Response(status=302, headers=elsewhere),
        "/moved-post": lambda: web.Response(status=307, headers=elsewhere),
        "/error": 500,
        "/created": 201,
    }
    post.receiver.slow["/late"] = asyncio.Event()
    for path in ("/moved", "/moved-post", "/error", "/created", "/late"):
        await post.webhook(path)
    await post.webhook("/nobody")
    await post.house.sql("UPDATE webhook SET url = 'http://127.0.0.1:1/' WHERE url LIKE '%nobody'")
    await post.event()
    async with open_sender(post, seconds=0.3) as sender:
        assert await sender.send_due() == 6
        await sender.idle()
    assert post.receiver.at("/elsewhere") == []
    rows = await post.house.sql(
        "SELECT w.url, d.status, d.last_code, d.last_error FROM delivery d JOIN webhook w ON w.id = d.webhook_id"
    )
    found = {row["url"].rpartition("/")[2]: (row["status"], row["last_code"], row["last_error"]) for row in rows}
    assert found == {
        "moved": ("pending", 302, "status 302, and redirects are not followed"),
        "moved-post": ("pending", 307, "status 307, and redirects are not followed"),
        "error": ("pending", 500, "status 500"),
        "created": ("delivered", 201, None),
        "late": ("pending", None, "no whole answer within 0.3 s"),
        "": ("pending", None, "the connection failed: ClientConnectorError"),
    }


async def test_a_private_address_is_not_called(post: Post) -> None:
    await post.webhook()
    await post.event()
    async with open_sender(post, allow="") as sender:
        assert await sender.send_due() == 1
        await sender.idle()
    assert post.receiver.received == []
    (row,) = await post.house.sql("SELECT status, last_error FROM delivery")
    assert row["status"] == "pending"
    assert "SLUICEWAY_EGRESS_ALLOW" in row["last_error"]


async def test_a_slow_address_holds_up_no_other(post: Post) -> None:
    await post.webhook("/slow")
    await post.webhook("/quick")
    post.receiver.slow["/slow"] = asyncio.Event()
    for _ in range(3 * PER_LINE):
        await post.event()
    running = asyncio.create_task(post.sender.run())
    await until(lambda: len(post.receiver.at("/quick")) == 3 * PER_LINE, seconds=10)
    assert len(post.receiver.at("/slow")) == PER_LINE
    post.receiver.slow["/slow"].set()
    await until(lambda: len(post.receiver.at("/slow")) == 3 * PER_LINE, seconds=10)
    post.sender.stop()
    await running
    assert await post.states() == [("delivered", 1, 200)] * 6 * PER_LINE
    ids = [received.id for received in post.receiver.received]
    assert len(set(ids)) == 3 * PER_LINE


async def test_a_quick_endpoint_waits_for_no_look(post: Post) -> None:
    webhook, _ = await post.webhook()
    messages = [await post.event() for _ in range(5 * PER_LINE)]
    assert await post.send() == PER_LINE
    assert sorted(received.id for received in post.receiver.received) == sorted(messages)
    assert await post.states() == [("delivered", 1, 200)] * len(messages)
    for _ in messages:
        await post.event()
    post.receiver.slow["/hook"] = asyncio.Event()
    assert await post.sender.send_due() == PER_LINE
    await post.desk.change(TENANT, webhook.id, {"paused": True})
    assert await post.sender.send_due() == 0
    post.receiver.slow["/hook"].set()
    await post.sender.idle()
    assert len(post.receiver.received) == len(messages) + PER_LINE, (
        "what was read ahead is forgotten with the next look"
    )


class LateAnswers(PostgresDeliveries):
    """PostgreSQL's answers to looks are on their way for so long as a test likes."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.read, self.arrive = asyncio.Event(), asyncio.Event()
        self.arrive.set()

    async def due(self, place: Place, reach: Reach) -> tuple[list[Delivery], bool]:
        found = await super().due(place, reach)
        self.read.set()
        await self.arrive.wait()
        return found


async def test_what_ends_while_a_look_is_answered_is_not_sent_again(post: Post) -> None:
    deliveries = LateAnswers(post.house.database)
    async with open_webhook_post(EgressGuard.from_setting("127.0.0.0/8")) as poster:
        sender = WebhookSender(deliveries, poster, RING.open, Random(1))
        await post.webhook()
        await post.event()
        post.receiver.slow["/hook"] = asyncio.Event()
        assert await sender.send_due() == 1
        deliveries.arrive.clear()
        deliveries.read.clear()
        look = asyncio.create_task(sender.send_due())
        await deliveries.read.wait()
        post.receiver.slow["/hook"].set()
        await sender.idle()
        deliveries.arrive.set()
        assert await look == 0
        assert await sender.send_due() == 0
    assert len(post.receiver.received) == 1


class SlowLooks(PostgresDeliveries):
    """PostgreSQL takes its time for looks."""

    async def due(self, place: Place, reach: Reach) -> tuple[list[Delivery], bool]:
        await asyncio.sleep(0.2)
        return await super().due(place, reach)


async def test_who_rests_after_a_slow_look_keeps_the_right_to_send(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(right, "_UNPROVED_SECONDS", 1)
    monkeypatch.setattr(webhooks, "_HOLD_SECONDS", 0.2)
    ours, theirs = SlowLooks(post.house.database), PostgresDeliveries(post.house.database)
    async with open_webhook_post(EgressGuard.from_setting("127.0.0.0/8")) as poster:
        sender = WebhookSender(ours, poster, RING.open, Random(1))
        await post.webhook()
        await post.event()
        running = asyncio.create_task(sender.run())
        await until(lambda: post.receiver.received, seconds=5)
        for _ in range(10):
            await asyncio.sleep(0.2)
            assert not await theirs.hold_sender()
        sender.stop()
        await running
    await ours.close()


async def test_what_was_read_ahead_is_sent_while_a_slow_look_is_rested_from(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "_HOLD_SECONDS", 0.1)
    deliveries = SlowLooks(post.house.database)
    async with open_webhook_post(EgressGuard.from_setting("127.0.0.0/8")) as poster:
        sender = WebhookSender(deliveries, poster, RING.open, Random(1))
        await post.webhook()
        for _ in range(3 * PER_LINE):
            await post.event()
        post.receiver.slow["/hook"] = asyncio.Event()
        running = asyncio.create_task(sender.run())
        await until(lambda: len(post.receiver.received) == PER_LINE, seconds=5)
        await asyncio.sleep(0.5)  # the right is proved meanwhile, and is still ours
        post.receiver.slow["/hook"].set()
        await until(lambda: len(post.receiver.received) == 3 * PER_LINE, seconds=2)
        sender.stop()
        await running
    await deliveries.close()


async def test_who_dies_before_the_record_sends_again_under_the_same_id(post: Post) -> None:
    await post.webhook()
    message = await post.event()
    for point in ("before", "after"):
        failpoints.arm(f"dispatcher/{point}-webhook:1:raise")
        assert await post.sender.send_due() == 1
        await post.sender.idle()
    failpoints.arm("")
    assert await post.states() == [("pending", 0, None)]
    assert await post.send() == 1
    assert [received.id for received in post.receiver.received] == [message, message]
    assert await post.states() == [("delivered", 1, 200)]


async def test_who_may_open_no_more_files_has_tried_nothing(post: Post) -> None:
    await post.webhook()
    await post.event()
    with no_more_files():
        assert await post.sender.send_due() == 1
        await post.sender.idle()
    assert await post.states() == [("pending", 0, None)]
    assert await post.send() == 1
    assert await post.states() == [("delivered", 1, 200)]


async def test_both_secrets_sign_after_a_rotation(post: Post) -> None:
    webhook, old = await post.webhook()
    _, fresh = await post.desk.rotate(TENANT, webhook.id, None)
    await post.event()
    await post.send()
    (received,) = post.receiver.received
    assert received.signed_by(old)
    assert received.signed_by(fresh)


async def test_paused_ones_wait_and_those_switched_off_are_given_up(post: Post) -> None:
    paused, off = (await post.webhook("/paused"))[0], (await post.webhook("/off"))[0]
    await post.desk.change(TENANT, paused.id, {"paused": True})
    await post.event()
    await post.desk.change(TENANT, off.id, {"enabled": False})
    assert await post.send() == 0
    assert await post.deliveries.bury(10) == 1
    await post.event()  # one switched off is told nothing; one paused is, later
    assert [status for status, _, _ in await post.states()] == ["pending", "dead", "pending"]
    await post.desk.change(TENANT, paused.id, {"paused": False})
    assert await post.send() == 2
    await post.desk.delete(TENANT, paused.id)
    assert await post.deliveries.bury(10) == 0


async def test_giving_up_very_many_holds_up_nobody_elses(post: Post) -> None:
    off, _ = await post.webhook("/off")
    await post.webhook("/quick", tenant=8)
    await post.event()
    await post.house.sql(
        "INSERT INTO delivery (tenant_id, webhook_id, line, url, task_id, message_id, type, body)"
        " SELECT tenant_id, webhook_id, line, url, task_id, message_id, type, body"
        " FROM delivery, generate_series(1, 30000)"
    )
    await post.desk.change(TENANT, off.id, {"enabled": False})
    running = asyncio.create_task(post.sender.run())
    for number in range(1, 4):
        await post.event(tenant=8)
        await until(lambda number=number: len(post.receiver.at("/quick")) == number, seconds=8)
    async with asyncio.timeout(10):
        while await post.house.value("SELECT count(*) FROM delivery WHERE status = 'dead'") <= 300:
            await asyncio.sleep(0.1)
    post.sender.stop()
    await running


async def test_what_an_operator_holds_waits_whatever_its_tenant_says(post: Post) -> None:
    webhook, _ = await post.webhook()
    await post.webhook("/other", tenant=TENANT + 1)
    controls = controls_of(post.house)
    await post.desk.change(TENANT, webhook.id, {"paused": True})
    assert await controls.pause_webhook(webhook.id, "ann", "it moves") == "paused"
    await post.event()
    await post.event(tenant=TENANT + 1)
    assert await post.send() == 1, "the other one's"
    resumed = await post.desk.change(TENANT, webhook.id, {"paused": False})
    assert resumed.held is not None
    assert (resumed.paused, resumed.held.by, resumed.held.reason) == (False, "ann", "it moves")
    assert await post.send() == 0
    await failing_for_days(post)
    await post.desk.change(TENANT, webhook.id, {"paused": True})
    assert await controls.resume_webhook(webhook.id, "bob") == "resumed"
    mine = await post.desk.get(TENANT, webhook.id)
    assert (mine.held, mine.paused, mine.failing_since) == (None, True, None)
    webhooks = PostgresWebhooks(post.house.database)
    assert await webhooks.page(TENANT, 0, 9, failing=False) == [mine]
    assert await webhooks.page(TENANT, mine.id, 9, failing=False) == []
    assert await webhooks.page(TENANT, 0, 9, failing=True) == []
    assert await post.send() == 0, "its tenant's own hold is left alone"
    await post.desk.change(TENANT, webhook.id, {"paused": False})
    assert await post.send() == 1
    assert [status for status, _, _ in await post.states()] == ["delivered", "delivered"]


async def test_days_of_nothing_but_failures_switch_an_address_off_and_one_success_forgives(post: Post) -> None:
    webhook, _ = await post.webhook()
    post.receiver.answers["/hook"] = 500
    await post.event()
    await post.send()
    failing = await post.desk.get(TENANT, webhook.id)
    assert failing.failing_since is not None
    assert failing.disabled_at is None
    post.receiver.answers["/hook"] = 200
    await post.later()
    await post.send()
    assert (await post.desk.get(TENANT, webhook.id)).failing_since is None

    post.receiver.answers["/hook"] = 500
    await post.event()
    await post.send()
    await failing_for_days(post)
    for _ in range(ATTEMPTS - 2):
        await post.later()
        await post.send()
        assert (await post.desk.get(TENANT, webhook.id)).disabled_at is None, "none has been tried to the end"
    await post.later()
    await post.send()
    off = await post.desk.get(TENANT, webhook.id)
    assert (off.disabled_at is not None, off.disabled_reason) == (True, "nothing but failures for days")
    assert [one.id for one in await PostgresWebhooks(post.house.database).page(None, 0, 9, failing=True)] == [
        webhook.id
    ]
    on = await post.desk.change(TENANT, webhook.id, {"enabled": True})
    assert (on.disabled_at, on.failing_since) == (None, None)


async def failing_for_days(post: Post) -> None:
    await post.house.sql("UPDATE webhook SET failing_since = now() - interval '5 days 1 minute'")


async def test_one_failure_now_and_one_long_ago_give_nothing_up(post: Post) -> None:
    webhook, _ = await post.webhook()
    post.receiver.answers["/hook"] = 503
    await post.event()
    for _ in range(ATTEMPTS):  # it was down for a day, and nothing ended until today
        await post.send()
        await post.later()
    await failing_for_days(post)
    await post.event()
    await post.send()
    assert (await post.desk.get(TENANT, webhook.id)).disabled_at is None
    assert await post.deliveries.bury(10) == 0
    post.receiver.answers["/hook"] = 200
    await post.later()
    await post.send()
    assert (await post.desk.get(TENANT, webhook.id)).failing_since is None


@pytest.mark.parametrize("change", [{"paused": False}, {"url": "http://127.0.0.1:9/corrected"}])
async def test_time_in_which_it_was_held_or_elsewhere_is_no_time_of_failures(
    post: Post, change: dict[str, Any]
) -> None:
    webhook, _ = await post.webhook()
    await post.desk.change(TENANT, webhook.id, {"paused": True})
    await failing_for_days(post)
    kept = await post.desk.change(TENANT, webhook.id, {"description": "x", "url": webhook.url, "paused": True})
    assert kept.failing_since is not None
    assert (await post.desk.change(TENANT, webhook.id, change)).failing_since is None


async def test_a_change_writes_back_nothing_that_others_changed_meanwhile(post: Post) -> None:
    webhooks = PostgresWebhooks(post.house.database)
    webhook, _ = await post.webhook()
    await post.desk.change(TENANT, webhook.id, {"paused": True, "description": "theirs"})
    await post.house.sql("UPDATE webhook SET disabled_at = now(), disabled_reason = 'it answered 410 Gone'")
    await post.desk.rotate(TENANT, webhook.id, None)
    changed = await webhooks.update(webhook, {"events": 2})  # as it was read before all that
    assert changed is not None
    assert (changed.paused, changed.description, changed.events) == (True, "theirs", 2)
    assert changed.disabled_reason == "it answered 410 Gone"
    assert changed.secrets != webhook.secrets
    assert await webhooks.update(webhook, {"secrets": b"stale"}) is None


async def test_410_switches_an_address_off_at_once(post: Post) -> None:
    webhook, _ = await post.webhook()
    post.receiver.answers["/hook"] = 410
    await post.event()
    await post.send()
    assert (await post.desk.get(TENANT, webhook.id)).disabled_reason == "it answered 410 Gone"


async def test_one_tasks_address_that_is_gone_switches_no_other_tasks_off(post: Post) -> None:
    """Each task brings its own, and one webhook signs for them all."""
    webhook, _ = await post.webhook(kind="tasks")
    post.receiver.answers["/gone"] = 410
    await post.event(url=post.receiver.url + "/gone", line="gone")
    await post.send()
    for_tasks = await post.desk.get(TENANT, webhook.id)
    assert (for_tasks.disabled_at, for_tasks.failing_since) == (None, None)
    await post.event(url=post.receiver.url + "/there", line="there")
    assert await post.send() == 1
    assert [status for status, _, _ in await post.states()] == ["pending", "delivered"]


async def test_who_is_switched_off_first_says_why(post: Post) -> None:
    webhook, _ = await post.webhook()
    post.receiver.answers["/hook"] = 410
    await post.event()
    (due,), _ = await post.deliveries.due(Place(), Reach(webhooks=9, lines=9, deliveries=9, ahead=9))
    await post.house.sql("UPDATE webhook SET disabled_at = '2026-02-05T10:00:00Z', disabled_reason = 'by its owner'")
    assert await post.deliveries.tried([Tried(due, Answer(410, None, "", 1), None)], 1) == []
    off = await post.desk.get(TENANT, webhook.id)
    assert (off.disabled_reason, off.disabled_at.year if off.disabled_at else None) == ("by its owner", 2026)


async def test_what_waits_for_a_webhook_that_was_removed_is_not_sent(post: Post) -> None:
    webhook, _ = await post.webhook()
    await post.event()
    await post.desk.delete(TENANT, webhook.id)
    assert await post.send() == 0
    assert await post.deliveries.bury(10) == 1


async def test_one_sender_at_a_time(post: Post) -> None:
    other = PostgresDeliveries(post.house.database)
    assert await post.deliveries.hold_sender()
    assert await post.deliveries.hold_sender()
    assert not await other.hold_sender()
    await post.deliveries.close()

    async def taken_over() -> None:
        while not await other.hold_sender():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(taken_over(), 10)
    await other.close()


async def test_more_addresses_than_one_look_takes_are_all_served(post: Post) -> None:
    await post.webhook(kind="tasks")
    for number in range(7):
        await post.event(url=f"{post.receiver.url}/{number}", line=f"http://Host-{number % 4}.example")
    for tenant in (8, 9):
        await post.webhook(tenant=tenant)
        await post.event(tenant=tenant)
    place, seen = Place(), []
    for _ in range(4):
        due, more = await post.deliveries.due(place, Reach(webhooks=2, lines=3, deliveries=1, ahead=1))
        seen.append({(delivery.tenant_id, delivery.line[-9:]) for delivery in due})
        assert more == bool(place.inside or place.after >= 0)
    many = {(TENANT, f"{number}.example") for number in range(4)}
    # Two webhooks a look, from the end to the beginning; three lines of each, from the last one on, to the end.
    assert [len(one) for one in seen] == [4, 1, 3, 1]
    assert seen[0] | seen[2] == many | {(8, "")}
    assert seen[1] == seen[3] == {(9, "")}


async def test_what_hangs_for_one_tenant_leaves_room_for_others(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.dispatcher.webhooks._IN_ALL", 8)
    await post.webhook(kind="tasks")
    post.receiver.slow["/hangs"] = asyncio.Event()
    for number in range(12):
        await post.event(url=f"{post.receiver.url}/hangs", line=f"http://host-{number}.example")
    await post.webhook("/quick", tenant=8)
    await post.event(tenant=8)
    running = asyncio.create_task(post.sender.run())
    await until(lambda: len(post.receiver.at("/quick")) == 1, seconds=10)
    await until(lambda: len(post.receiver.at("/hangs")) == 3)
    post.receiver.slow["/hangs"].set()
    await until(lambda: len(post.receiver.at("/hangs")) == 12, seconds=10)
    post.sender.stop()
    await running


async def test_addresses_that_hang_leave_room_for_good_ones_of_their_tenant(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.dispatcher.webhooks._IN_ALL", 8)
    await post.webhook(kind="tasks")
    post.receiver.slow["/hangs"] = asyncio.Event()
    await post.event(url=f"{post.receiver.url}/quick", line="quick")
    assert await post.send() == 1
    for number in range(12):
        await post.event(url=f"{post.receiver.url}/hangs", line=f"hangs-{number}")
    running = asyncio.create_task(post.sender.run())
    try:
        await until(lambda: len(post.receiver.at("/hangs")) == 3)  # half as many as are free
        for _ in range(5):
            await post.event(url=f"{post.receiver.url}/quick", line="quick")
        await until(lambda: len(post.receiver.at("/quick")) == 6)
        assert len(post.receiver.at("/hangs")) == 3
    finally:
        post.receiver.slow["/hangs"].set()
        post.sender.stop()
        await running


async def test_names_that_nobody_resolves_hold_up_no_other(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for a name takes a thread, for a minute where its servers do not answer."""
    answered, resolve = threading.Event(), socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **named: Any) -> Any:
        if str(host).endswith(".silent.example"):
            answered.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return resolve(host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    await post.webhook(kind="tasks")
    for number in range(40):
        await post.event(url=f"http://{number}.silent.example/", line=f"http://{number}.silent.example")
    url = post.receiver.url.replace("127.0.0.1", "localhost")
    await post.desk.create(8, {"url": f"{url}/quick"})
    running = asyncio.create_task(post.sender.run())
    try:
        await until(lambda: len(post.sender._sending) == 40)
        await post.event(tenant=8)
        await until(lambda: len(post.receiver.at("/quick")) == 1, seconds=15)  # half of what the others wait for
    finally:
        answered.set()
        post.sender.stop()
        await running


async def test_how_addresses_answered_last_is_forgotten_after_some_thousand(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.dispatcher.webhooks._MOST_KNOWN", 2)
    await post.webhook(kind="tasks")
    post.receiver.answers["/hook"] = 500
    for number in range(4):
        await post.event(url=f"{post.receiver.url}/hook", line=f"{number}")
    await post.send()
    assert len(post.sender._accepted) == 2


async def test_old_deliveries_go_with_their_attempts(post: Post) -> None:
    webhook, _ = await post.webhook()
    for _ in range(3):
        await post.event()
    await post.send()
    await post.house.sql(
        "UPDATE delivery SET ended_at = now() - interval '15 days' WHERE id = (SELECT min(id) FROM delivery)"
    )
    await post.house.sql(
        "UPDATE delivery SET status = 'dead', ended_at = now() - interval '29 days',"
        " dead_at = now() - interval '29 days' WHERE id = (SELECT max(id) FROM delivery)"
    )
    prune = Prune(post.house.sweeps, dead_days=30)
    assert await prune.sweep() == 1
    assert await post.house.sql("SELECT count(*)::int AS n FROM delivery_try") == [(2,)]
    await post.desk.delete(TENANT, webhook.id)
    await post.house.sql("UPDATE webhook SET deleted_at = deleted_at - interval '1 day'")
    await prune.sweep()
    assert len(await post.house.sql("SELECT 1 FROM webhook")) == 1, "its deliveries are still told of"
    await post.house.sql("UPDATE webhook SET deleted_at = now()")
    month = "interval '30 days'"
    await post.house.sql(f"UPDATE delivery SET ended_at = ended_at - {month}, dead_at = dead_at - {month}")
    assert await prune.sweep() == 2
    assert len(await post.house.sql("SELECT 1 FROM webhook")) == 1, "who still saw it may be writing a delivery for it"
    await post.house.sql("UPDATE webhook SET deleted_at = deleted_at - interval '1 hour'")
    await prune.sweep()
    assert await post.house.sql("SELECT 1 FROM webhook") == []


async def test_an_answer_says_nothing_of_another_delivery_of_the_same_number(post: Post) -> None:
    """Numbers begin anew where PostgreSQL goes on from an older state, while an attempt waits to be written down."""
    await post.webhook("/lost")
    await post.event()
    (lost,), _ = await post.deliveries.due(Place(), Reach(webhooks=9, lines=9, deliveries=9, ahead=9))
    await post.house.sql("DELETE FROM delivery")
    await post.house.sql(f"ALTER TABLE delivery ALTER COLUMN id RESTART WITH {lost.id}")
    await post.webhook("/other", tenant=8)
    message = await post.event(tenant=8)
    await post.deliveries.tried([Tried(lost, Answer(200, "", "", 1), None)], 1)
    assert await post.states() == [("pending", 0, None)]
    assert await post.send() == 1
    assert [(received.path, received.id) for received in post.receiver.received] == [("/other", message)]


@asynccontextmanager
async def kept_by(post: Post, table: str, url: str) -> AsyncIterator[None]:
    """Somebody's forgotten transaction has the row of one webhook, or of its delivery."""
    id_ = {"delivery": "webhook_id", "webhook": "id"}[table]
    connection = await asyncpg.connect(post.house.database_url)
    try:
        async with connection.transaction():
            mine = f"(SELECT id FROM webhook WHERE url LIKE '%{url}')"
            assert "1" in await connection.execute(f"UPDATE {table} SET url = url WHERE {id_} = {mine}")
            yield
    finally:
        await connection.close()


class Watched(PostgresDeliveries):
    """What was written at once, each time; and how often it was asked what is locked."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.written: list[set[int]] = []
        self.looks = 0

    async def tried(self, tries: Sequence[Tried], give_up_seconds: float) -> list[int]:
        self.written.append({tried.delivery.webhook_id for tried in tries})
        return await super().tried(tries, give_up_seconds)

    async def locked(self, tries: Sequence[Tried]) -> list[bool]:
        self.looks += 1
        return await super().locked(tries)


@pytest.mark.parametrize("table", ["delivery", "webhook"])
async def test_what_somebody_keeps_locked_is_written_when_it_is_free_and_not_tried_before(
    post: Post, table: str
) -> None:
    deliveries = Watched(post.house.database)
    stuck, _ = await post.webhook("/stuck")
    other, _ = await post.webhook("/other")
    await post.event()
    post.receiver.answers["/stuck"] = post.receiver.answers["/other"] = 500
    async with open_webhook_post(EgressGuard.from_setting("127.0.0.0/8")) as poster:
        sender = WebhookSender(deliveries, poster, RING.open, Random(1))
        async with kept_by(post, table, "/stuck"):
            assert await sender.send_due() == 2
            await until(lambda: deliveries.looks >= 3, seconds=15)
            tried = "SELECT webhook_id FROM delivery WHERE attempts = 1"
            assert [row["webhook_id"] for row in await post.house.sql(tried)] == [other.id]
            assert sum(stuck.id in batch for batch in deliveries.written) == 1
        await sender.idle()
        assert await post.house.value("SELECT count(*) FROM delivery WHERE attempts = 1") == 2


async def test_what_is_given_up_for_a_webhook_that_is_off_is_sent_beside_a_locked_one(post: Post) -> None:
    await post.webhook("/stuck")
    await post.event()
    await post.house.sql("UPDATE webhook SET disabled_at = now(), disabled_reason = 'x'")
    async with kept_by(post, "delivery", "/stuck"):
        assert await post.deliveries.bury(10) == 0
    assert await post.deliveries.bury(10) == 1
