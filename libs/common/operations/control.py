"""What operators set: pauses, and executors that shall finish and leave. Every change is recorded with who and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from libs.common.contracts import hints as wire
from libs.common.domain.errors import Invalid, NotFound
from libs.common.ports import Hints
from libs.common.ports_insight import ActionRecord, Control, Insight, PauseScope

REASON_LIMIT: Final = 500

Verdict = Literal["paused", "already_paused", "resumed", "not_paused"]
DrainVerdict = Literal["draining", "already_draining", "staying", "not_draining"]


class Controls:
    """Pauses and resumes. A pause holds in every process within a second, and survives whatever restarts."""

    def __init__(self, control: Control, insight: Insight, hints: Hints) -> None:
        self._control = control
        self._insight = insight
        self._hints = hints

    async def pause_all(self, by: str, reason: str) -> Verdict:
        """Nothing starts any more, whoever's it is; what runs goes on."""
        return await self._pause("all", None, by, reason)

    async def resume_all(self, by: str, reason: str = "") -> Verdict:
        """Everything goes on, but what is paused by itself."""
        return await self._resume("all", None, by, reason)

    async def pause_tenant(self, tenant_id: int, by: str, reason: str) -> Verdict:
        """Nothing of this tenant starts; raises NotFound."""
        return await self._pause("tenant", tenant_id, by, reason)

    async def resume_tenant(self, tenant_id: int, by: str, reason: str = "") -> Verdict:
        """It goes on; raises NotFound."""
        return await self._resume("tenant", tenant_id, by, reason)

    async def pause_model(self, tenant_id: int, model: str, by: str, reason: str) -> Verdict:
        """Nothing of this tenant's model starts; raises NotFound."""
        return await self._pause("model", await self._lane(tenant_id, model), by, reason)

    async def resume_model(self, tenant_id: int, model: str, by: str, reason: str = "") -> Verdict:
        """It goes on; raises NotFound."""
        return await self._resume("model", await self._lane(tenant_id, model), by, reason)

    async def pause_webhook(self, webhook_id: int, by: str, reason: str) -> Verdict:
        """Nothing more is sent there, whoever's it is; raises NotFound."""
        return await self._pause("webhook", webhook_id, by, reason)

    async def resume_webhook(self, webhook_id: int, by: str, reason: str = "") -> Verdict:
        """Its deliveries go on, unless its tenant holds them; raises NotFound."""
        return await self._resume("webhook", webhook_id, by, reason)

    async def drain(self, name: str, by: str, reason: str) -> DrainVerdict:
        """The executor takes nothing new, lets end what runs, and leaves; raises NotFound."""
        return "draining" if await self._told(name, True, by, reason) else "already_draining"

    async def undrain(self, name: str, by: str, reason: str = "") -> DrainVerdict:
        """It stays after all, if it has not left yet; raises NotFound."""
        return "staying" if await self._told(name, False, by, reason) else "not_draining"

    async def actions(self, before: int | None, limit: int) -> tuple[Sequence[ActionRecord], int | None]:
        """What operators did, newest first."""
        return await self._control.actions(before, limit)

    async def _lane(self, tenant_id: int, model: str) -> int:
        lane = await self._insight.lane_of(tenant_id, model) if "\x00" not in model else None
        if lane is None:
            raise NotFound("model_unknown", f"there is no model named {model!r}")
        return lane

    async def _told(self, name: str, on: bool, by: str, reason: str) -> bool:
        told = await self._control.drain(name, on, by, reason_of(reason)) if "\x00" not in name else []
        if not told:
            raise NotFound("executor_unknown", f"there is no executor named {name!r}")
        self._hints.publish_soon(wire.EXECUTORS, wire.LOOK)
        return any(told)

    async def _pause(self, scope: PauseScope, subject: int | None, by: str, reason: str) -> Verdict:
        news = await self._control.pause(scope, subject, by, reason_of(reason))
        return "paused" if self._announced(scope, subject, news) else "already_paused"

    async def _resume(self, scope: PauseScope, subject: int | None, by: str, reason: str) -> Verdict:
        news = await self._control.resume(scope, subject, by, reason_of(reason))
        return "resumed" if self._announced(scope, subject, news) else "not_paused"

    def _announced(self, scope: PauseScope, subject: int | None, news: bool | None) -> bool:
        if news is None:
            raise NotFound(f"{scope}_unknown", f"there is no {scope} {subject}")
        if scope != "webhook":  # whose sender looks each time
            self._hints.publish_soon(wire.DISPATCH, wire.PAUSES_CHANGED)
            self._hints.publish_soon(wire.EXECUTORS, wire.LOOK)
        return news


def reason_of(text: str) -> str:
    """A reason as it is recorded; raises Invalid."""
    reason = text.strip()
    if len(reason) > REASON_LIMIT or "\x00" in reason:
        raise Invalid("reason", f"the reason may have at most {REASON_LIMIT} characters", field="/reason")
    return reason
