"""Asking for names. One that gets no answer keeps its thread for up to a minute, and the loop has four: four dead names
would hold up everybody else's, and those of our own servers. So tenants' names are asked for in threads of their own.
"""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


def ask(host: str, port: int, family: int = 0, *, over: Callable[[], None] = lambda: None) -> Future[Any]:
    """What getaddrinfo says; `over` is called in the thread that asked. Whoever goes before the answer comes leaves the
    thread behind, and a process that ends does not wait for it. Where no thread can be had that is an OSError."""
    answer: Future[Any] = Future()
    answer.set_running_or_notify_cancel()

    def work() -> None:
        try:
            answer.set_result(socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG))
        except Exception as error:
            answer.set_exception(error)
        finally:
            over()

    try:
        threading.Thread(target=work, name="name", daemon=True).start()
    except RuntimeError as error:  # containers have a limit of threads
        answer.set_exception(OSError(errno.EAGAIN, str(error)))
        over()
    return answer
