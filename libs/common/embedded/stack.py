"""The whole product on one machine: servers and services, each in a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from libs.common.embedded.addresses import Addresses
from libs.common.embedded.child import ChildFailed
from libs.common.embedded.data_folder import DataFolder
from libs.common.embedded.kafka import EmbeddedKafka
from libs.common.embedded.ports import LOOPBACK
from libs.common.embedded.postgres import EmbeddedPostgres
from libs.common.embedded.redis import EmbeddedRedis
from libs.common.embedded.server_process import ServerProcess
from libs.common.embedded.service import ServiceProcess
from libs.common.embedded.tansu import EmbeddedTansu

ServiceArguments = Callable[[str], Sequence[str]]

# The roles in the order in which they are stopped, and how many processes each has unless SLUICEWAY_<ROLE>S says.
_ROLES = {"api": 1, "dispatcher": 1, "executor": 2, "janitor": 1}

_SERVER_ADDRESSES = ("SLUICEWAY_DATABASE_URL", "SLUICEWAY_REDIS_URL", "SLUICEWAY_KAFKA_BOOTSTRAP")

# Where things lie and what they are called: whoever looks at the stores from outside needs the same. No secrets.
_TOLD = (
    *("SLUICEWAY_TOPIC_PREFIX", "SLUICEWAY_TOPIC_PARTITIONS", "SLUICEWAY_TOPIC_REPLICATION"),
    *("SLUICEWAY_KAFKA_SECURITY", "SLUICEWAY_KAFKA_SASL_MECHANISM", "SLUICEWAY_KAFKA_USERNAME"),
    *("SLUICEWAY_KAFKA_PASSWORD_FILE", "SLUICEWAY_KAFKA_CA_FILE", "SLUICEWAY_KAFKA_CERT_FILE"),
    *("SLUICEWAY_KAFKA_KEY_FILE", "SLUICEWAY_SECRET_KEYS_FILE"),
    *("SLUICEWAY_STAGING_DIR", "SLUICEWAY_STAGING_STORE", "SLUICEWAY_STORAGE_PUBLIC_URL", "SLUICEWAY_OSS_URL"),
    *("SLUICEWAY_EVENT_SOURCE", "SLUICEWAY_TIMEZONE", "SLUICEWAY_MAX_WAIT_SECONDS", "SLUICEWAY_EXECUTOR_SLOTS"),
)


def _module(role: str) -> Sequence[str]:
    return (sys.executable, "-m", f"services.{role}")


class Stack:
    """What `sluiceway up` starts for a data folder, and under which addresses.

    Servers whose address the environment gives (SLUICEWAY_DATABASE_URL, SLUICEWAY_REDIS_URL,
    SLUICEWAY_KAFKA_BOOTSTRAP) are used and not started. Raises ChildFailed on a setting it cannot follow.
    """

    def __init__(
        self,
        folder: DataFolder,
        addresses: Addresses,
        environment: Mapping[str, str] = os.environ,
        *,
        service_arguments: ServiceArguments | None = None,
    ) -> None:
        self.folder = folder
        self._addresses = addresses
        self._given = _read_mounted(environment)
        self._service_arguments = service_arguments or _module

    @cached_property
    def servers(self) -> list[ServerProcess]:
        """In starting order of importance; they are started together."""
        wanted = [self._postgres, self._redis, self._broker]
        return [server for server in wanted if server is not None]

    @cached_property
    def services(self) -> list[ServerProcess]:
        """Our own processes, in the order in which they are stopped."""
        return [
            self._service(role, number)
            for role, usual in _ROLES.items()
            for number in range(1, self._number_of(role, usual) + 1)
        ]

    @property
    def api_url(self) -> str:
        return f"http://{LOOPBACK}:{self._addresses.port('api')}"

    @property
    def database_url(self) -> str:
        return self._postgres.address if self._postgres else self._given["SLUICEWAY_DATABASE_URL"]

    @property
    def redis_url(self) -> str:
        return self._redis.address if self._redis else self._given["SLUICEWAY_REDIS_URL"]

    @property
    def kafka_bootstrap(self) -> str:
        return self._broker.address if self._broker else self._given["SLUICEWAY_KAFKA_BOOTSTRAP"]

    @property
    def storage_url(self) -> str:
        return self._given.get("SLUICEWAY_STORAGE_URL") or self.folder.objects.as_uri()

    @cached_property
    def environment(self) -> dict[str, str]:
        """What every service gets: ours where the user said nothing."""
        usual = {
            "SLUICEWAY_STAGING_DIR": str(self.folder.staging),
            # Models run on this machine too; elsewhere private addresses are refused.
            "SLUICEWAY_EGRESS_ALLOW": "127.0.0.0/8,::1/128",
        }
        if "SLUICEWAY_SECRET_KEYS" not in self._given:
            usual["SLUICEWAY_SECRET_KEYS_FILE"] = str(self.folder.secrets)
        fixed = {
            "SLUICEWAY_DATABASE_URL": self.database_url,
            "SLUICEWAY_REDIS_URL": self.redis_url,
            "SLUICEWAY_KAFKA_BOOTSTRAP": self.kafka_bootstrap,
            "SLUICEWAY_BROKER": self._broker_kind,
            "SLUICEWAY_STORAGE_URL": self.storage_url,
            "SLUICEWAY_API_HOST": LOOPBACK,
            "SLUICEWAY_HEALTH_HOST": LOOPBACK,
        }
        # On Linux the kernel ends the children of a supervisor that was killed; elsewhere they look themselves.
        fixed["SLUICEWAY_PARENT_PID"] = "" if sys.platform == "linux" else str(os.getpid())
        return {**usual, **self._given, **fixed}

    @property
    def report(self) -> dict[str, object]:
        """The addresses, as `sluiceway up --json` names them, the kind of broker, and what else finds the same."""
        return {
            "api": self.api_url,
            "kafka": self.kafka_bootstrap,
            "broker_kind": self._broker_kind,
            "database": self.database_url,
            "redis": self.redis_url,
            "object_store": self.storage_url,
            "console": f"{self.api_url}/console",
            "data": str(self.folder.path),
            "logs": str(self.folder.logs),
            "settings": {name: _anywhere(name, self.environment[name]) for name in _TOLD if name in self.environment},
        }

    @cached_property
    def _postgres(self) -> EmbeddedPostgres | None:
        if self._given.get("SLUICEWAY_DATABASE_URL"):
            return None
        port = self._addresses.port("postgres")
        return EmbeddedPostgres(self.folder.path / "postgres", port=port, log_path=self.folder.logs / "postgres.log")

    @cached_property
    def _redis(self) -> EmbeddedRedis | None:
        if self._given.get("SLUICEWAY_REDIS_URL"):
            return None
        port = self._addresses.port("redis")
        return EmbeddedRedis(self.folder.path / "redis", port=port, log_path=self.folder.logs / "redis.log")

    @cached_property
    def _broker(self) -> EmbeddedTansu | EmbeddedKafka | None:
        if self._given.get("SLUICEWAY_KAFKA_BOOTSTRAP"):
            return None
        port, log = self._addresses.port("broker"), self.folder.logs / "broker.log"
        if self._broker_kind == "tansu":
            return EmbeddedTansu(self.folder.path / "tansu", port=port, log_path=log)
        controller = self._addresses.port("broker-controller")
        return EmbeddedKafka(self.folder.path / "kafka", port=port, controller_port=controller, log_path=log)

    @property
    def _broker_kind(self) -> str:
        usual = "kafka" if self._given.get("SLUICEWAY_KAFKA_BOOTSTRAP") else "tansu"
        kind = self._given.get("SLUICEWAY_BROKER") or usual
        if kind not in ("tansu", "kafka"):
            raise ChildFailed(f"SLUICEWAY_BROKER is {kind!r}; it can be tansu or kafka")
        return kind

    def _service(self, role: str, number: int) -> ServiceProcess:
        port = self._addresses.port("api" if (role, number) == ("api", 1) else f"{role}-{number}")
        own = {"SLUICEWAY_API_PORT": str(port)} if role == "api" else {"SLUICEWAY_HEALTH_PORT": str(port)}
        return ServiceProcess(
            role,
            number,
            self._service_arguments(role),
            environment={**self.environment, **own},
            port=port,
            logs=self.folder.logs,
            drain_seconds=float(self._given.get("SLUICEWAY_DRAIN_SECONDS") or 30),
        )

    def _number_of(self, role: str, usual: int) -> int:
        setting = f"SLUICEWAY_{role.upper()}S"
        given = self._given.get(setting) or str(usual)
        if not given.isdecimal():
            raise ChildFailed(f"{setting} is {given!r}; it must be a number")
        return int(given)


def _anywhere(name: str, value: str) -> str:
    """A setting as it is read in any folder: ours, by which a path may have been given, is not the asker's."""
    return os.path.abspath(value) if value and name.endswith(("_DIR", "_FILE")) else value


def _read_mounted(environment: Mapping[str, str]) -> dict[str, str]:
    # A server's address may come as a mounted secret, like every setting.
    mounted = {name: environment.get(f"{name}_FILE") for name in _SERVER_ADDRESSES if name not in environment}
    return {**environment, **{name: Path(file).read_text().rstrip("\r\n") for name, file in mounted.items() if file}}
