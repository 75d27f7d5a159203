"""The fields of a model on the old routes: their names, and what they are stored as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class WireField:
    """A field as it is sent. An empty text says nothing where `blank` is set: old clients always send some of them."""

    column: str
    kind: Literal["text", "number", "flag", "object"]
    blank: bool = False


MODEL_FIELDS: Final[dict[str, WireField]] = {
    "modelName": WireField("name", "text", blank=True),
    "baseUrl": WireField("base_url", "text", blank=True),
    "route": WireField("route", "text", blank=True),
    "httpMethod": WireField("http_method", "text", blank=True),
    "apiKey": WireField("api_key", "text"),
    "enabled": WireField("enabled", "flag"),
    "maxConcurrency": WireField("max_concurrency", "number"),
    "queueLimit": WireField("queue_limit", "number"),
    "timeoutSeconds": WireField("timeout_seconds", "number"),
    "expectedSeconds": WireField("expected_seconds", "number"),
    "retryTimes": WireField("retry_times", "number"),
    "retryQueueMaxSeconds": WireField("retry_queue_max_seconds", "number"),
    "autoCleanSeconds": WireField("auto_clean_seconds", "number"),
    "adapter": WireField("adapter", "text", blank=True),
    "adapterConfig": WireField("adapter_config", "object"),
    "pollSeconds": WireField("poll_seconds", "number"),
    "jobTimeoutSeconds": WireField("job_timeout_seconds", "number"),
    "price": WireField("price", "number"),
    "remark": WireField("remark", "text"),
}
