"""One example for everything that /v1/dead and /v1/replays send and answer."""

from __future__ import annotations

from typing import Any, Final

_ID: Final = "01939d5c-6f3e-7b1a-9c55-2f6f0b6f7a10"
_REQUEST: Final[dict[str, Any]] = {
    "kind": "task",
    "filter": {"code": "model_http_503", "model": "speech", "since": "2026-11-23T08:00:00Z"},
    "limit": 5000,
    "rate": 50.0,
    "reason": "the provider is back (ticket 4711)",
}
REPLAY_IN: Final = _REQUEST
DEAD: Final[dict[str, Any]] = {
    "kind": "task",
    "id": _ID,
    "tenant": "7",
    "model": "speech",
    "error": {"code": "model_http_503", "message": "the model answered 503"},
    "died_at": "2026-11-23T08:00:41Z",
    "task_id": _ID,
    "status": "failed",
    "attempt": 3,
    "event_id": f"{_ID}:14",
    "staged": False,
    "topic": None,
    "partition": None,
    "offset": None,
    "replay": None,
    "webhook": None,
    "in_hand": False,
}
DEAD_PAGE: Final = {"items": [DEAD], "next_cursor": "ZGVhZDoxNzk"}
GROUP: Final = {
    "kind": "task",
    "code": "model_http_503",
    "tenant": "7",
    "model_id": "12",
    "model": "speech",
    "count": 4210,
    "first_at": "2026-11-23T08:00:41Z",
    "last_at": "2026-11-23T08:31:07Z",
    "example_id": _ID,
    "example": "the model answered 503",
}
DEAD_GROUPS: Final = {"items": [GROUP], "counted": 4210, "complete": True}
DETAILS: Final = {
    **DEAD,
    "attempts": [
        {
            "attempt": 3,
            "outcome": "failed",
            "executor": "host-1-4711",
            "provider_job_id": None,
            "entered_at": "2026-11-23T08:00:30Z",
            "leased_at": "2026-11-23T08:00:38Z",
            "started_at": "2026-11-23T08:00:38Z",
            "generated_at": None,
            "migrating_at": None,
            "ended_at": "2026-11-23T08:00:41Z",
            "staged_size": None,
            "error": {"code": "model_http_503", "message": "the model answered 503"},
        }
    ],
    "history": [
        {"at": "2026-11-23T08:00:12Z", "kind": "retry", "attempt": 1, "version": 5, "detail": "model_http_503"}
    ],
    "request": {
        "method": "POST",
        "url": "https://speech.example.com/v1/synthesize",
        "headers": [{"name": "X-API-Key", "value": "********"}],
        "body": '{"text":"Good morning"}',
        "body_size": 23,
    },
    "provider_jobs": [],
    "events": [],
    "operations": [
        {
            "at": "2026-11-23T08:00:00Z",
            "creator": "shop",
            "ip": "203.0.113.9",
            "path": "/v1/tasks",
            "method": "POST",
            "success": True,
            "replayed": False,
            "error": "",
            "request": '{"model":"speech","payload":{"text":"Good morning"}}',
            "response": None,
        }
    ],
    "message": None,
    "replays": [],
}
REPLAY: Final[dict[str, Any]] = {
    "id": "12",
    "action": "replay",
    "kind": "task",
    "tenant": None,
    "asked": {"code": "model_http_503", "model": "speech", "since": "2026-11-23T08:00:00Z"},
    "limit": 5000,
    "rate": 50.0,
    "reason": "the provider is back (ticket 4711)",
    "asked_by": "night-shift of tenant 0",
    "state": "running",
    "total": 4210,
    "pending": 4110,
    "results": {"replayed": 99, "dropped": 0, "gone": 1, "refused": 0, "stopped": 0},
    "refusals": 0,
    "note": "",
    "created_at": "2026-11-23T09:00:00Z",
    "changed_at": "2026-11-23T09:00:02Z",
    "ended_at": None,
    "unknown": [],
}
PREVIEW: Final = {
    "dry_run": True,
    "selected": 4210,
    "busy": 0,
    "refused": 12,
    "why_refused": {"model_deleted": 12},
    "groups": [GROUP],
    "unknown": [],
}
REPLAY_PAGE: Final = {"items": [REPLAY], "next_cursor": None}
REPLAY_ITEMS: Final = {
    "items": [
        {
            "id": _ID,
            "tenant": "7",
            "code": "model_http_503",
            "result": "replayed",
            "detail": "",
            "tries": 0,
            "due_at": None,
            "ended_at": "2026-11-23T09:00:02Z",
        }
    ],
    "next_cursor": None,
}
