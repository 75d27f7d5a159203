"""Real servers for a test session: which ones, started when first needed, ended with the session.

Addresses from the environment come first (SLUICEWAY_DATABASE_URL, SLUICEWAY_REDIS_URL,
SLUICEWAY_KAFKA_BOOTSTRAP); tests make databases of their own there and empty that one Redis database.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg
import redis

from libs.common.embedded import kafka_jars
from libs.common.embedded.kafka import EmbeddedKafka
from libs.common.embedded.postgres import EmbeddedPostgres
from libs.common.embedded.redis import EmbeddedRedis
from libs.common.embedded.server_process import ServerProcess
from libs.common.embedded.tansu import EmbeddedTansu
from tests.support.kafka_container import IMAGE, has_a_host, kafka_container
from tests.support.run_alone import run_alone

BrokerKind = Literal["kafka", "tansu"]


@dataclass(frozen=True, slots=True)
class BrokerChoice:
    """Which broker the tests talk to, and why that one."""

    source: Literal["environment", "docker", "maven", "embedded"]
    kind: BrokerKind
    version: str

    def __str__(self) -> str:
        return f"{self.version} ({_REASONS[self.source]})"


_REASONS = {
    "environment": "address from SLUICEWAY_KAFKA_BOOTSTRAP",
    "docker": "testcontainers: a Docker engine answers",
    "maven": "Maven artifacts: mvn and a JDK are here",
    "embedded": "from its wheel",
}


def choose_broker(environment: Mapping[str, str] = os.environ) -> BrokerChoice:
    """The broker under test: given, else in Docker, else Apache Kafka from Maven, else the embedded one."""
    wanted = environment.get("SLUICEWAY_BROKER")
    given = environment.get("SLUICEWAY_KAFKA_BOOTSTRAP")
    if given:
        return BrokerChoice("environment", "tansu" if wanted == "tansu" else "kafka", f"the broker at {given}")
    if wanted != "tansu" and docker_answers() and has_a_host():
        return BrokerChoice("docker", "kafka", f"Apache Kafka {IMAGE.partition(':')[2]}")
    if wanted == "kafka" or (wanted is None and kafka_jars.can_fetch()):
        return BrokerChoice("maven", "kafka", f"Apache Kafka {kafka_jars.kafka_version()}")
    return BrokerChoice("embedded", "tansu", EmbeddedTansu(Path("unused")).version)


def docker_answers(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a Docker engine answers a ping within a second; a client on PATH proves nothing."""
    host = urlsplit(environment.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
    family = socket.AF_UNIX if host.scheme == "unix" else socket.AF_INET
    with socket.socket(family) as engine:
        engine.settimeout(1)
        try:
            engine.connect(host.path if host.scheme == "unix" else (host.hostname, host.port or 2375))
            engine.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            return b"200 OK" in engine.recv(64)
        except OSError:
            return False


@contextmanager
def servers_folder() -> Iterator[Path]:
    """A folder that every account may enter, so that PostgreSQL can work in it when root runs the tests."""
    folder = Path(tempfile.mkdtemp(prefix="sluiceway-tests-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(server: ServerProcess) -> Iterator[ServerProcess]:
    """A server for the length of the block."""
    run_alone(server.start())
    try:
        yield server
    finally:
        run_alone(server.stop())


@contextmanager
def postgres_url(folder: Path) -> Iterator[str]:
    """A PostgreSQL server's URL, of a database in which others may be made."""
    given = os.environ.get("SLUICEWAY_DATABASE_URL")
    if given:
        yield given
        return
    server = EmbeddedPostgres(folder / "postgres")
    with running(server):
        yield server.address
    server.remove()


@contextmanager
def redis_server_url(folder: Path) -> Iterator[str]:
    """A Redis or Valkey server's URL."""
    given = os.environ.get("SLUICEWAY_REDIS_URL")
    if given:
        yield given
        return
    with running(EmbeddedRedis(folder / "redis")) as server:
        yield server.address


@contextmanager
def broker_address(choice: BrokerChoice, folder: Path) -> Iterator[str]:
    """The bootstrap address of the chosen broker."""
    match choice.source:
        case "environment":
            yield os.environ["SLUICEWAY_KAFKA_BOOTSTRAP"]
        case "docker":
            with kafka_container() as address:
                yield address
        case "maven":
            with running(EmbeddedKafka(folder / "kafka")) as server:
                yield server.address
        case "embedded":
            with running(EmbeddedTansu(folder / "tansu")) as server:
                yield server.address


@contextmanager
def migrated_template(server_url: str) -> Iterator[str]:
    """The name of a database with the newest schema, to be cloned by each test."""
    from libs.common.adapters.postgres.migrate import upgrade  # slow to import; most sessions need no database

    name = f"sluiceway_template_{uuid.uuid4().hex[:8]}"
    with _database(server_url, name) as url:
        run_alone(upgrade(url))
        yield name


@contextmanager
def clone(server_url: str, template: str) -> Iterator[str]:
    """The URL of a fresh database like the template, dropped after use."""
    with _database(server_url, f"sluiceway_test_{uuid.uuid4().hex[:12]}", template) as url:
        yield url


@contextmanager
def _database(server_url: str, name: str, template: str = "template0") -> Iterator[str]:
    run_alone(_execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template}"))
    try:
        yield urlsplit(server_url)._replace(path=f"/{name}").geturl()
    finally:
        run_alone(_execute(server_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


def with_options(url: str, **options: str) -> str:
    """The address with these options in place of its own."""
    parts = urlsplit(url)
    return parts._replace(query=urlencode({**dict(parse_qsl(parts.query)), **options})).geturl()


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute(statement, timeout=60)
    finally:
        await connection.close(timeout=5)


def empty_redis(url: str) -> None:
    """Forget everything in the database that the URL names."""
    with redis.Redis.from_url(url, socket_timeout=5) as client:
        client.flushdb()
