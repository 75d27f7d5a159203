"""The blocking HTTP call that Celery's and Dramatiq's workers make: one kept connection a thread."""

from __future__ import annotations

import http.client
import os
import threading

_local = threading.local()
#: Whether answers are kept in Redis, by the peer's own result store.
KEEPS = bool(os.environ.get("BENCH_KEEPS"))
PAYLOAD = b'{"text": "' + b"x" * 200 + b'"}'


def call() -> str:
    """POST the payload to the mock model; returns the answer, as text that JSON can carry."""
    connection = getattr(_local, "connection", None)
    if connection is None:
        connection = _local.connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["BENCH_MODEL_PORT"]))
    connection.request("POST", "/x", PAYLOAD, {"Content-Type": "application/json"})
    return connection.getresponse().read().decode("latin-1")
