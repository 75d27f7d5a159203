"""Payloads of an old gateway: what the model gets, what proves who the caller was, and what may be shown of both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import orjson

from libs.common.domain.legacy import LegacyTask
from libs.common.domain.wrapped_payload import Found, find_credentials, is_credential
from libs.common.ports_import import LegacyLine, RawTask, TakenLine
from libs.common.runtime.redaction import MASK, is_secret_name, redact_text

#: What the operation log keeps of a payload.
LOG_LIMIT: Final = 65_536
_SHOWN_STRING: Final = 40
_SHOWN: Final = 600


def unwrapped(raw: RawTask) -> LegacyTask:
    """The task with the payload that its model gets, and with the credentials around it.

    Where nothing lies at the path, what is stored is the payload, unless it holds credentials: these go to no model.
    """
    found = credentials(raw)
    text = raw.payload or ""
    if not raw.unwrapped and found.any:
        text = ""
    return replace(raw.task, payload=text.encode(), authorization=found.authorization, user_info=found.user_info)


def credentials(raw: RawTask) -> Found:
    """What was found around the payload, or in a payload at whose path nothing lies."""
    return find_credentials(_document(raw.payload if raw.wrapper is None and not raw.unwrapped else raw.wrapper))


def looks_wrapped(raw: RawTask) -> bool:
    """Whether a payload that was taken as it is holds a caller's credentials."""
    return raw.wrapper is None and find_credentials(_document(raw.payload)).any


def sealable(task: LegacyTask) -> bytes | None:
    """A task's credentials as they are kept, to be sealed; None when there are none."""
    if not task.authorization and not task.user_info:
        return None
    return orjson.dumps({"authorization": task.authorization, "x_user_info": task.user_info})


def masked_line(line: LegacyLine, task: Any) -> TakenLine:
    """A line of the operation log with every secret masked and its payloads cut."""
    return TakenLine(
        line, task, redact_text(line.error_msg), masked(line.request_payload), masked(line.response_payload)
    )


def masked(text: str | None) -> str | None:
    """JSON text with its secrets masked, cut to what the log keeps."""
    if text is None:
        return None
    try:
        value = orjson.loads(text)
    except ValueError:
        return redact_text(text)[:LOG_LIMIT]
    hidden = _masked(value)
    return (text if hidden == value else orjson.dumps(hidden).decode())[:LOG_LIMIT]


def shown(text: str | None) -> str:
    """A payload as an operator may see it on a screen: secrets masked, long strings cut."""
    value = _parsed(text)
    return orjson.dumps(_masked(value, _SHOWN_STRING)).decode()[:_SHOWN]


def _masked(value: Any, longest: int | None = None) -> Any:
    if isinstance(value, dict):
        return {
            name: MASK if inner and (is_secret_name(name) or is_credential(name)) else _masked(inner, longest)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_masked(inner, longest) for inner in value]
    if isinstance(value, str):
        # JSON inside a string may hold anything: the names in it are masked as names in any text are.
        text = redact_text(_masked_inner(value))
        return text if longest is None or len(text) <= longest else f"{text[:longest]}..."
    return value


def _masked_inner(text: str) -> str:
    if not text.lstrip().startswith(("{", "[")):
        return text
    inner = _parsed(text)
    hidden = _masked(inner) if isinstance(inner, dict | list) else inner
    return text if hidden == inner else orjson.dumps(hidden).decode()


def _document(text: str | None) -> Any:
    """What a JSON text says; JSON that was kept as a string says what is in it."""
    value = _parsed(text)
    return _parsed(value) if isinstance(value, str) else value


def _parsed(text: str | None) -> Any:
    try:
        return orjson.loads(text) if text else None
    except ValueError:
        return None
