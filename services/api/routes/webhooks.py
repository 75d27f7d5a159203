"""/v1/webhooks: where a tenant wants to be told of ends, and what became of it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from libs.common.operations.tenant_json import webhook_document
from services.api import examples
from services.api.answers import JsonAnswer
from services.api.cursors import before_of, cursor_of
from services.api.routes.context import Admin, Cases, Reader, Seeing, StrictRoute, number_of, tenant_of
from services.api.routes.documented import BODY_ERRORS, answers
from services.api.schemas import PageQuery, RotateIn, WebhookChange, WebhookIn
from services.api.schemas_insight import WebhookQuery
from services.api.schemas_out import DeliveryOut, DeliveryPage, WebhookOut, WebhookPage, WebhookSecretOut
from services.api.views import delivery_view

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=StrictRoute)


@router.post(
    "",
    summary="Make a webhook",
    status_code=201,
    responses=answers(
        WebhookSecretOut,
        examples.WEBHOOK_SECRET,
        *BODY_ERRORS,
        "webhook_url",
        "webhook_secret",
        "webhook_exists",
        "webhook_limit",
        status=201,
    ),
)
async def create_webhook(
    wanted: Annotated[WebhookIn, examples.body(examples.WEBHOOK_IN)], caller: Admin, cases: Cases
) -> Response:
    """The answer shows the secret, once. One of the kind `tasks` has no url: it signs for tasks' own `webhook_url`."""
    webhook, secret = await cases.webhooks.create(caller.tenant_id, wanted.given())
    view = {**webhook_document(webhook), "secret": secret}
    return JsonAnswer(view, 201, {"Location": f"/v1/webhooks/{webhook.id}", "Cache-Control": "no-store"})


@router.get(
    "",
    summary="List webhooks",
    responses=answers(WebhookPage, examples.WEBHOOK_PAGE, "invalid", "bad_cursor"),
)
async def list_webhooks(wanted: Annotated[WebhookQuery, Query()], reach: Seeing, cases: Cases) -> Response:
    """Oldest first, without their secrets. A tenant sees its own, an operator all, without their addresses' queries."""
    operator = reach.tenant is None
    tenant = wanted.tenant if operator else tenant_of(reach.caller, wanted.tenant)
    after = before_of("webhook", wanted.cursor)
    page, following = await cases.webhooks.page(tenant, after, wanted.limit, failing=wanted.failing)
    items = [webhook_document(webhook, operator=operator) for webhook in page]
    return JsonAnswer({"items": items, "next_cursor": cursor_of("webhook", following)})


@router.get(
    "/{webhook_id}", summary="Read a webhook", responses=answers(WebhookOut, examples.WEBHOOK, "webhook_unknown")
)
async def read_webhook(webhook_id: str, caller: Reader, cases: Cases) -> Response:
    """The webhook, without its secret; `disabled_reason` says why it was switched off."""
    return JsonAnswer(webhook_document(await cases.webhooks.get(caller.tenant_id, number_of(webhook_id))))


@router.patch(
    "/{webhook_id}",
    summary="Change a webhook",
    responses=answers(WebhookOut, examples.WEBHOOK, *BODY_ERRORS, "webhook_url", "webhook_unknown", "conflict"),
)
async def change_webhook(
    webhook_id: str,
    wanted: Annotated[WebhookChange, examples.body(examples.WEBHOOK_CHANGE)],
    caller: Admin,
    cases: Cases,
) -> Response:
    """Changes only the fields given. While `paused`, deliveries wait; switched on again, its failures are forgotten.
    What an operator holds (`held`) goes on when an operator resumes it."""
    return JsonAnswer(
        webhook_document(await cases.webhooks.change(caller.tenant_id, number_of(webhook_id), wanted.given()))
    )


@router.delete(
    "/{webhook_id}",
    summary="Remove a webhook",
    status_code=204,
    responses=answers(None, None, "webhook_unknown", status=204),
)
async def delete_webhook(webhook_id: str, caller: Admin, cases: Cases) -> Response:
    """What waits for it is given up."""
    await cases.webhooks.delete(caller.tenant_id, number_of(webhook_id))
    return Response(status_code=204)


@router.post(
    "/{webhook_id}/rotate",
    summary="Rotate a webhook's secret",
    responses=answers(
        WebhookSecretOut, examples.WEBHOOK_SECRET, *BODY_ERRORS, "webhook_secret", "webhook_unknown", "conflict"
    ),
)
async def rotate_webhook(
    webhook_id: str,
    caller: Admin,
    cases: Cases,
    wanted: Annotated[RotateIn | None, examples.body(examples.ROTATE_IN)] = None,
) -> Response:
    """The answer shows the fresh secret, once. For a day the old one signs beside it."""
    webhook, secret = await cases.webhooks.rotate(
        caller.tenant_id, number_of(webhook_id), wanted.secret if wanted else None
    )
    return JsonAnswer({**webhook_document(webhook), "secret": secret}, headers={"Cache-Control": "no-store"})


@router.get(
    "/{webhook_id}/deliveries",
    summary="List a webhook's deliveries",
    responses=answers(DeliveryPage, examples.DELIVERY_PAGE, "invalid", "bad_cursor", "webhook_unknown"),
)
async def list_deliveries(
    webhook_id: str, wanted: Annotated[PageQuery, Query()], caller: Reader, cases: Cases
) -> Response:
    """Newest first, with what each attempt was answered; kept for SLUICEWAY_WEBHOOK_LOG_DAYS once they arrived."""
    before = before_of("delivery", wanted.cursor)
    page, following = await cases.webhooks.deliveries(caller.tenant_id, number_of(webhook_id), before, wanted.limit)
    return JsonAnswer(
        {"items": [delivery_view(delivery) for delivery in page], "next_cursor": cursor_of("delivery", following)}
    )


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/redeliver",
    summary="Send a delivery again",
    status_code=202,
    responses=answers(
        DeliveryOut,
        examples.DELIVERY,
        "webhook_unknown",
        "delivery_unknown",
        "webhook_disabled",
        status=202,
    ),
)
async def redeliver(webhook_id: str, delivery_id: str, caller: Admin, cases: Cases) -> Response:
    """Due now, under the same `webhook-id`, with the whole schedule before it."""
    delivery = await cases.webhooks.redeliver(caller.tenant_id, number_of(webhook_id), number_of(delivery_id))
    return JsonAnswer(delivery_view(delivery), 202)
