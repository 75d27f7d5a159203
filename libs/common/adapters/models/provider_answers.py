"""What providers' answers mean, as far as it is the same for all of them. Nothing here believes what it reads."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import orjson

from libs.common.adapters.foreign_text import Cleaner
from libs.common.adapters.models.refusals import retry_after, status_error
from libs.common.domain.model_errors import Busy, ModelError, TooEarly
from libs.common.ports_jobs import JobAnswer, JobCall

ID_LIMIT: Final = 512
#: No status that anybody knows is longer: adapter_config is not.
WORD_LIMIT: Final = 65_536
#: How long a provider that is full is left alone unless it says otherwise.
BUSY_SECONDS: Final = 5.0

#: Walking through so many values takes a fifth of a second.
VALUES_LIMIT: Final = 200_000

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
#: A line of a progress bar as tqdm draws it: `76%|#######   | 7568/10000 [00:33<00:10`.
_PROGRESS: Final = re.compile(r"\s*(\d{1,3})%\s*\|[^|]*\|\s*\d+/\d+")
_PROGRESS_LINES: Final = 200
_DEEPEST: Final = 32  #: where words are looked for in an error


class TooManyValues(ValueError):
    """JSON of so many values that looking through them would hold up everything else in this process."""


def read_json(body: bytes) -> Any:
    """What a provider wrote. Raises ValueError for what is no JSON, TooManyValues without parsing it.

    Counted are the signs between values, inside of texts too: that is quick, and never too few.
    """
    if body.count(b",") + body.count(b"[") + body.count(b"{") > VALUES_LIMIT:
        raise TooManyValues(f"more than {VALUES_LIMIT} values")
    return orjson.loads(body)


def document(answer: JobAnswer) -> Any:
    """The JSON of an answer. Raises ModelError: `bad_answer`, retryable, since the next one may be better, and
    `answer_too_large` for one of too many values."""
    try:
        return read_json(answer.body)
    except TooManyValues as error:
        raise ModelError("answer_too_large", f"the provider's answer has {error}", retryable=False) from None
    except ValueError:
        raise bad_answer(f"the provider's answer ({answer.status}) is not JSON") from None


def bad_answer(message: str) -> ModelError:
    """An answer that cannot be used, whatever was done at the provider."""
    return ModelError("bad_answer", message, retryable=True)


def unsettled(call: JobCall, seconds: float) -> TooEarly:
    """A job is not there, which means nothing before its provider had `seconds` for the last submit of it."""
    return TooEarly(retry_after=max(0.0, seconds - call.since_submit))


def cleaner_of(call: JobCall) -> Cleaner:
    """Masks what this call knows of secrets."""
    token = call.callback_url.rpartition("/")[2]
    return Cleaner.of([*(value for _, value in call.headers), call.callback_url, token])


def refusal(call: JobCall, answer: JobAnswer) -> ModelError:
    """What an answer that is no success means: Busy for a 429, else by its status, with the provider's own words.

    Only a 4xx says for certain that nothing was done. A 5xx may come from whatever stands before the provider, after
    the request got through (502, 504, a CDN's 520 to 527, the 503 of Envoy and Varnish for a connection that broke), or
    from the provider after it made the job; so may a 408.
    """
    cleaner = cleaner_of(call)
    reason = cleaner.clean(_reason(answer, cleaner.wanted_bytes))
    if answer.status == 429:
        after = retry_after(answer.headers, datetime.now(UTC))
        return Busy(f"the provider answered 429: {reason}", retry_after=BUSY_SECONDS if after is None else after)
    error = status_error(answer.status, answer.headers, reason, now=datetime.now(UTC))
    error.answered = 400 <= answer.status < 500 and answer.status != 408
    return error


def text(call: JobCall, value: Any) -> str:
    """Whatever a provider gave as message or error, as clean text."""
    if value is None or value == "":
        return ""
    cleaner = cleaner_of(call)
    known = _spoken(value, cleaner.wanted_bytes)
    try:
        return cleaner.clean(_encoded(known) if known else orjson.dumps(value))
    except TypeError:  # deeper than what orjson writes, though it reads it
        return ""


def unknown_status(call: JobCall, word: str) -> str:
    """What is said of a status that is none of those known."""
    return text(call, f"unknown status {word[:WORD_LIMIT]!r}")


def job_id(value: Any) -> str:
    """A provider's id for a job. Raises ModelError `bad_answer` for what cannot be one."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise bad_answer("the provider's answer names no job")
    if len(value) > ID_LIMIT or value in (".", "..") or _CONTROL.search(value):
        raise bad_answer("the provider's answer has an id that no address can carry")
    return value


def segment(value: str) -> str:
    """One part of a path: no slash, question mark or percent sign of it means anything."""
    return quote(value, safe="")


def percent(value: Any, *, full: float = 100.0) -> float | None:
    """A share of `full` as 0 to 100; None for what is none."""
    if isinstance(value, str):
        try:
            value = float(value.strip().rstrip("%"))
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # NaN is not itself
        return None
    return min(max(100.0 * value / full, 0.0), 100.0)


def progress_in(logs: Any) -> float | None:
    """The last progress bar in a job's log, in percent."""
    if not isinstance(logs, str):
        return None
    for line in reversed(re.split(r"[\r\n]", logs[-64 * 1024 :])[-_PROGRESS_LINES:]):
        if found := _PROGRESS.match(line):
            return percent(int(found[1]))
    return None


def _reason(answer: JobAnswer, most: int) -> bytes:
    """The provider's words in a refusal: those of its JSON where it has known names, else the body's beginning."""
    try:
        spoken = _spoken(read_json(answer.body), most)
    except ValueError:
        spoken = ""
    return _encoded(spoken) if spoken else answer.body


def _encoded(words: str) -> bytes:
    return words.encode("utf-8", "replace")


def _spoken(value: Any, most: int, depth: int = 0) -> str:
    """The words of an error object: RFC 9457's, FastAPI's list of mistakes, or what everybody else calls them.

    At most so many characters, also on the way: each level that copied all of 60 MB took 0.05 s of the loop.
    """
    if isinstance(value, str):
        return value[:most]
    if isinstance(value, list) and depth < _DEEPEST:
        return "; ".join(words for item in value[:5] if (words := _spoken(item, most, depth + 1)))[:most]
    if not isinstance(value, dict) or depth >= _DEEPEST:
        return ""
    if isinstance(value.get("msg"), str):
        place = value.get("loc")
        parts = place[:_DEEPEST] if isinstance(place, list) else ()
        where = ".".join(str(part) for part in parts if part != "body" and isinstance(part, str | int | float))
        return (f"{where}: {value['msg']}" if where else value["msg"])[:most]
    names = ("detail", "error", "message", "title")
    return next((words for name in names if (words := _spoken(value.get(name), most, depth + 1))), "")
