"""How every Kafka client of ours reaches the broker, and why it cannot."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import KafkaError

from libs.common.domain.errors import WrongSetting
from libs.common.settings import Settings

_DIAGNOSE_SECONDS: Final = 3.0
#: Networks forget connections that rest (Azure after 4 minutes, AWS after 6), and say nothing: ours end before.
_RESTED_MS: Final = 180_000
#: How long a fetch may wait at the broker: Tansu does not wake a waiting fetch when a record comes.
_FETCH_WAIT_MS: Final = {"kafka": 50, "tansu": 20}
#: Between two requests for the metadata of a cluster: aiokafka's own pause between retries.
_METADATA_REST: Final = 0.1


@dataclass(frozen=True, slots=True)
class KafkaConnection:
    """Addresses and credentials, as aiokafka's clients take them. Made once for each process: it reads files."""

    bootstrap: tuple[str, ...]
    broker: str = "kafka"
    security: str = "PLAINTEXT"
    sasl_mechanism: str = "PLAIN"
    username: str = ""
    password: str = field(default="", repr=False)
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)

    @classmethod
    def of(cls, settings: Settings) -> KafkaConnection:
        """Raises WrongSetting when a file of certificates cannot be used."""
        return cls(
            bootstrap=tuple(part.strip() for part in settings.kafka_bootstrap.split(",") if part.strip()),
            broker=settings.broker,
            security=settings.kafka_security,
            sasl_mechanism=settings.kafka_sasl_mechanism,
            username=settings.kafka_username,
            password=settings.kafka_password.get_secret_value(),
            ssl_context=_tls(settings) if settings.kafka_security.endswith("SSL") else None,
        )

    @property
    def idempotent(self) -> bool:
        """Whether the broker knows idempotent producers."""
        return self.broker != "tansu"

    @property
    def fetch_wait_ms(self) -> int:
        """How long a consumer's fetch may wait for records."""
        return _FETCH_WAIT_MS[self.broker]

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of AIOKafkaProducer, AIOKafkaConsumer and AIOKafkaAdminClient alike."""
        return {
            "bootstrap_servers": list(self.bootstrap),
            "connections_max_idle_ms": _RESTED_MS,
            **self._security(),
        }

    def _security(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {"security_protocol": self.security, "ssl_context": self.ssl_context}
        if self.security.startswith("SASL"):
            arguments |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        return arguments

    async def diagnose(self) -> str:
        """Why no broker of the list can be reached; empty when one can.

        aiokafka's clients say only "unable to bootstrap" for a wrong password, an unknown CA and a closed port alike.
        """
        asking = [asyncio.create_task(self._cause(host, port)) for host, port, _ in collect_hosts(list(self.bootstrap))]
        causes = []
        try:
            for asked in asyncio.as_completed(asking):
                causes.append(await asked)
                if not causes[-1]:
                    return ""
        finally:
            for task in asking:
                task.cancel()
        return "; ".join(causes) or "no bootstrap server is set"

    async def _cause(self, host: str, port: int) -> str:
        try:
            async with asyncio.timeout(_DIAGNOSE_SECONDS):
                connection = await create_conn(host, port, request_timeout_ms=3_000, **self._security())
        except (KafkaError, OSError, TimeoutError) as error:
            return f"{host}:{port}: {type(error).__name__}: {error}"[:300]
        connection.close()
        return ""


def _tls(settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ca_file or None)
    except OSError as error:
        raise _unusable("CA", settings.kafka_ca_file, error, "name a file of PEM certificates") from error
    if settings.kafka_cert_file:
        _present(context, settings)
    elif settings.kafka_key_file:
        raise WrongSetting("SLUICEWAY_KAFKA_KEY_FILE: a key of no certificate; set SLUICEWAY_KAFKA_CERT_FILE, too.")
    return context


def _present(context: ssl.SSLContext, settings: Settings) -> None:
    """Have a certificate of ours shown. Whichever of its two files cannot be used is told by its setting."""
    certificate, key = settings.kafka_cert_file, settings.kafka_key_file
    try:
        ssl.create_default_context().load_verify_locations(certificate)
    except OSError as error:
        raise _unusable("CERT", certificate, error, "name a PEM certificate") from error
    try:  # a password, which it has none of: OpenSSL would ask the terminal for one
        context.load_cert_chain(certificate, key or None, password="")
    except OSError as error:
        if key:
            raise _unusable("KEY", key, error, "name the PEM key of that certificate, without a password") from error
        do = "name a PEM certificate, and its key in SLUICEWAY_KAFKA_KEY_FILE"
        raise _unusable("CERT", certificate, error, do) from error


def _unusable(which: str, file: str, error: OSError, do: str) -> WrongSetting:
    return WrongSetting(f"SLUICEWAY_KAFKA_{which}_FILE: {file} cannot be used ({error.strerror or error}); {do}.")


def pace(client: AIOKafkaClient) -> None:
    """Have a client rest between its requests for metadata.

    While a partition that is read or written has no leader, or the client knows of none, aiokafka asks again as soon as
    it is answered or refused: 2,200 times a second with half a core here, and as often at the brokers that are left.
    There is no setting for it; a test guards the name.
    """
    update = client._metadata_update
    earliest = 0.0

    async def paced(cluster: Any, topics: Any) -> Any:
        nonlocal earliest
        await asyncio.sleep(earliest - time.monotonic())
        try:
            return await update(cluster, topics)
        finally:
            earliest = time.monotonic() + _METADATA_REST

    client._metadata_update = paced


def quiet_clients() -> None:
    """Silence aiokafka's own log in this process: it says every try of every partition, thousands of lines in an
    outage, while our lines say each outage once and its cause. Call it after logging is configured."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
