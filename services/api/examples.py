"""One example for everything that is sent and answered on /v1."""

from __future__ import annotations

import json
from typing import Any, Final

from fastapi import Body

_ID: Final = "01939d5c-6f3e-7b1a-9c55-2f6f0b6f7a10"
_FILE: Final = {
    "url": "s3://results/7/2026-11-23/01939d5c-6f3e-7b1a-9c55-2f6f0b6f7a10-1-0.wav",
    "type": "wav",
    "size": 31724,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "name": "01939d5c-6f3e-7b1a-9c55-2f6f0b6f7a10-1-0.wav",
    "index": 0,
}


def body(example: Any) -> Any:
    """A request body with its example."""
    return Body(openapi_examples={"usual": {"summary": "A usual request", "value": example}})


MODEL_IN: Final = {
    "name": "speech",
    "base_url": "https://speech.example.com",
    "route": "/v1/synthesize",
    "api_key": "X-API-Key:secret",
    "max_concurrency": 4,
    "queue_limit": 1000,
    "timeout_seconds": 120,
    "retry_times": 2,
}
MODEL_CHANGE: Final = {"max_concurrency": 8, "enabled": True}
MODEL: Final = {
    "id": "12",
    "name": "speech",
    "base_url": "https://speech.example.com",
    "route": "/v1/synthesize",
    "http_method": "POST",
    "enabled": True,
    "max_concurrency": 4,
    "queue_limit": 1000,
    "timeout_seconds": 120,
    "expected_seconds": 0,
    "retry_times": 2,
    "retry_queue_max_seconds": 0,
    "auto_clean_seconds": 86400,
    "adapter": "plain-http",
    "poll_seconds": 3,
    "job_timeout_seconds": 3600,
    "price": 0,
    "remark": "",
    "version": 1,
    "api_key": "********",
    "adapter_config": {},
}
MODEL_PAGE: Final = {"items": [MODEL], "next_cursor": None}

