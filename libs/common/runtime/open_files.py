"""How many files a process may have open at once; connections are files."""

from __future__ import annotations

import errno
import resource
import socket
from typing import Final

#: Three for each call of an executor with the most slots there can be; systems that know no limit name absurd ones.
_ENOUGH: Final = 65_536
_NONE_LEFT: Final = frozenset({errno.EMFILE, errno.ENFILE})


def raise_limit() -> None:
    """Let this process open as many as it may allow itself: shells and systemd begin with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError):  # macOS has a limit behind the limit
        return


def limit() -> int:
    """How many it may have open now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _ENOUGH if soft == resource.RLIM_INFINITY else soft


def none_left(error: BaseException | None = None) -> bool:
    """Whether that is what this error says; without one, whether it is so now."""
    if error is None:
        try:
            socket.socket().close()
        except OSError as refused:
            error = refused
    return isinstance(error, OSError) and error.errno in _NONE_LEFT
