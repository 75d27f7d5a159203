"""What is read of a tenant's deliveries is what their list shows."""

from __future__ import annotations

from dataclasses import fields

from libs.common.ports_webhooks import DeliveryView
from tests.support.house import House

_SHOWN = {field.name for field in fields(DeliveryView)}


async def test_bodies_of_deliveries_are_not_read_for_their_list(house: House) -> None:
    """A body is as large as its event: a page of them was fetched, and thrown away."""
    hook = await house.value(
        "INSERT INTO webhook (tenant_id, kind, url, secrets) VALUES (1, 'endpoint', 'http://h', '') RETURNING id"
    )
    delivery = await house.value(
        "INSERT INTO delivery (tenant_id, webhook_id, line, url, task_id, message_id, type, body)"
        " VALUES (1, $1, '', '', gen_random_uuid(), 'm', 't', 'b') RETURNING id",
        hook,
    )
    whose = {"tenant_id": 1, "webhook_id": hook}
    (listed,) = await house.database.query("list_deliveries", **whose, before=delivery + 1, limit=1)
    (again,) = await house.database.query("redeliver", **whose, delivery_id=delivery)
    assert set(listed._mapping) == set(again._mapping) == _SHOWN
