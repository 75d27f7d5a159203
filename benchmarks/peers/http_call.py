"""The blocking HTTP call that Celery's and Dramatiq's workers make: one kept connection a thread."""

from __future__ import annotations

import http.client
import os
import threading

_local = threading.local()
PAYLOAD = b'{"text": "' + b"x" * 200 + b'"}'


def call() -> int:
    """POST the payload to the mock model; returns the answer's size."""
    connection = getattr(_local, "connection", None)
    if connection is None:
        connection = _local.connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["BENCH_MODEL_PORT"]))
    connection.request("POST", "/x", PAYLOAD, {"Content-Type": "application/json"})
    return len(connection.getresponse().read())
