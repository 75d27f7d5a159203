"""Apache Kafka itself: one node in KRaft mode, from Maven artifacts."""

from __future__ import annotations

import base64
import shutil
import uuid
from functools import cached_property
from pathlib import Path
from string import Template

from libs.common.embedded.child import ChildFailed, Command, run_to_end
from libs.common.embedded.kafka_jars import FILES, jars, kafka_version
from libs.common.embedded.ports import LOOPBACK, accepts, free_port, until_free
from libs.common.embedded.produce import acknowledges
from libs.common.embedded.server_process import ServerProcess

_JVM = ("-Xms128m", "-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


class EmbeddedKafka(ServerProcess):
    """Topics and records survive restarts and kills. Needs Maven (once) and a JDK of 17 or newer.

    Answers again 3-5 s after a restart; made for one machine, not for production.
    """

    role = "broker"
    kind = "kafka"
    start_seconds = 60.0
    stop_seconds = 20.0

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        controller_port: int | None = None,
        log_path: Path | None = None,
    ) -> None:
        super().__init__(folder, port=port, log_path=log_path)
        self.controller_port = controller_port or free_port()

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @cached_property
    def version(self) -> str:
        return f"Apache Kafka {kafka_version()}"

    async def prepare(self) -> None:
        self._jars = await jars()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._write_settings()
        if not (self.folder / "data" / "meta.properties").exists():
            await self._format()
        if not await until_free(self.controller_port, seconds=5):
            raise ChildFailed(f"{self.role}: port {self.controller_port} of {LOOPBACK} is taken by another process")

    def command(self) -> Command:
        return self._java(*_JVM, "kafka.Kafka", self._settings_file)

    async def probe(self) -> bool:
        return await accepts(self.port) and await acknowledges(self.address)

    @property
    def _settings_file(self) -> Path:
        return self.folder / "server.properties"

    def _write_settings(self) -> None:
        values = {"port": self.port, "controller_port": self.controller_port, "data": self.folder / "data"}
        template = Template((FILES / "server.properties").read_text())
        self._settings_file.write_text(template.substitute(values))
        (self.folder / "log4j2.xml").write_text((FILES / "log4j2.xml").read_text())

    async def _format(self) -> None:
        shutil.rmtree(self.folder / "data", ignore_errors=True)  # what an interrupted format left
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # In one word: as a word of its own an id that begins with a dash, one of 64, would be taken for an option.
        named = ("--standalone", f"--cluster-id={cluster_id}", "-c", self._settings_file)
        await run_to_end(self._java(*_JVM, "kafka.tools.StorageTool", "format", *named), seconds=60)

    def _java(self, *arguments: str | Path) -> Command:
        java = shutil.which("java")
        if java is None:
            raise ChildFailed("Apache Kafka needs a JDK of 17 or newer on PATH")
        log_settings = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.xml'}"
        return Command([java, "-cp", f"{self._jars}/*", log_settings, *arguments], self.log_path, folder=self.folder)
