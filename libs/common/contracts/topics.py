"""The names of every Kafka topic."""

from __future__ import annotations

from typing import Final

from libs.common.domain.ids import slug

#: Fixed for ever: the key decides the partition, and consumers rely on a task's events staying in one.
EVENT_PARTITIONS: Final = 12
MODEL_RETENTION_MS: Final = 3_600_000


def events_topic(prefix: str) -> str:
    return f"{prefix}.task.events"


def dead_topic(prefix: str) -> str:
    return f"{prefix}.dead"


def model_topic(prefix: str, model_id: int, name: str) -> str:
    """A model's own topic; its id makes it unique whatever its name is cleaned to, and outlives renames of others."""
    return f"{prefix}.model.{model_id}-{slug(name)}"


def partition_of(task_id: int, partitions: int) -> int:
    """Where a task's message goes."""
    return task_id % partitions
