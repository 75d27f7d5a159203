"""Settings, from the environment alone: SLUICEWAY_<NAME>, or SLUICEWAY_<NAME>_FILE for a mounted secret."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, unquote, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from libs.common.domain.errors import WrongSetting

PREFIX: Final = "SLUICEWAY_"
_ADDRESSES: Final = ("storage_url", "storage_public_url", "oss_url", "public_url")
_LARGEST_PORT: Final = 65_535
#: A hundred years: for ever, to a person. PostgreSQL has no instants of ten thousand years ago, and a sweep that
#: asks for one deletes nothing at all.
_MOST_DAYS: Final = 36_500
#: What a machine has among its time zones and is the name of none.
_FILES_OF_ZONES: Final = ("localtime", "posixrules", "Factory")
#: Who logs in, in an address.
_LOGIN: Final = re.compile(r"(?<=://)[^/@]*@")
#: PostgreSQL's and Redis's clients take the password from the query as well; signed links have their right there.
_IN_QUERY: Final = re.compile(
    r"([?&](?:[^=&#]*(?:passw|secret|token|access_?key|api_?key|credential)[^=&#]*|(?:[^=&#]*[_-])?sig(?:nature)?)=)"
    r"([^&#]+)",
    re.IGNORECASE,
)
#: Options of their addresses that name files, of PostgreSQL's and of Redis's client.
_FILES: Final = {"sslrootcert", "sslcert", "sslkey", "sslcrl", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
_SCHEMES: Final = {"database_url": ("postgresql", "postgres"), "redis_url": ("redis", "rediss", "unix")}


class Settings(BaseSettings):
    """What every process is told. Built once, in main(), by `load_settings`."""

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
    kafka_cert_file: str = Field("", description="our certificate (PEM), for a Kafka that asks for one")
    kafka_key_file: str = Field("", description="its key (PEM, without a password), unless it is in the same file")
    redis_url: SecretStr = Field(SecretStr("redis://127.0.0.1:6379/0"), description="Redis >= 7 or Valkey, noeviction")
    broker: Literal["kafka", "tansu"] = Field("kafka", description="kind of broker; tansu has no idempotent producer")
    topic_prefix: str = Field("sluiceway", pattern=r"^[A-Za-z0-9._-]{1,60}$", description="first part of topic names")
    topic_partitions: int = Field(0, ge=0, le=1_000, description="partitions of a model's topic; 0: derived")
    topic_replication: int = Field(1, ge=1, le=10, description="replication factor of topics")

    storage_url: str = Field(
        "",
        description="object store, unless SLUICEWAY_OSS_URL is set: file:///folder, s3://bucket/prefix, gs://, az://",
    )
    storage_public_url: str = Field(
        "", description="address prefix under which results can be read, if not the store's"
    )
    staging_dir: str = Field(
        "", description="folder of staged outputs, shared between executors of several hosts; empty: a temporary one"
    )
    staging_store: str = Field("local", description="name of the staging store; equal where the folder is shared")
    staging_max_bytes: int = Field(
        10 * 2**30,
        gt=0,
        description="room for staged outputs; one tenant has half of it, and no call is begun while it is full",
    )
    output_max_bytes: int = Field(
        2 * 2**30,
        gt=0,
        description="largest output of one call; two thirds of the room for staged outputs are the most",
    )
    oss_url: str = Field("", description="HTTP file service for results; set: used in place of the object store")
    oss_path: str = Field("/oss/file/uploadFile", description="path of its upload")
    oss_authorization: SecretStr = Field(
        SecretStr(""), description="service credential for uploads whose task has none or an expired one"
    )
    egress_allow: str = Field("", description="private CIDRs and hosts that model calls may reach, comma separated")
    secret_keys: SecretStr = Field(
        SecretStr(""),
        description="key ring for secrets at rest (needed): id:base64 of 32 bytes, comma separated; the first seals",
    )

    api_host: str = Field("127.0.0.1", description="address that the API listens on")
    public_url: str = Field(
        "",
        description="address at which others reach this API: for callbacks of providers (empty: none are asked for)"
        " and links in webhooks",
    )
    api_port: int = Field(8080, ge=0, le=65_535, description="port of the API; 0: any free one")
    health_host: str = Field("127.0.0.1", description="address of probes and metrics of the other services")
    health_port: int = Field(0, ge=0, le=65_535, description="port of probes and metrics; 0: any free one")
    webhook_log_days: int = Field(14, ge=1, le=_MOST_DAYS, description="how long deliveries that arrived are kept")
    push_connections: int = Field(
        10_000, ge=1, le=1_000_000, description="event streams that one API process keeps open; half for one tenant"
    )
    push_origins: str = Field(
        "", description="origins whose pages may open WebSockets besides our own host's, comma separated; *: all"
    )
    trusted_peers: str = Field("", description="CIDRs whose `X-User-Info` is believed, comma separated")
    trusted_secret: SecretStr = Field(
        SecretStr(""), description="peers that send it as `X-Sluiceway-Peer` are trusted too, whatever their address"
    )
    default_identity: str = Field(
        "", description="`tenant:user` for trusted peers that send neither `Authorization` nor `X-User-Info`"
    )
    user_info_tenant: str = Field(
        "tenantId,tenant_id,tenantID", description="names of the tenant in `X-User-Info`, the first found counts"
    )
    user_info_user: str = Field(
        "userName,user_name,username,name", description="names of the user in `X-User-Info`, the first found counts"
    )
    stat_readers: str = Field("", description="tenants that may read statistics of all tenants, comma separated")
    legacy_http_200: bool = Field(
        False, description="1: refusals of the old routes come with HTTP 200 and their code in the body"
    )
    payload_max_bytes: int = Field(1_048_576, gt=0, le=64 * 2**20, description="largest payload of a task")
    callback_max_bytes: int = Field(8 * 2**20, gt=0, le=64 * 2**20, description="largest body of a provider's callback")
    event_source: str = Field("/sluiceway", min_length=1, description="ce_source of completion events")

    executor_slots: int = Field(2_000, ge=1, le=20_000, description="calls that one executor runs at once")
    drain_seconds: float = Field(30.0, ge=0, le=86_400, description="how long a stopping process lets running work end")
    janitor_interval: float = Field(
        10.0, gt=0, le=3_600, description="seconds between sweeps; rescue looks every second"
    )
    max_wait_seconds: int = Field(
        86_400, gt=0, le=_MOST_DAYS * 86_400, description="longest wait in the queue before a task ends as timeout"
    )
    upload_max_seconds: int = Field(
        86_400, gt=0, le=_MOST_DAYS * 86_400, description="how long an upload is tried again"
    )
    unfetched_days: int = Field(
        90, ge=0, le=_MOST_DAYS, description="when successes nobody fetched are deleted; 0: never"
    )
    dead_days: int = Field(30, ge=1, le=_MOST_DAYS, description="when dead and canceled tasks are deleted")
    op_log_days: int = Field(30, ge=1, le=_MOST_DAYS, description="how long entries of the operation log are kept")
    timezone: str = Field("UTC", description="time zone of statistics and quota days, and of the old routes' times")

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="lowest level that is logged")
    log_format: Literal["json", "pretty"] = Field("json", description="one JSON object a line, or coloured text")
    failpoints: str = Field("", description="for tests: role/name:nth:exit|raise|cancel|delay=ms, comma separated")

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value in _FILES_OF_ZONES or value.startswith(("posix/", "right/")):
            raise ValueError(f"{value!r} means something else on each machine, and nothing to PostgreSQL")
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, OSError) as error:
            raise ValueError(f"no time zone is named {value!r}") from error
        return value

    @field_validator("database_url", "redis_url")
    @classmethod
    def _address_of_its_kind(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        schemes = _SCHEMES[info.field_name or ""]
        if urlsplit(value.get_secret_value()).scheme not in schemes:
            raise ValueError(f"should begin with {schemes[0]}://")
        _check_ports(value.get_secret_value())
        for option, path in parse_qsl(urlsplit(value.get_secret_value()).query):
            if option in _FILES and not os.access(path, os.R_OK):
                raise ValueError(f"has {option}={path}, which is no file that can be read")
        return value

    @field_validator("kafka_bootstrap")
    @classmethod
    def _hosts_with_ports(cls, value: str) -> str:
        for server in value.split(","):
            host, _, port = server.strip().rpartition(":")
            if not host or not port.isdecimal():
                raise ValueError("should be host:port, or several, comma separated")
        return value

    @field_validator(*_ADDRESSES)
    @classmethod
    def _address_with_scheme(cls, value: str) -> str:
        if value and "://" not in value:
            raise ValueError("should be a whole address with its scheme")
        _check_ports(value)
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

    @property
    def staging_folder(self) -> Path:
        """Where outputs are staged: as set, else a folder of this machine."""
        return Path(self.staging_dir) if self.staging_dir else Path(tempfile.gettempdir()) / "sluiceway-staging"

    def secrets(self) -> set[str]:
        """Every text in them that nobody may see: whole values, tokens behind a scheme, passwords in addresses."""
        found: set[str] = set()
        for name in type(self).model_fields:
            value = getattr(self, name)
            text = value.get_secret_value() if isinstance(value, SecretStr) else value if name in _ADDRESSES else ""
            if "://" in text:
                written = {urlsplit(text).password, *(value for _, value in _IN_QUERY.findall(text))} - {None}
                found |= {form for password in written for form in (password, unquote(password))}
            else:
                found |= {text, text.rpartition(" ")[2], *(part.partition(":")[2] for part in text.split(","))}
        return found - {""}

    def redacted(self) -> dict[str, Any]:
        """Every setting by its environment name, secrets and passwords in addresses hidden."""
        return {f"{PREFIX}{name.upper()}": _shown(getattr(self, name)) for name in type(self).model_fields}


class _MountedSecrets(PydanticBaseSettingsSource):
    """SLUICEWAY_<NAME>_FILE: the value is the file's content without its trailing newline."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        variable = f"{PREFIX}{field_name.upper()}_FILE"
        path = os.environ.get(variable)
        try:
            # Editors of Windows begin files with a mark of their encoding.
            return (Path(path).read_text("utf-8-sig").rstrip("\r\n") if path else None), field_name, False
        except (OSError, UnicodeDecodeError) as error:
            cause = error.strerror if isinstance(error, OSError) else "it is no text"
            raise WrongSetting(f"{variable}: {path} cannot be read ({cause}); name a readable text file.") from error

    def __call__(self) -> dict[str, Any]:
        values = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in values.items() if value is not None}