TASK_IN: Final = {
    "model": "speech",
    "payload": {"text": "Good morning"},
    "biz_name": "greeting-17",
    "priority": 0,
    "output_count": 1,
}
TASK_BATCH_IN: Final = {"tasks": [TASK_IN, {"model": "speach", "payload": {"text": "Good night"}}]}
TASK_IDS: Final = {"ids": [_ID]}
ACCEPTED: Final = {"id": _ID, "model": "speech", "status": "submitted", "code": 1, "progress": 16.67}
BATCH: Final = {
    "items": [
        {"http_status": 202, **ACCEPTED, "id": task, "replayed": False}
        for task in (_ID, "01939d5c-6f3e-7b1a-9c55-2f6f0b6f7a11")
    ]
}
BATCH_IN_PART: Final = {
    "items": [
        {"http_status": 202, **ACCEPTED, "replayed": False},
        {
            "http_status": 404,
            "problem": {
                "type": "urn:sluiceway:problem:model_unknown",
                "title": "There is no such model",
                "status": 404,
                "code": "model_unknown",
                "detail": "there is no model named 'speach'",
                "errors": [{"pointer": "/tasks/1/model", "detail": "there is no model named 'speach'"}],
                "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
            },
        },
    ]
}
TASK: Final = {
    "id": _ID,
    "model": "speech",
    "status": "success",
    "code": 6,
    "progress": 100.0,
    "unit_progress": None,
    "result": {"url": _FILE["url"], "type": "wav", "size": 31724, "files": [_FILE]},
    "error": None,
    "attempt": 1,
    "executor": None,
    "heartbeat_at": None,
    "provider_job_id": None,
    "times": {
        "created_at": "2026-11-23T09:00:00.000000Z",
        "not_before": None,
        "start_by": None,
        "deadline": "2026-11-23T09:10:00.000000Z",
        "due_at": None,
        "started_at": "2026-11-23T09:00:00.012000Z",
        "generated_at": None,
        "finished_at": "2026-11-23T09:00:04.512000Z",
        "fetched_at": None,
        "expire_at": None,
    },
    "creator": "shop",
    "biz_name": "greeting-17",
    "input_ref": "",
    "priority": 0,
    "output_count": 1,
    "points": 0,
    "version": 5,
}
TASK_ITEMS: Final = {"items": [TASK]}
TASK_PAGE: Final = {"items": [TASK], "next_cursor": "dGFzazo0MQ"}
WEBHOOK_IN: Final = {"url": "https://shop.example.com/hooks/sluiceway", "events": ["success", "failed"]}
WEBHOOK_CHANGE: Final = {"paused": True}
ROTATE_IN: Final[dict[str, Any]] = {}
WEBHOOK: Final = {
    "id": "3",
    "tenant": "7",
    "kind": "endpoint",
    "url": "https://shop.example.com/hooks/sluiceway",
    "events": ["success", "failed"],
    "description": "",
    "enabled": True,
    "paused": False,
    "held": None,
    "failing_since": None,
    "disabled_at": None,
    "disabled_reason": None,
    "created_at": "2026-11-23T09:00:00.000000Z",
    "updated_at": "2026-11-23T09:00:00.000000Z",
}
WEBHOOK_SECRET: Final = {**WEBHOOK, "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
WEBHOOK_PAGE: Final = {"items": [WEBHOOK], "next_cursor": None}
DELIVERY: Final = {
    "id": "41",
    "task_id": _ID,
    "event_id": f"{_ID}:5",
    "type": "task.success",
    "url": None,
    "status": "pending",
    "attempts": 1,
    "next_at": "2026-11-23T09:00:10.100000Z",
    "last_code": 503,
    "last_error": "status 503",
    "created_at": "2026-11-23T09:00:04.600000Z",
    "ended_at": None,
    "tries": [
        {
            "attempt": 1,
            "at": "2026-11-23T09:00:04.700000Z",
            "code": 503,
            "error": "status 503",
            "cost_ms": 41,
            "answer": "come back later",
        }
    ],
}
DELIVERY_PAGE: Final = {"items": [DELIVERY], "next_cursor": None}
NEWS: Final = {
    "id": _ID,
    "model": "speech",
    "status": "processing",
    "code": 3,
    "progress": 50.0,
    "unit_progress": None,
    "message": "",
    "error_code": None,
    "attempt": 1,
    "sequence": 3,
    "final": False,
    "at": "2026-11-23T09:00:00.012000Z",
}
NEWS_EVENT: Final = {"id": f"{_ID}:3", "event": "message", "data": json.dumps(NEWS)}
CANCEL: Final = {"id": _ID, "verdict": "canceled", "status": "canceled"}
ATTEMPTS: Final = {
    "items": [
        {
            "attempt": 1,
            "outcome": "failed",
            "executor": "executor-1",
            "provider_job_id": None,
            "entered_at": "2026-11-23T09:00:00.000000Z",
            "leased_at": "2026-11-23T09:00:00.004000Z",
            "started_at": "2026-11-23T09:00:00.012000Z",
            "generated_at": None,
            "migrating_at": None,
            "ended_at": "2026-11-23T09:00:01.500000Z",
            "staged_size": None,
            "error": {"code": "model_http_503", "message": "the model answered 503"},
        }
    ]
}
HISTORY: Final = {
    "items": [{"at": "2026-11-23T09:00:01.500000Z", "kind": "retry", "attempt": 1, "version": 4, "detail": ""}]
}
OPERATION_PAGE: Final = {
    "items": [
        {
            "at": "2026-11-23T09:00:00.030000Z",
            "type": "createTask",
            "creator": "shop",
            "ip": "192.0.2.7",
            "user_agent": "shop/1.4",
            "path": "/v1/tasks",
            "method": "POST",
            "biz_name": "greeting-17",
            "model": "speech",
            "task_id": _ID,
            "success": True,
            "replayed": False,
            "error": "",
            "cost_ms": 4,
            "request": '{"model":"speech","payload":{"text":"Good morning"},"biz_name":"greeting-17"}',
            "response": '{"id":"01939d5c-6f3e-7b1a-9c55-2f6f0b6f7a10","model":"speech","status":"submitted"}',
        }
    ],
    "next_cursor": None,
}
QUOTA: Final = {
    "user": "shop",
    "day": "2026-11-23",
    "used": 120,
    "limit": 1000,
    "rest": 880,
    "own_limit": True,
    "resets_at": "2026-11-24T00:00:00Z",
}
QUOTA_LIMIT_IN: Final = {"points_per_day": 1000}
QUOTA_LIMIT: Final = {"user": "shop", "points_per_day": 1000}
QUOTA_LIMIT_OF_ALL: Final = {"user": "", "points_per_day": 1000}
QUOTA_LIMIT_PAGE: Final = {
    "items": [{**QUOTA_LIMIT, "used": 120, "updated_at": "2026-11-20T08:00:00.000000Z"}],
    "next_cursor": None,
}
TENANT_IN: Final = {"weight": 3}
TENANT: Final = {"id": "7", "weight": 3, "paused": False, "created_at": "2026-11-01T08:00:00.000000Z"}
TENANT_PAGE: Final = {
    "items": [{**TENANT, "models": {"value": 2, "exact": True}, "calls_today": 120}],
    "next_cursor": None,
}
KEY_IN: Final = {"name": "shop", "scopes": ["submit", "read"]}
KEY_MADE: Final = {
    "id": "12",
    "key": "sw_k7Jr0zXb2yQpT4mUe9sGfHn1cWv6LaDdRi3oEtYbNqM",
    "tenant": "7",
    "name": "shop",
    "scopes": ["submit", "read"],
}
KEY_ITEMS: Final = {
    "items": [
        {
            "id": "12",
            "tenant": "7",
            "name": "shop",
            "scopes": ["submit", "read"],
            "created_at": "2026-11-23T09:00:00.000000Z",
            "revoked_at": None,
        }
    ]
}
