"""One example for everything that is sent and answered on the old routes."""

from __future__ import annotations

from typing import Any, Final

_TASK_ID: Final = "01939d5c-6f3e-7b1a-9c55-2f6f0b6f7a10"
_FILE: Final = "https://files.example.com/asynch_1764061444_9f86d081.wav"
_WRITTEN: Final[dict[str, Any]] = {
    "creator": "shop",
    "createdAt": "2026-11-25 17:04:00",
    "updater": "shop",
    "updatedAt": "2026-11-25 17:04:04",
    "deletedAt": None,
}
_PAGE: Final = {"pageNum": 1, "pageSize": 10}

MODEL_IN: Final = {
    "modelName": "speech",
    "baseUrl": "https://speech.example.com",
    "route": "/v1/synthesize",
    "apiKey": "X-API-Key:secret",
    "maxConcurrency": 4,
    "queueLimit": 1000,
    "timeoutSeconds": 120,
}
MODEL_UPDATE: Final = {"id": "12", "maxConcurrency": 8, "baseUrl": "", "apiKey": "********"}
MODEL_ID: Final = {"id": "12"}
MODEL_SEARCH: Final = {"page": _PAGE, "modelName": "spe"}
MODEL: Final = {
    "id": "12",
    "tenantId": "7",
    "modelName": "speech",
    "baseUrl": "https://speech.example.com",
    "route": "/v1/synthesize",
    "httpMethod": "POST",
    "apiKey": "********",
    "enabled": 1,
    "maxConcurrency": 4,
    "queueLimit": 1000,
    "timeoutSeconds": 120,
    "expectedSeconds": 0,
    "retryTimes": 0,
    "retryQueueMaxSeconds": 0,
    "autoCleanSeconds": 86400,
    "adapter": "plain-http",
    "adapterConfig": {},
    "pollSeconds": 3,
    "jobTimeoutSeconds": 3600,
    "price": 0,
    "remark": "",
    **_WRITTEN,
}
MODEL_PAGE: Final = {"list": [MODEL], "total": 1}

TASK_IN: Final = {"modelName": "speech", "bizName": "greeting-17", "requestPayload": {"text": "Good morning"}}
TASK_ID: Final = {"taskId": _TASK_ID}
TASK_IDS: Final = {"taskIds": [_TASK_ID]}
TASK_SEARCH: Final = {"page": _PAGE, "modelName": "spe", "state": 2}
TASK: Final = {
    "id": "41",
    "tenantId": "7",
    "taskId": _TASK_ID,
    "modelName": "speech",
    "bizName": "greeting-17",
    "state": 2,
    "status": "success",
    "progress": 100.0,
    "ossFile": _FILE,
    "fileType": "wav",
    "fileSize": 31724,
    "errorMsg": "",
    "startedAt": "2026-11-25 17:04:00",
    "finishedAt": "2026-11-25 17:04:04",
    "expireAt": None,
    "retryCount": 0,
    "enqueueAt": "2026-11-25 17:04:00",
    "phase": 0,
    "tmpFile": "",
    "inputRef": "",
    "requestPayload": {"text": "Good morning"},
    **_WRITTEN,
}
TASK_PAGE: Final = {"list": [TASK], "total": 1}
TASK_STATES: Final = {"list": [{"taskId": _TASK_ID, "state": 2, "ossFile": _FILE}]}

STAT_SEARCH: Final = {"page": _PAGE, "startDay": "2026-11-01", "endDay": "2026-11-30"}
STAT_PAGE: Final = {
    "list": [
        {
            "day": "2026-11-25",
            "tenantId": "7",
            "creator": "shop",
            "modelName": "speech",
            "requestCount": 1280,
            "createdAt": "2026-11-25 00:00:10",
            "updatedAt": "2026-11-25 17:04:10",
        }
    ],
    "total": 1,
}
