"""Asking for names. One that gets no answer keeps its thread for up to a minute, and the loop has four: four dead names
would hold up everybody else's, and those of our own servers. So tenants' names are asked for in threads of their own.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


def ask(host: str, port: int, family: int = 0, *, over: Callable[[], None] = lambda: None) -> Future[Any]:
    """What getaddrinfo says; `over` is called in the thread that asked. Whoever goes before the answer comes leaves the
    thread behind, and a process that ends does not wait for it."""
    answer: Future[Any] = Future()
    answer.set_running_or_notify_cancel()

    def work() -> None:
        try:
            answer.set_result(socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG))
        except Exception as error:
            answer.set_exception(error)
        finally:
            over()

    threading.Thread(target=work, name="name", daemon=True).start()
    return answer
