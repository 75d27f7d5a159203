"""Apache Kafka in a container, where a Docker engine answers, with the settings of the embedded one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from string import Template

from libs.common.embedded.kafka_jars import FILES
from libs.common.embedded.ports import free_port
from libs.common.embedded.produce import acknowledges
from tests.support.run_alone import run_alone

IMAGE = "apache/kafka:4.3.1"


@contextmanager
def kafka_container() -> Iterator[str]:
    """The bootstrap address of a broker in a container that ends with the block."""
    from testcontainers.core.container import DockerContainer

    port, container = free_port(), DockerContainer(IMAGE)
    # The same number inside and outside: the broker must announce an address that clients can reach.
    container.with_bind_ports(port, port)
    container.with_envs(**variables(port, container.get_container_host_ip()))
    with container:
        address = f"{container.get_container_host_ip()}:{port}"
        run_alone(_ready(address))
        yield address


def has_a_host() -> bool:
    """Whether it is known before a container starts where its ports will be: its broker has to announce that. It is not
    in a container that shares the engine of its host."""
    from testcontainers.core.config import ConnectionMode
    from testcontainers.core.docker_client import DockerClient

    return DockerClient().get_connection_mode() is ConnectionMode.docker_host


def variables(port: int, host: str) -> dict[str, str]:
    """Our server.properties as the image wants them: `node.id` becomes KAFKA_NODE_ID."""
    filled = Template((FILES / "server.properties").read_text()).substitute(port=port, controller_port=1, data="")
    lines = [line for line in filled.splitlines() if line and not line.startswith("#")]
    settings = {name: value for name, _, value in (line.partition("=") for line in lines)}
    for name in ("log.dirs", "controller.quorum.bootstrap.servers"):  # the image has its own ways for both
        del settings[name]
    settings |= {
        "controller.quorum.voters": "1@localhost:9093",
        "listeners": f"PLAINTEXT://0.0.0.0:{port},CONTROLLER://localhost:9093",
        "advertised.listeners": f"PLAINTEXT://{host}:{port}",
    }
    return {f"KAFKA_{name.upper().replace('.', '_')}": value for name, value in settings.items()}


async def _ready(address: str) -> None:
    async with asyncio.timeout(60):
        while not await acknowledges(address):
            await asyncio.sleep(0.2)
