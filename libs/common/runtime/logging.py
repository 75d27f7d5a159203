"""One line for each thing that happened: JSON in production, readable on a terminal, secrets masked in both."""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import suppress
from typing import Any, Final, Literal, TypeAlias, cast

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from libs.common.runtime.redaction import redact

Level: TypeAlias = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
Format: TypeAlias = Literal["json", "pretty"]

#: They tell their own story at INFO; ours is enough.
_CHATTY: Final = ("aiokafka", "asyncio", "sqlalchemy", "uvicorn", "faststream", "httpx", "httpcore", "aiohttp")
_JSON_OPTIONS: Final = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z


def configure_logging(role: str, level: Level = "INFO", format: Format | None = None) -> None:
    """Set up logging for this process, once, before the first line. Lines go to stderr: stdout is for results.

    Without a format: pretty when stderr is a terminal, else JSON. Libraries that log by the standard library come out
    the same way, the chatty ones from WARNING on.
    """
    terminal = sys.stderr.isatty()
    chosen = format or ("pretty" if terminal else "json")
    threshold = logging.getLevelNamesMapping()[level]
    pid = os.getpid()

    def add_process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["role"] = role
        event["pid"] = pid
        return event

    structlog.configure(
        processors=[
            # Before the redactor, so that secrets in a traceback are masked as well.
            structlog.processors.format_exc_info,
            _redact_event,
            # Behind it, which looks at every text for a microsecond or two: these are our own.
            structlog.processors.add_log_level,
            add_process,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            _as_json if chosen == "json" else _pretty(colors=terminal),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=_Lines,
        cache_logger_on_first_use=True,
    )
    _route_standard_library(threshold)


def get_logger() -> FilteringBoundLogger:
    """A logger for a module; make it once at import. What is below the level costs one empty call."""
    return cast(FilteringBoundLogger, structlog.get_logger())


def _redact_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return cast(EventDict, redact(event))


def _as_json(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
    try:
        return orjson.dumps(event, default=str, option=_JSON_OPTIONS)
    except TypeError:
        # Integers over 64 bits and lone surrogates: a log line must never raise.
        return json.dumps(event, default=str).encode()


def _pretty(*, colors: bool) -> structlog.typing.Processor:
    # The plain formatter: the fancy ones print local variables, secrets included.
    renderer = structlog.dev.ConsoleRenderer(
        colors=colors, timestamp_key="time", exception_formatter=structlog.dev.plain_traceback
    )

    def render(logger: WrappedLogger, method: str, event: EventDict) -> bytes:
        return renderer(logger, method, event).encode("utf-8", "backslashreplace")

    return render


class _Lines:
    """Writes lines to stderr, and drops them when that is impossible: a full disk must not stop the work."""

    def msg(self, line: bytes) -> None:
        with suppress(OSError):
            os.write(2, line + b"\n")

    debug = info = warning = error = critical = msg


class _Forward(logging.Handler):
    """Hands records of the standard library to structlog."""

    def __init__(self) -> None:
        super().__init__()
        self._log = get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception as error:  # a library's own bad format string
            message = f"{record.msg!r} ({type(error).__name__})"
        fields: dict[str, Any] = {"logger": record.name}
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        self._log.log(record.levelno, message, **fields)


def _route_standard_library(threshold: int) -> None:
    logging.basicConfig(handlers=[_Forward()], level=threshold, force=True)
    logging.captureWarnings(True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))
