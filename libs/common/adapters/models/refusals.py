"""What a failed call means: the client's errors and the model's refusals as ModelErrors, free of secrets."""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp

from libs.common.domain.endpoint import Endpoint
from libs.common.domain.model_errors import ModelError

SHOWN_CHARACTERS: Final = 500
RETRYABLE_STATUSES: Final = frozenset({408, 409, 425, 429})  #: and every 5xx (contract 2)
_LONGEST_WAIT: Final = 86_400.0

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
_SHORTEST_SECRET: Final = 4  #: masking `1` or `on` would only make the text unreadable


def connection_error(endpoint: Endpoint, error: Exception) -> ModelError:
    """What one of aiohttp's errors means. Its own text is never used: it may hold a header or a query."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return _unreachable(endpoint, "its certificate is not valid for it")
        case aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            return _unreachable(endpoint, "no TLS could be agreed on")
        case aiohttp.ClientConnectorDNSError():
            return _unreachable(endpoint, "its name cannot be resolved")
        case aiohttp.ServerTimeoutError():
            return _unreachable(endpoint, "no connection in time")
        case aiohttp.ClientConnectorError():
            code = error.os_error.errno  # its text may name the address that was dialled
            return _unreachable(endpoint, os.strerror(code).lower() if code else "no connection")
        case aiohttp.ClientPayloadError():
            return _unreachable(endpoint, "the connection broke in the middle of its answer")
        case aiohttp.ClientResponseError():
            return ModelError("bad_answer", f"the answer of {endpoint.origin} is not proper HTTP", retryable=False)
        case aiohttp.InvalidURL():
            return ModelError("bad_address", "the model's address cannot be called", retryable=False)
        case _:
            return _unreachable(endpoint, "the connection broke before it answered")


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


@dataclass(frozen=True, slots=True)
class Cleaner:
    """Makes the other side's text fit for an error: secrets masked, as JSON shows them too, control characters gone."""

    variants: tuple[str, ...]

    @classmethod
    def of(cls, secrets: Iterable[str]) -> Cleaner:
        """A model may repeat a credential without its scheme: `Bearer abc` as `abc`."""
        parts = {part for secret in secrets for part in (secret, secret.rpartition(" ")[2])}
        shown = parts | {json.dumps(part)[1:-1] for part in parts}
        return cls(tuple(sorted((part for part in shown if len(part) >= _SHORTEST_SECRET), key=len, reverse=True)))

    @property
    def wanted_bytes(self) -> int:
        """How much of a body is needed so that a secret which begins in the shown part is seen whole."""
        return 4 * (SHOWN_CHARACTERS + self._longest)

    def clean(self, body: bytes) -> str:
        """The first SHOWN_CHARACTERS of a body of which at most `wanted_bytes` are given."""
        text = body[: self.wanted_bytes].decode("utf-8", "replace")
        for secret in self.variants:
            text = text.replace(secret, "***")
        if self.variants and len(body) >= self.wanted_bytes:
            text = text[: -self._longest]  # what was cut there may be the first part of a secret
        return _CONTROL.sub(" ", text).strip()[:SHOWN_CHARACTERS]

    @property
    def _longest(self) -> int:
        return len(self.variants[0]) if self.variants else 0


def _unreachable(endpoint: Endpoint, why: str) -> ModelError:
    return ModelError("model_unreachable", f"{endpoint.origin}: {why}", retryable=True)


def _date(value: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
