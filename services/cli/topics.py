"""`sluiceway topics`: the Kafka topics that this installation uses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from services.cli.app import app
from services.cli.output import JsonOption, Output, OutputOption, cell, chosen, show_document
from services.cli.wiring import complete

if TYPE_CHECKING:
    from libs.common.ports_dispatch import LaneInfo
    from libs.common.settings import Settings


@dataclass(frozen=True, slots=True)
class TopicLine:
    """One topic: what it should be, and what the broker has."""

    topic: str
    partitions: int
    existing: int | None  #: partitions at the broker; None when the topic is not there
    tenant: str | None = None
    model: str | None = None
    model_id: str | None = None

    @property
    def state(self) -> str:
        """In a word."""
        if self.existing is None:
            return "missing"
        return "exists" if self.existing >= self.partitions else f"has only {self.existing}"


@app.command()
def topics(output: OutputOption = Output.TABLE, as_json: JsonOption = False) -> None:
    """List the topics of models, events and dead letters, and whether they exist.

    A running dispatcher makes what is missing, at the latest for the model's next task. Exit code 3 when the database
    or the broker cannot be reached.

    Example: sluiceway topics --output ids
    """
    from libs.common.settings import load_settings

    lines = complete(_read(load_settings()))
    document = {"topics": [asdict(line) | {"exists": line.existing is not None} for line in lines]}
    show_document(document, chosen(output, as_json), lambda: _show(lines), [line.topic for line in lines])


def _show(lines: Iterable[TopicLine]) -> None:
    for line in lines:
        owner = f"tenant {line.tenant}, model {cell(line.model)}" if line.model is not None else ""
        print(f"{line.topic:60} {line.partitions:3}  {line.state:14} {owner}".rstrip())


async def _read(settings: Settings) -> list[TopicLine]:
    from libs.common.adapters.kafka.connection import KafkaConnection
    from libs.common.adapters.kafka.topics import existing_topics
    from libs.common.adapters.postgres.database import open_database
    from libs.common.adapters.postgres.dispatch_queue import PostgresDispatchQueue

    async with open_database(settings.database_url.get_secret_value(), hot_connections=1) as database:
        lanes = await PostgresDispatchQueue(database).lanes_changed(None)
    existing = await existing_topics(KafkaConnection.of(settings), client_id="sluiceway-cli")
    return topic_lines(settings.topic_prefix, lanes, existing)


def topic_lines(prefix: str, lanes: Iterable[LaneInfo], existing: dict[str, int]) -> list[TopicLine]:
    """The topics of all models that are not deleted, then those of events and dead letters."""
    from libs.common.contracts.topics import EVENT_PARTITIONS, dead_topic, events_topic, model_topic

    lines = []
    for lane in sorted((lane for lane in lanes if not lane.closed), key=lambda lane: (lane.tenant_id, lane.model_name)):
        name = model_topic(prefix, lane.model_id, lane.model_name)
        owner = (str(lane.tenant_id), lane.model_name, str(lane.model_id))
        lines.append(TopicLine(name, lane.partitions, existing.get(name), *owner))
    for name, partitions in ((events_topic(prefix), EVENT_PARTITIONS), (dead_topic(prefix), 1)):
        lines.append(TopicLine(name, partitions, existing.get(name)))
    return lines
