"""What a model said about a failure is shown with its secrets masked, whoever shows it: also what was stored bare."""

from __future__ import annotations

from typing import Any

import orjson

from libs.common.adapters.postgres.dispatch_queue import PostgresEvents
from libs.common.adapters.postgres.task_states import PostgresTaskStates
from libs.common.adapters.postgres.tasks import PostgresTasks
from libs.common.adapters.postgres.webhooks import PostgresWebhooks
from libs.common.operations.dead_json import details_document
from libs.common.operations.event_records import event_data
from libs.common.operations.insight_json import outbox_document, process_document, task_why_document
from libs.common.ports_dead import DeadKind
from libs.common.ports_webhooks import DeliveryView
from services.api.push.news import news_view
from services.api.views import attempt_view, delivery_view, task_view
from tests.support.graves import Operator
from tests.support.house import House
from tests.support.sights import alive, sight_of, why_task

SAID = "cannot sign in with Authorization: Bearer canary-4711"


async def delivery_of(house: House, tenant: int) -> DeliveryView:
    """One that a receiver has refused, and said so."""
    hook = await house.value(
        "INSERT INTO webhook (tenant_id, kind, url, secrets) VALUES ($1, 'endpoint', 'http://h', '') RETURNING id",
        tenant,
    )
    delivery = await house.value(
        "INSERT INTO delivery (tenant_id, webhook_id, line, url, task_id, message_id, type, body, last_error)"
        " VALUES ($1, $2, '', '', gen_random_uuid(), 'm', 't', '', $3) RETURNING id",
        tenant, hook, SAID,
    )  # fmt: skip
    await house.sql(
        "INSERT INTO delivery_try (delivery_id, attempt, error, cost_ms, answer) VALUES ($1, 1, NULL, 1, $2)",
        delivery, SAID,
    )  # fmt: skip
    views, _ = await PostgresWebhooks(house.database).deliveries(tenant, hook, None, 1)
    return views[0]


async def told_of(house: House) -> dict[str, Any]:
    """Every document that repeats why a task failed."""
    model = await house.model()
    (attempt,) = await house.running(model, await house.executor())
    await house.sql(
        "INSERT INTO provider_job (task_id, attempt, lane, intent_key, adapter, polls, permit_token, message, deadline)"
        " VALUES ($1, $2, $3, gen_random_uuid(), 'a', true, gen_random_uuid(), $4, now())",
        attempt.id, attempt.number, model.lane, SAID,
    )  # fmt: skip
    await house.bury(attempt)
    for table in ("task", "attempt", "event"):
        await house.sql(f"UPDATE {table} SET error_message = $1", SAID)  # as another version wrote it
    tasks = PostgresTasks(house.database)
    (view,) = await tasks.find_many(model.tenant_id, [attempt.public_id])
    (event,) = await PostgresEvents(house.database).after(0, 10, [])
    state = await PostgresTaskStates(house.database).find(model.tenant_id, attempt.public_id)
    assert state is not None
    await alive(house, broker=False, error=SAID)
    (waiting,) = await house.tasks(model)
    return {
        "REST": task_view(view),
        "attempts": [attempt_view(row) for row in await tasks.list_attempts(model.tenant_id, attempt.public_id)],
        "event": event_data(event),
        "push": news_view(state),
        "delivery": delivery_view(await delivery_of(house, model.tenant_id)),
        "why": task_why_document(await why_task(house, attempt.id)),
        "the broker": task_why_document(await why_task(house, waiting)),
        "processes": [process_document(process) for process in await sight_of(house).processes()],
        "outbox": [outbox_document(channel) for channel in await sight_of(house).outbox()],
        "dead": details_document(await Operator(house.database).dead.show(None, DeadKind.TASK, str(attempt.public_id))),
    }


async def test_every_face_masks_what_a_model_said(house: House) -> None:
    for face, told in (await told_of(house)).items():
        text = orjson.dumps(told, default=str).decode()
        assert "canary" not in text, face
        assert "Authorization: ***" in text or face == "outbox", face
