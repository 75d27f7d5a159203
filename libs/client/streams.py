"""Streams of events: their lines, and what to do when one breaks."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import httpx

from libs.client.calls import NOT_NOW, STRANGER, backoff
from libs.client.errors import ApiError, NotReachable
from libs.client.task import FINAL

#: A CR that came last may be the first half of one.
_END_OF_LINE: Final = re.compile(r"\r\n|\n|\r(?!\Z)")
log = logging.getLogger(__name__)

#: What follows on a stream of a tenant is new; what came before was told again.
_CAUGHT_UP: Final = "caught_up"
#: A stream that was had is wanted back for so long: as a restart of the API may take.
_BRIDGED_SECONDS: Final = 120.0


def is_end(event: Mapping[str, Any]) -> bool:
    """Whether a task's stream ends with this; a failure that will be tried again is none."""
    return bool(event.get("final", event.get("status") in FINAL))


class Patience:
    """When what broke or cannot be had is asked for again, and when it is given up: a stream, or a wait for a task.

    What was never had is tried `tries` times, so that a wrong address is told soon; what was had, longer.
    """

    def __init__(self, tries: int) -> None:
        self._tries = tries
        self._nth = 0  #: tries since the last line came
        self._had = False
        self._broke_at = 0.0

    def had(self) -> None:
        """A line came, or an answer."""
        self._had, self._nth = True, 0

    def pause(self, why: Exception | None, now: float) -> float:
        """Seconds until the next try; raises NotReachable, and ApiError for what another try would not change.

        `why` None: the server ended the stream, as one does that is being stopped.
        """
        if self._nth == 0:
            self._broke_at = now
        self._nth += 1
        given_up = now - self._broke_at > _BRIDGED_SECONDS if self._had else self._nth >= self._tries
        wanted = 0.0
        if isinstance(why, ApiError):
            wanted = why.retry_after or 0.0
            if given_up or why.status not in NOT_NOW or wanted > _BRIDGED_SECONDS:
                raise why
        elif given_up and isinstance(why, NotReachable):
            raise why
        elif given_up:
            raise NotReachable("the stream of events broke and cannot be had again")
        return max(wanted, backoff(self._nth))


class Events:
    """Puts an event stream together (Server-Sent Events, WHATWG HTML 9.2).

    Its lines end with CR, LF or both and with nothing else: what str and httpx take for an end too, such as U+2028, may
    stand in a message.
    """

    def __init__(self, last: str = "") -> None:
        self.last = last  #: where to go on after a break
        self._rest = ""  #: of a line that is not whole yet
        self._data: list[str] = []
        self._id: str | None = None  #: of the event that is not whole yet
        self._name = ""

    def begin(self, response: httpx.Response) -> bool:
        """Whether this answer tells more; what a connection that broke left half told is dropped.

        Raises NotReachable when it is no stream of events.
        """
        self._rest, self._data, self._id, self._name = "", [], None, ""
        if self.last and response.status_code == httpx.codes.NO_CONTENT:  # the end is what the caller has
            return False
        if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
            raise NotReachable(f"{STRANGER}: it tells no events")
        return True

    def feed(self, text: str) -> Iterator[dict[str, Any]]:
        """The events that this text completes; it may end anywhere."""
        *lines, self._rest = _END_OF_LINE.split(self._rest + text)
        for line in lines:
            yield from self._take(line)

    def _take(self, line: str) -> Iterator[dict[str, Any]]:
        if not line:
            if self._id is not None:
                self.last = self._id
            data, name, place = "\n".join(self._data), self._name, self._id
            self._data, self._name, self._id = [], "", None
            if data:
                event = _object(data)
                if name == _CAUGHT_UP:
                    _look_for_gap(event)
                else:
                    yield {**event, "event_id": place}
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "id":
            self._id = value
        elif name == "event":
            self._name = value


def _object(data: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise NotReachable(f"{STRANGER}: its event is no object")
    return event


def _look_for_gap(caught_up: Mapping[str, Any]) -> None:
    if caught_up.get("complete") is False:
        since = caught_up.get("complete_from")
        log.warning("the stream was broken: changes of tasks created before %s may have been missed", since)