def load_settings() -> Settings:
    """The settings of this process. Raises WrongSetting."""
    variables = (f"{PREFIX}{name.upper()}" for name in Settings.model_fields)
    if no_text := [variable for variable in variables if not _is_text(os.environ.get(variable, ""))]:
        raise WrongSetting(*(f"{variable}: it is no text in this machine's encoding." for variable in no_text))
    try:
        return Settings()
    except ValidationError as error:
        raise WrongSetting(*(_line(wrong) for wrong in error.errors(include_input=False))) from None


def _is_text(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _line(wrong: Mapping[str, Any]) -> str:
    name = str(wrong["loc"][0])
    field = Settings.model_fields[name]
    text = wrong["msg"].removeprefix("Value error, ").removeprefix("Input ")
    default = _shown(field.get_default())
    otherwise = f"leave it out for {default}" if default not in ("", "********") else "leave it out"
    return f"{PREFIX}{name.upper()}: {text}. Set it to: {field.description}; or {otherwise}."


def unknown_names(environment: Mapping[str, str]) -> list[str]:
    """SLUICEWAY_ variables that no setting reads: a misspelt one changes nothing, and should be said."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | _LAUNCHER
    known |= {f"{name}_FILE" for name in known}
    return sorted(name for name in environment if name.startswith(PREFIX) and name not in known)


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


def _check_ports(address: str) -> None:
    """Raises ValueError, which shows nothing of the address: what is taken for a port may be a password's end."""
    for host in urlsplit(address).netloc.rpartition("@")[2].split(","):
        port = host.rpartition("]")[2].partition(":")[2]
        if port and not (port.isdecimal() and int(port) <= _LARGEST_PORT):
            raise ValueError("has a port that is none; in a password / is written %2F, ? %3F, # %23, @ %40")


def _shown(value: Any) -> Any:
    if not isinstance(value, SecretStr):
        return _LOGIN.sub("********@", _IN_QUERY.sub(r"\1********", value)) if isinstance(value, str) else value
    text = _IN_QUERY.sub(r"\1********", value.get_secret_value())
    scheme, mark, rest = text.partition("://")
    if not mark:
        return "********" if text else ""
    return f"{scheme}://********@{rest.rpartition('@')[2]}" if "@" in rest else text
