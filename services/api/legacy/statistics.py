"""/stat/listModelStat: how often models were called, by day, tenant, user and model."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from libs.common.ports_legacy import LegacyRows, StatSearch
from libs.common.ports_tasks import KeyOwner
from services.api.legacy.face import Asked
from services.api.legacy.rows import Rows
from services.api.problems import Problem
from services.api.schemas import NAME_LIMIT
from services.api.user_info import USER_LIMIT


class LegacyStatistics:
    """Shows a tenant its own counts; operators, and the tenants that may read all, those of everybody."""

    def __init__(self, stored: LegacyRows, rows: Rows, readers: Collection[int]) -> None:
        self._stored = stored
        self._rows = rows
        self._readers = readers

    async def page(self, asked: Asked) -> dict[str, Any]:
        """POST /stat/listModelStat"""
        given, page = asked.given, asked.given.page()
        start, end = given.day("startDay"), given.day("endDay")
        if start is not None and end is not None and end < start:
            raise Problem("invalid", "endDay lies before startDay")
        creator = given.text("creator", USER_LIMIT) or ""
        model_name = given.text("modelName", NAME_LIMIT) or ""
        tenant = given.number("tenantId")
        if not self._reads_all(asked.caller):
            if tenant not in (None, asked.caller.tenant_id):
                return {"list": [], "total": 0}
            tenant = asked.caller.tenant_id
        wanted = StatSearch(tenant, start, end, creator, model_name)
        rows, total = await self._stored.statistics(wanted, page.offset, page.limit)
        return {"list": [self._rows.statistic(row) for row in rows], "total": total}

    def _reads_all(self, caller: KeyOwner) -> bool:
        return "operate" in caller.scopes or caller.tenant_id in self._readers
