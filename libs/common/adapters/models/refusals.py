"""What a failed call means: the client's errors and the model's refusals as ModelErrors, free of secrets."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp

from libs.common.adapters.http_client import Broken, NoPortLeft
from libs.common.domain.model_errors import ModelError, NoSocket, OutOfFiles, OutOfPorts
from libs.common.runtime.open_files import none_left

RETRYABLE_STATUSES: Final = frozenset({408, 409, 425, 429})  #: and every 5xx
_LONGEST_WAIT: Final = 86_400.0


def connection_error(who: str, error: Exception, *, sent: bool = True) -> ModelError:
    """What one of aiohttp's errors means, alone or in a Broken. Its own text is never used: it may hold a header or a
    query.
    """
    if isinstance(error, Broken):
        error = error.error
    if (ours := own_lack(error)) is not None:
        return ours
    meaning = _meaning(who, error)
    meaning.sent = sent
    return meaning


def own_lack(error: Exception) -> NoSocket | None:
    """What this process lacked for a connection, if one of aiohttp's errors says so: then nobody was called."""
    if isinstance(error, NoPortLeft):
        return OutOfPorts()
    # A resolver that could open nothing says that it failed, not why: so the process is asked, too.
    if isinstance(error, aiohttp.ClientConnectorError) and (none_left(error.os_error) or none_left()):
        return OutOfFiles()
    return None


def _meaning(who: str, error: Exception) -> ModelError:
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return _unreachable(who, "its certificate is not valid for it")
        case aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            return _unreachable(who, "no TLS could be agreed on")
        case aiohttp.ClientConnectorDNSError():
            return _unreachable(who, "its name cannot be resolved")
        case aiohttp.ServerTimeoutError():
            return _unreachable(who, "no connection in time")
        case aiohttp.ClientConnectorError():
            code = error.os_error.errno  # its text may name the address that was dialled
            return _unreachable(who, os.strerror(code).lower() if code and code > 0 else "no connection")
        case aiohttp.ClientPayloadError():
            return _unreachable(who, "the connection broke in the middle of its answer")
        case aiohttp.ClientResponseError():
            return ModelError("bad_answer", f"{who}: the answer is not proper HTTP", retryable=False)
        case aiohttp.InvalidURL():
            return ModelError("bad_address", "the model's address cannot be called", retryable=False)
        case _:
            return _unreachable(who, "the connection broke before it answered")


def status_error(status: int, headers: Mapping[str, str], reason: str, *, now: datetime) -> ModelError:
    """What an answer that is neither a success nor a redirect means; `reason` is cleaned text of its body."""
    retryable = status in RETRYABLE_STATUSES or 500 <= status < 600
    return ModelError(
        f"model_http_{status}",
        f"the model answered {status}" + (f": {reason}" if reason else ""),
        retryable=retryable,
        retry_after=retry_after(headers, now) if retryable else None,
    )


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that the answer asks to wait, at most a day; None when it asks for nothing that can be read.

    A date is taken relative to the answer's own Date, so that only one clock counts.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdecimal():
        return min(float(value[:9]), _LONGEST_WAIT)
    until = _date(value)
    if until is None:
        return None
    return min(max((until - (_date(headers.get("Date", "")) or now)).total_seconds(), 0.0), _LONGEST_WAIT)


def _unreachable(who: str, why: str) -> ModelError:
    return ModelError("model_unreachable", f"{who}: {why}", retryable=True)


def _date(value: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
