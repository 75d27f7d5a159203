"""What operators see, as JSON documents: the same on REST and the command line. Ids of 64 bits are texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from libs.common.domain.count import Count
from libs.common.ports_insight import (
    ActionRecord,
    Estimate,
    ExecutorSight,
    Hold,
    LaneSight,
    ModelWhy,
    OutboxSight,
    Overview,
    Pause,
    Percentiles,
    Place,
    Point,
    ProcessSight,
    TaskWhy,
)
from libs.common.runtime.redaction import redact_text


def task_why_document(why: TaskWhy) -> dict[str, Any]:
    """Why a task waits."""
    facts = why.facts
    return {
        "task_id": str(facts.public_id),
        "model": facts.model,
        "status": facts.status.word,
        "priority": facts.priority,
        "weight": facts.weight,
        "code": why.code,
        "message": why.message,
        "holds": [_hold(hold) for hold in why.holds],
        "position": _place(why.place),
        "estimate": _estimate(why.estimate),
        "at": facts.now,
    }


def model_why_document(why: ModelWhy, *, operator: bool) -> dict[str, Any]:
    """What holds a model."""
    return {
        "model": why.lane.facts.model,
        "code": why.code,
        "message": why.message,
        "holds": [_hold(hold) for hold in why.holds],
        "lane": lane_document(why.lane, operator=operator),
        "at": why.lane.facts.now,
    }


def lane_document(lane: LaneSight, *, operator: bool) -> dict[str, Any]:
    """A lane; who paused it is told to operators alone."""
    facts = lane.facts
    return {
        "tenant_id": str(facts.tenant_id),
        "model": facts.model,
        "model_id": str(facts.model_id),
        "enabled": facts.enabled,
        "deleted": facts.closed,
        "window": _used(facts.in_flight, facts.window),
        "permits": _used(lane.permits, facts.max_concurrency),
        "gate": _used(lane.open, facts.queue_limit),
        "waiting": count_document(lane.waiting),
        "running": facts.running,
        "held": facts.held,
        "later": count_document(facts.later),
        "oldest_seconds": facts.oldest_seconds,
        "starts_per_second": lane.starts_per_second,
        "error_rate": lane.error_rate,
        "pauses": [pause_document(pause, operator=operator) for pause in lane.pauses],
    }


def overview_document(seen: Overview) -> dict[str, Any]:
    """The numbers of everything."""
    counts = ("ready", "in_flight", "later", "retrying", "dead", "events")
    plain = (
        "running",
        "held",
        "oldest_ready_seconds",
        "oldest_event_seconds",
        "lanes_with_work",
        "executors",
        "executors_reading",
        "slots",
        "dispatchers",
        "janitors",
        "broker_reachable",
        "topics_refused",
        "events_refused",
    )
    return {
        "at": seen.at,
        **{name: count_document(getattr(seen, name)) for name in counts},
        **{name: getattr(seen, name) for name in plain},
        "pauses": [pause_document(pause, operator=True) for pause in seen.pauses],
    }


def executor_document(executor: ExecutorSight) -> dict[str, Any]:
    """An executor."""
    return {
        "name": executor.name,
        "version": executor.version,
        "started_at": executor.started_at,
        "heartbeat_age_seconds": executor.age,
        "alive": executor.alive,
        "posture": executor.posture,
        "reading": executor.reading,
        "draining": executor.draining,
        "slots": executor.slots,
        "running": executor.running,
        "held": executor.held,
        "stores": list(executor.stores),
        "adapters": list(executor.adapters),
        "models": [{"model": model, "tasks": tasks} for model, tasks in executor.models],
    }


def process_document(process: ProcessSight) -> dict[str, Any]:
    """A dispatcher or janitor."""
    return {
        "role": process.role,
        "name": process.name,
        "version": process.version,
        "started_at": process.started_at,
        "age_seconds": process.age,
        "broker_reachable": process.broker_reachable,
        "last_error": redact_text(process.last_error),
        "topics_refused": len(process.refused),
        "events_refused": process.events_refused,
    }


def outbox_document(channel: OutboxSight) -> dict[str, Any]:
    """One channel of the outbox."""
    return {
        "channel": channel.channel,
        "waiting": count_document(channel.waiting),
        "oldest_seconds": channel.age,
        "retrying": count_document(channel.retrying),
        "dead": count_document(channel.dead),
        "held": count_document(channel.held),
        "last_error": redact_text(channel.last_error),
    }


def pause_document(pause: Pause, *, operator: bool) -> dict[str, Any]:
    """A pause; who made it is told to operators alone."""
    return {
        "scope": pause.scope,
        "tenant_id": None if pause.tenant_id is None else str(pause.tenant_id),
        "model": pause.model,
        "webhook_id": None if pause.webhook is None else str(pause.webhook),
        "since": pause.since,
        "by": pause.by if operator else None,
        "reason": pause.reason,
    }


def action_document(action: ActionRecord) -> dict[str, Any]:
    """What an operator did."""
    return {
        "id": str(action.id),
        "at": action.at,
        "by": action.by,
        "action": action.action,
        "tenant_id": None if action.tenant_id is None else str(action.tenant_id),
        "subject": action.subject,
        "reason": action.reason,
    }


def series_document(points: Sequence[Point], step_seconds: int) -> dict[str, Any]:
    """A series, oldest first."""
    return {"step_seconds": step_seconds, "points": [_point(point) for point in points]}


def count_document(count: Count) -> dict[str, Any]:
    """A number, and whether it is all of them."""
    return {"value": count.value, "exact": count.exact}


def _point(point: Point) -> dict[str, Any]:
    outcomes = ("success", "failed", "timeout", "canceled", "lost")
    return {
        "at": point.at,
        **{name: getattr(point, name) for name in outcomes},
        "error_rate": point.error_rate,
        "wait_seconds": _percentiles(point.wait),
        "run_seconds": _percentiles(point.run),
        "backlog": point.backlog,
        "oldest_seconds": point.oldest_seconds,
    }


def _percentiles(of: Percentiles) -> dict[str, float | None]:
    return {"p50": of.p50, "p90": of.p90, "p99": of.p99}


def _hold(hold: Hold) -> dict[str, Any]:
    return {
        "code": hold.code,
        "message": hold.message,
        "value": hold.value,
        "limit": hold.limit,
        "until": hold.until,
    }


def _place(place: Place | None) -> dict[str, Any] | None:
    return None if place is None else {"ahead": place.ahead, "exact": place.exact}


def _estimate(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    return {"seconds": estimate.seconds, "at": estimate.at, "starts_per_second": estimate.starts_per_second}


def _used(used: int | None, limit: int) -> dict[str, int | None]:
    return {"used": used, "limit": limit}
