"""Three Apache Kafkas that are one cluster: each a broker and a controller, every topic on all of them."""

from __future__ import annotations

import asyncio
import base64
import uuid
from pathlib import Path
from typing import Final

from libs.common.embedded.child import run_to_end
from libs.common.embedded.kafka import EmbeddedKafka
from libs.common.embedded.ports import LOOPBACK
from tests.support.secure_kafka import replace_settings

NODES: Final = 3
_SETTINGS: Final = """
node.id={number}
controller.quorum.bootstrap.servers={controllers}
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
share.coordinator.state.topic.replication.factor=3
share.coordinator.state.topic.min.isr=2
broker.session.timeout.ms=3000
controller.quorum.election.timeout.ms=1000
controller.quorum.fetch.timeout.ms=2000
"""


class KafkaNode(EmbeddedKafka):
    """One of them; it is ready when the cluster takes a record, so the first ones are launched together."""

    def __init__(self, folder: Path, number: int, cluster: KafkaCluster) -> None:
        super().__init__(folder)
        self.number = number
        self.directory = _id()
        self._cluster = cluster

    @property
    def name(self) -> str:
        return f"broker-{self.number}"

    def _write_settings(self) -> None:
        super()._write_settings()
        controllers = ",".join(f"{LOOPBACK}:{node.controller_port}" for node in self._cluster.nodes)
        replace_settings(self._settings_file, _SETTINGS.format(number=self.number, controllers=controllers))

    async def _format(self) -> None:
        first = ",".join(
            f"{node.number}@{LOOPBACK}:{node.controller_port}:{node.directory}" for node in self._cluster.nodes
        )
        named = (f"--cluster-id={self._cluster.id}", f"--initial-controllers={first}", "-c", self._settings_file)
        await run_to_end(self._java("kafka.tools.StorageTool", "format", *named), seconds=60)


class KafkaCluster:
    """Its nodes may be stopped and killed one by one."""

    def __init__(self, folder: Path) -> None:
        self.id = _id()
        self.nodes = [KafkaNode(folder / f"kafka-{number}", number, self) for number in range(1, NODES + 1)]

    @property
    def address(self) -> str:
        """Where clients begin: all of them."""
        return ",".join(node.address for node in self.nodes)

    async def start(self) -> None:
        for node in self.nodes:
            await node.launch()
        await asyncio.gather(*(node.until_ready() for node in self.nodes))

    async def stop(self) -> None:
        await asyncio.gather(*(node.stop() for node in self.nodes))


def _id() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
