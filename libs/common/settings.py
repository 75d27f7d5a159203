"""Settings, from the environment alone: SLUICEWAY_<NAME>, or SLUICEWAY_<NAME>_FILE for a mounted secret."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

PREFIX: Final = "SLUICEWAY_"


class Settings(BaseSettings):
    """What every process is told. Built once, in main(); a bad value stops the process and names its field."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    data: str = Field("", description="data folder of the embedded stack")
    database_url: SecretStr = Field(SecretStr("postgresql://127.0.0.1:5432/sluiceway"), description="PostgreSQL >= 15")
    kafka_bootstrap: str = Field("127.0.0.1:9092", description="bootstrap servers of Kafka, comma separated")
    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="security protocol of Kafka"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="SASL mechanism, where the protocol has SASL"
    )
    kafka_username: str = Field("", description="SASL user")
    kafka_password: SecretStr = Field(SecretStr(""), description="SASL password")
    kafka_ca_file: str = Field("", description="CA bundle (PEM) for TLS to Kafka; empty: the system's")
    redis_url: SecretStr = Field(SecretStr("redis://127.0.0.1:6379/0"), description="Redis >= 7 or Valkey, noeviction")
    broker: Literal["kafka", "tansu"] = Field("kafka", description="kind of broker; tansu has no idempotent producer")
    topic_prefix: str = Field("sluiceway", pattern=r"^[A-Za-z0-9._-]{1,60}$", description="first part of topic names")
    topic_partitions: int = Field(0, ge=0, le=1_000, description="partitions of a model's topic; 0: derived")
    topic_replication: int = Field(1, ge=1, le=10, description="replication factor of topics")

    storage_url: str = Field("", description="object store: file:///folder, s3://bucket/prefix, gs://, az://")
    storage_public_url: str = Field(
        "", description="address prefix under which results can be read, if not the store's"
    )
    staging_dir: str = Field("", description="folder of staged outputs; shared between executors of several hosts")
    staging_store: str = Field("local", description="name of the staging store; equal where the folder is shared")
    staging_max_bytes: int = Field(10 * 2**30, gt=0, description="an executor takes no work while staging is fuller")
    output_max_bytes: int = Field(2 * 2**30, gt=0, description="largest output of one call")
    oss_url: str = Field("", description="HTTP file service for results; set: used in place of the object store")
    oss_path: str = Field("/oss/file/uploadFile", description="path of its upload")
    oss_authorization: SecretStr = Field(
        SecretStr(""), description="service credential for uploads whose task has none or an expired one"
    )
    egress_allow: str = Field("", description="private CIDRs and hosts that model calls may reach, comma separated")
    secret_keys: SecretStr = Field(
        SecretStr(""), description="key ring for secrets at rest: id:base64 of 32 bytes, comma separated, newest first"
    )

    api_host: str = Field("127.0.0.1", description="address that the API listens on")
    api_port: int = Field(8080, ge=0, le=65_535, description="port of the API; 0: any free one")
    health_host: str = Field("127.0.0.1", description="address of probes and metrics of the other services")
    health_port: int = Field(0, ge=0, le=65_535, description="port of probes and metrics; 0: any free one")
    payload_max_bytes: int = Field(1_048_576, gt=0, le=64 * 2**20, description="largest payload of a task")
    event_source: str = Field("/sluiceway", description="ce_source of completion events")

    executor_slots: int = Field(2_000, ge=1, le=20_000, description="calls that one executor runs at once")
    drain_seconds: float = Field(30.0, ge=0, description="how long a stopping process lets running work end")
    janitor_interval: float = Field(10.0, gt=0, description="seconds between sweeps; rescue looks every second")
    max_wait_seconds: int = Field(86_400, gt=0, description="longest wait in the queue before a task ends as timeout")
    upload_max_seconds: int = Field(86_400, gt=0, description="how long an upload is tried again")
    unfetched_days: int = Field(90, ge=0, description="when successes nobody fetched are deleted; 0: never")
    dead_days: int = Field(30, ge=1, description="when dead tasks are deleted")
    timezone: str = Field("UTC", description="time zone of statistics and quota days, and of the old routes' times")

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="lowest level that is logged")
    log_format: Literal["json", "pretty"] = Field("json", description="one JSON object a line, or coloured text")
    failpoints: str = Field("", description="for tests: role/name:nth:exit|raise|cancel|delay=ms, comma separated")

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        ZoneInfo(value)
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _MountedSecrets(settings_cls)

    def redacted(self) -> dict[str, Any]:
        """Every setting by its environment name, secrets and passwords in addresses hidden."""
        return {f"{PREFIX}{name.upper()}": _shown(getattr(self, name)) for name in type(self).model_fields}


class _MountedSecrets(PydanticBaseSettingsSource):
    """SLUICEWAY_<NAME>_FILE: the value is the file's content without its trailing newline."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        path = os.environ.get(f"{PREFIX}{field_name.upper()}_FILE")
        return (Path(path).read_text().rstrip("\r\n") if path else None), field_name, False

    def __call__(self) -> dict[str, Any]:
        values = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in values.items() if value is not None}


def unknown_names(environment: Mapping[str, str]) -> list[str]:
    """SLUICEWAY_ variables that no setting reads: a misspelt one changes nothing, and should be said."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | _LAUNCHER
    return sorted(name for name in environment if name.startswith(PREFIX) and name.removesuffix("_FILE") not in known)


#: Read by commands, the runtime and the tests, not by a service.
_LAUNCHER: Final = {
    f"{PREFIX}{name}"
    for name in (
        "EXECUTORS",
        "DISPATCHERS",
        "JANITORS",
        "APIS",
        "FAILPOINTS_LOG",
        "PARENT_PID",
        "API_KEY",
        "LEGACY_DSN",
        "URL",
        "VERSION",
    )
}


def _shown(value: Any) -> Any:
    if not isinstance(value, SecretStr):
        return value
    text = value.get_secret_value()
    scheme, mark, rest = text.partition("://")
    if not mark:
        return "********" if text else ""
    return f"{scheme}://********@{rest.rpartition('@')[2]}" if "@" in rest else text
