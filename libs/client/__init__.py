"""The SDK for callers: hand in tasks, wait for them, follow them, take their results.

    from libs.client import Client

    with Client("http://127.0.0.1:8080", "sw_...") as sluiceway:
        task = sluiceway.run("speech", {"text": "hello"}, timeout=120)
        sluiceway.download(task.id, "hello.wav")

`AsyncClient` has the same methods as coroutines. Both repeat what may be repeated (reads, and creates, which carry an
Idempotency-Key of their own), as long after as the server asks for, if that is a minute at most.
"""

from libs.client.asynchronous import AsyncClient
from libs.client.errors import ApiError, ClientError, NotReachable, NotSendable, TaskEnded
from libs.client.synchronous import Client
from libs.client.task import Task

__all__ = ["ApiError", "AsyncClient", "Client", "ClientError", "NotReachable", "NotSendable", "Task", "TaskEnded"]
