"""One example for everything that operators are told on /v1."""

from __future__ import annotations

from typing import Any, Final

_AT: Final = "2026-11-23T09:00:00.000000Z"
_MANY: Final = {"value": 10_000, "exact": False}
_SOME: Final = {"value": 12, "exact": True}
_NONE: Final = {"value": 0, "exact": True}
REASON: Final = {"reason": "answers are wrong since the update"}
PAUSE: Final = {
    "scope": "model",
    "tenant_id": "42",
    "model": "speech",
    "webhook_id": None,
    "since": _AT,
    "by": "ann",
    "reason": "answers are wrong since the update",
}
_WINDOW_FULL: Final = {
    "code": "window_full",
    "message": "8 of 8 tasks of 'speech' are published or run",
    "value": 8,
    "limit": 8,
    "until": None,
}
_QUEUE: Final = {
    "code": "queue",
    "message": "12 tasks of 'speech' go first",
    "value": 12,
    "limit": None,
    "until": None,
}
TASK_WHY: Final[dict[str, Any]] = {
    "task_id": "01939d5c-6f3e-7b1a-9c55-2f6f0b6f7a10",
    "model": "speech",
    "status": "submitted",
    "priority": 0,
    "weight": 1,
    "code": "window_full",
    "message": _WINDOW_FULL["message"],
    "holds": [_WINDOW_FULL, _QUEUE],
    "position": {"ahead": 12, "exact": True},
    "estimate": {"seconds": 6.4, "at": "2026-11-23T09:00:06.400000Z", "starts_per_second": 2.5},
    "at": _AT,
}
LANE: Final[dict[str, Any]] = {
    "tenant_id": "42",
    "model": "speech",
    "model_id": "12",
    "enabled": True,
    "deleted": False,
    "window": {"used": 8, "limit": 8},
    "permits": {"used": 4, "limit": 4},
    "gate": {"used": 20, "limit": 1000},
    "waiting": _SOME,
    "running": 4,
    "held": 4,
    "later": _NONE,
    "oldest_seconds": 4.8,
    "starts_per_second": 2.5,
    "error_rate": 0.01,
    "pauses": [],
}
LANES: Final = {"items": [LANE], "next_cursor": None}
MODEL_WHY: Final = {
    "model": "speech",
    "code": "window_full",
    "message": _WINDOW_FULL["message"],
    "holds": [_WINDOW_FULL],
    "lane": LANE,
    "at": _AT,
}
OVERVIEW: Final = {
    "at": _AT,
    "ready": {"value": 1_000_000, "exact": True},
    "in_flight": {"value": 1_840, "exact": True},
    "later": _SOME,
    "retrying": _SOME,
    "dead": _MANY,
    "events": _NONE,
    "running": 1_790,
    "held": 38,
    "oldest_ready_seconds": 4.8,
    "oldest_event_seconds": 0.0,
    "lanes_with_work": 60,
    "executors": 2,
    "executors_reading": 2,
    "slots": 4_000,
    "dispatchers": 2,
    "janitors": 2,
    "broker_reachable": True,
    "topics_refused": 0,
    "events_refused": "",
    "pauses": [PAUSE],
}
EXECUTORS: Final = {
    "items": [
        {
            "name": "worker-3-17",
            "version": "1.0.0",
            "started_at": _AT,
            "heartbeat_age_seconds": 0.7,
            "alive": True,
            "posture": "reading",
            "reading": True,
            "draining": False,
            "slots": 2_000,
            "running": 895,
            "held": 19,
            "stores": ["local"],
            "adapters": ["plain-http", "replicate"],
            "models": [{"model": "speech", "tasks": 8}],
        }
    ]
}
PROCESSES: Final = {
    "items": [
        {
            "role": "dispatcher",
            "name": "worker-1-12",
            "version": "1.0.0",
            "started_at": _AT,
            "age_seconds": 1.2,
            "broker_reachable": True,
            "last_error": "",
            "topics_refused": 0,
            "events_refused": "",
        }
    ]
}
OUTBOX: Final = {
    "items": [
        {
            "channel": "event",
            "waiting": _SOME,
            "oldest_seconds": 0.2,
            "retrying": _NONE,
            "dead": _NONE,
            "held": _NONE,
            "last_error": "",
        }
    ]
}
PAUSES: Final = {"items": [PAUSE]}
SERIES: Final = {
    "step_seconds": 60,
    "points": [
        {
            "at": _AT,
            "success": 148,
            "failed": 1,
            "timeout": 1,
            "canceled": 0,
            "lost": 0,
            "error_rate": 0.013333333333333334,
            "wait_seconds": {"p50": 0.91, "p90": 4.3, "p99": 6.1},
            "run_seconds": {"p50": 1.8, "p90": 2.6, "p99": 5.2},
            "backlog": 12,
            "oldest_seconds": 4.8,
        }
    ],
}
ACTIONS: Final = {
    "items": [
        {
            "id": "3",
            "at": _AT,
            "by": "ann",
            "action": "pause",
            "tenant_id": "42",
            "subject": "model speech",
            "reason": "answers are wrong since the update",
        }
    ],
    "next_cursor": None,
}
PAUSED: Final = {"verdict": "paused"}
RESUMED: Final = {"verdict": "resumed"}
DRAINING: Final = {"verdict": "draining"}
STAYING: Final = {"verdict": "staying"}
