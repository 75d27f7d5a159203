"""The dispatcher: due rows out to the model topics, completion events out to their consumers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from libs.common.contracts import hints as wire
from libs.common.ports import Hints
from libs.common.ports_dispatch import Placed
from libs.common.runtime.periodic import Periodic
from services.dispatcher.event_relay import EventRelay
from services.dispatcher.lanes import LaneBook
from services.dispatcher.relay import Relay
from services.dispatcher.roads import Roads
from services.dispatcher.topic_keeper import TopicKeeper
from services.dispatcher.webhooks import WebhookSender


class Dispatcher:
    """Everything that a dispatcher process does, until it is told to stop."""

    def __init__(
        self,
        relay: Relay,
        event_relay: EventRelay,
        roads: Roads,
        keeper: TopicKeeper,
        book: LaneBook,
        hints: Hints,
        presence: Periodic | None = None,
        periodics: Sequence[Periodic] = (),
        webhooks: WebhookSender | None = None,
    ) -> None:
        self._relay = relay
        self._event_relay = event_relay
        self._roads = roads
        self._keeper = keeper
        self._book = book
        self._hints = hints
        self._presence = presence
        self._periodics = periodics
        self._webhooks = webhooks

    async def run(self) -> None:
        """Work until stopped; what is on its way then is settled first."""
        async with asyncio.TaskGroup() as group:
            helpers = [
                group.create_task(self._roads.run(), name="roads"),
                group.create_task(self._keeper.run(), name="topics"),
                group.create_task(self._hints.listen([wire.DISPATCH], self.hear, self._on_gap), name="hints"),
            ]
            if self._presence is not None:
                helpers.append(group.create_task(self._presence.run(), name="presence"))
            for periodic in self._periodics:
                group.create_task(periodic.run(), name=periodic.name)
            stories = [
                group.create_task(self._relay.run(), name="relay"),
                group.create_task(self._event_relay.run(), name="events"),
            ]
            if self._webhooks is not None:
                stories.append(group.create_task(self._webhooks.run(), name="webhooks"))
            await asyncio.wait(stories)
            for helper in helpers:
                helper.cancel()

    def stop(self) -> None:
        """Take nothing more."""
        self._relay.stop()
        self._event_relay.stop()
        for periodic in self._periodics:
            periodic.stop()
        if self._webhooks is not None:
            self._webhooks.stop()

    def hear(self, _channel: str, lines: Sequence[str]) -> None:
        """Take hints in; what is no hint of ours is passed over."""
        for line in lines:
            self._take(line)
        if self._book.has_work:
            self._relay.wake()

    def _take(self, line: str) -> None:
        if line == wire.EVENTS_WAIT:
            self._event_relay.wake()
        elif line == wire.DELIVERIES_WAIT:
            if self._webhooks is not None:
                self._webhooks.wake()
        elif line == wire.MODELS_CHANGED:
            self._roads.look_soon()
        elif line == wire.PAUSES_CHANGED:
            self._relay.sweep_soon()
        else:
            match wire.read_dispatch(line):
                case wire.Room(lane):
                    self._book.room(lane)
                case Placed() as place:
                    if not self._book.work(*place):
                        self._roads.look_soon()  # a model that we have not heard of yet

    def _on_gap(self) -> None:
        self._roads.look_soon()
        self._relay.sweep_soon()
        self._event_relay.wake()
