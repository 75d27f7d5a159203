"""A process that is told something it cannot use says so in a line that names the variable, and ends with code 2."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from libs.common.domain.errors import WrongSetting
from libs.common.settings import Settings, load_settings, unknown_names
from services.cli.__main__ import main

_WRONG = {
    "SLUICEWAY_API_PORT": "70000",
    "SLUICEWAY_LOG_LEVEL": "loud",
    "SLUICEWAY_TIMEZONE": "Nowhere/Nothing",
    "SLUICEWAY_DATABASE_URL": "mysql://127.0.0.1/x",
    "SLUICEWAY_REDIS_URL": "127.0.0.1:6379",
    "SLUICEWAY_KAFKA_BOOTSTRAP": "broker",
    "SLUICEWAY_STORAGE_URL": "results",
}


@pytest.fixture(autouse=True)
def _nothing_else_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("SLUICEWAY_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("role", ["api", "dispatcher", "executor", "janitor"])
def test_each_wrong_setting_has_a_line_of_its_own(
    role: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in _WRONG.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        import_module(f"services.{role}.__main__").main()
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert sorted(line.split(":")[1].strip() for line in lines) == sorted(_WRONG)
    assert all(line.startswith("sluiceway: SLUICEWAY_") and "leave it out" in line for line in lines)


@pytest.mark.parametrize(("name", "value"), [("OSS_URL", "ftp://oss"), ("EVENT_SOURCE", "")])
def test_config_refuses_what_only_some_service_would_stumble_over(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"SLUICEWAY_{name}", value)
    monkeypatch.setattr(sys, "argv", ["sluiceway", "config"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"SLUICEWAY_{name}" in capsys.readouterr().err


@pytest.mark.parametrize("zone", ["localtime", "posixrules", "posix/Europe/Berlin", "right/UTC"])
def test_a_time_zone_has_a_name_that_postgresql_knows_too(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICEWAY_TIMEZONE", zone)
    with pytest.raises(WrongSetting, match="PostgreSQL"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("DEAD_DAYS", 36_500), ("UNFETCHED_DAYS", 36_500), ("OP_LOG_DAYS", 36_500), ("WEBHOOK_LOG_DAYS", 36_500),
        ("MAX_WAIT_SECONDS", 3_153_600_000), ("UPLOAD_MAX_SECONDS", 3_153_600_000), ("JANITOR_INTERVAL", 3_600),
        ("DRAIN_SECONDS", 86_400),
    ],
)  # fmt: skip
def test_a_time_that_no_calendar_reaches_is_refused(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"SLUICEWAY_{name}", str(most))
    assert getattr(load_settings(), name.lower()) == most
    for beyond in (str(most + 1), "9" * 12, "inf"):
        monkeypatch.setenv(f"SLUICEWAY_{name}", beyond)
        with pytest.raises(WrongSetting, match=name):
            load_settings()


@pytest.mark.parametrize(
    "command",
    [
        "config",
        "migrate",
        "topics",
        "audit",
        "keys list --tenant 1",
        "api",
        "janitor",
        "up --data unused",
        "demo",
        "secrets rotate",
        "import-legacy --dsn postgresql://x",
    ],
)
def test_every_command_says_it_alike(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SLUICEWAY_DRAIN_SECONDS", "soon")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sluiceway", *command.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sluiceway: SLUICEWAY_DRAIN_SECONDS: should be a valid number")
    assert not list(tmp_path.iterdir())


def test_a_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICEWAY_DATABASE_URL", "mysql://someone:secret@there/x")
    with pytest.raises(WrongSetting) as wrong:
        load_settings()
    assert "secret" not in str(wrong.value)


@pytest.mark.parametrize(
    ("service", "name", "value", "why"),
    [
        ("services.executor", "SLUICEWAY_EGRESS_ALLOW", "10.0.0.0/99", "neither an address"),
        ("services.executor", "SLUICEWAY_STORAGE_URL", "ftp://there", "file:///, s3://"),
        ("services.dispatcher", "SLUICEWAY_KAFKA_CA_FILE", "/no/such/file", "name a file of PEM certificates"),
    ],
)
def test_what_only_its_reader_can_judge_is_said_alike(
    service: str, name: str, value: str, why: str, tmp_path: Path
) -> None:
    usable = {
        "SLUICEWAY_SECRET_KEYS": "k:" + "A" * 43 + "=",
        "SLUICEWAY_STORAGE_URL": tmp_path.as_uri(),
        "SLUICEWAY_STAGING_DIR": str(tmp_path),
        "SLUICEWAY_KAFKA_SECURITY": "SSL" if name == "SLUICEWAY_KAFKA_CA_FILE" else "PLAINTEXT",
    }
    ended = subprocess.run(
        [sys.executable, "-m", service],
        env={**os.environ, **usable, name: value},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert line.startswith(f"sluiceway: {name}")
    assert why in line


_WRONG_FOR_SERVICES = {
    "SLUICEWAY_DEFAULT_IDENTITY": "shop",
    "SLUICEWAY_EGRESS_ALLOW": "10.0.0.0/99",
    "SLUICEWAY_PUSH_ORIGINS": "shop",
    "SLUICEWAY_STAT_READERS": "1,x",
    "SLUICEWAY_TRUSTED_PEERS": "10.0.0.1/8",
    "SLUICEWAY_USER_INFO_TENANT": ",",
    "SLUICEWAY_USER_INFO_USER": ",",
}


@pytest.mark.parametrize("command", ["config", "up --data unused", "demo", "doctor"])
def test_what_a_service_would_refuse_is_said_before_one_starts(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, value in _WRONG_FOR_SERVICES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sluiceway", *command.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == (1 if command == "doctor" else 2)
    assert sorted(re.findall("(SLUICEWAY_[A-Z_]+):", said.out + said.err)) == sorted(_WRONG_FOR_SERVICES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLUICEWAY_DATABASE_URL", "postgresql://someone:sec/ret@there/x"),
        ("SLUICEWAY_DATABASE_URL", "postgresql://one:5432,two:five/x"),
        ("SLUICEWAY_REDIS_URL", "redis://:secret@there:6379x/0"),
        ("SLUICEWAY_OSS_URL", "http://there:99999"),
    ],
)
def test_a_port_that_is_none_is_refused_and_may_be_a_password(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(WrongSetting, match=f"{name}: has a port that is none") as wrong:
        load_settings()
    assert "sec" not in str(wrong.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLUICEWAY_DATABASE_URL", "postgresql://someone:secret@there/x?sslmode=verify-full&sslrootcert=/no/such.pem"),
        ("SLUICEWAY_REDIS_URL", "rediss://:secret@there/0?ssl_ca_certs=/no/such.pem"),
    ],
)
def test_a_certificate_that_cannot_be_read_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(WrongSetting, match=rf"{name}: has ssl\w+=/no/such.pem, which is no file") as wrong:
        load_settings()
    assert "secret" not in str(wrong.value)


@pytest.mark.parametrize("command", ["migrate", "tenants list --url="])
def test_an_address_that_means_nothing_to_its_client_is_told(command: str) -> None:
    """In a process of its own: a command sets up logging for all that runs in it."""
    address = "postgresql://someone:secret@127.0.0.1:9/x?sslmode=perhaps"
    ended = subprocess.run(
        [sys.executable, "-m", "services.cli", *command.split()],
        env={**os.environ, "SLUICEWAY_DATABASE_URL": address},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    line = ended.stderr
    assert ended.returncode == 3, line
    assert "see SLUICEWAY_DATABASE_URL" in line
    assert "secret" not in line
    assert "`sslmode` parameter must be one of" in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLUICEWAY_DATABASE_URL", "postgresql://someone:pass@one:5432,two/x?sslmode=require"),
        ("SLUICEWAY_DATABASE_URL", "postgresql:///x"),
        ("SLUICEWAY_REDIS_URL", "redis://[::1]:6379/0"),
        ("SLUICEWAY_REDIS_URL", "unix:///run/redis.sock"),
        ("SLUICEWAY_STORAGE_URL", "file:///data/a:b"),
    ],
)
def test_addresses_of_every_form_can_be_used(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert load_settings()


def test_every_setting_and_its_file_is_known_and_a_misspelt_one_is_not() -> None:
    names = [f"SLUICEWAY_{field.upper()}" for field in Settings.model_fields]
    wrong = ["SLUICEWAY_KAFKA_CA", "SLUICEWAY_REDIS_URI"]
    assert unknown_names(dict.fromkeys([*names, *(f"{name}_FILE" for name in names), *wrong], "x")) == wrong


def test_a_password_in_any_address_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICEWAY_OSS_URL", "https://service:canary@files.example/up@load")
    monkeypatch.setenv("SLUICEWAY_STORAGE_URL", "file:///data/me@home/results")
    settings = load_settings()
    shown = settings.redacted()
    assert shown["SLUICEWAY_OSS_URL"] == "https://********@files.example/up@load"
    assert shown["SLUICEWAY_STORAGE_URL"] == "file:///data/me@home/results"
    assert settings.secrets() == {"canary"}


def test_nor_is_one_shown_that_stands_in_the_query(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICEWAY_DATABASE_URL", "postgresql://there/x?user=me&password=can%40ary-1&sslmode=require")
    monkeypatch.setenv("SLUICEWAY_REDIS_URL", "rediss://there/0?db=1&Password=can@ary-2")
    monkeypatch.setenv("SLUICEWAY_STORAGE_URL", "s3://bucket/x?secret_access_key=canary-3")
    settings = load_settings()
    shown = settings.redacted()
    assert shown["SLUICEWAY_DATABASE_URL"] == "postgresql://there/x?user=me&password=********&sslmode=require"
    assert shown["SLUICEWAY_REDIS_URL"] == "rediss://there/0?db=1&Password=********"
    assert shown["SLUICEWAY_STORAGE_URL"] == "s3://bucket/x?secret_access_key=********"
    assert settings.secrets() == {"can%40ary-1", "can@ary-1", "can@ary-2", "canary-3"}


def test_a_mounted_file_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICEWAY_REDIS_URL_FILE", "/no/such/file")
    with pytest.raises(WrongSetting, match="SLUICEWAY_REDIS_URL_FILE: /no/such/file cannot be read"):
        load_settings()


@pytest.mark.parametrize("name", ["REDIS_URL", "KAFKA_BOOTSTRAP", "TOPIC_PREFIX", "STAGING_DIR"])
def test_a_setting_of_bytes_that_are_no_text_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"SLUICEWAY_{name}", "x\udcff")
    with pytest.raises(WrongSetting, match=f"SLUICEWAY_{name}: it is no text"):
        load_settings()


def test_no_line_of_a_process_shows_a_secret_of_its_settings() -> None:
    secrets = {
        "SLUICEWAY_DATABASE_URL": "postgresql://someone:canary%2Done@there/x",
        "SLUICEWAY_REDIS_URL": "redis://:canary-two@there/0",
        "SLUICEWAY_KAFKA_PASSWORD": "canary-three",
        "SLUICEWAY_OSS_AUTHORIZATION": "Bearer canary-four",
        "SLUICEWAY_SECRET_KEYS": "k1:canary-five=,k2:canary-six=",
        "SLUICEWAY_TRUSTED_SECRET": "canary-seven",
    }
    texts = [
        "canary%2Done",
        "canary-one",
        *(f"canary-{word}" for word in ("two", "three", "four", "five=", "six=", "seven")),
    ]
    code = (
        "import sys; from libs.common.runtime.start import begin; from libs.common.runtime.logging import get_logger\n"
        "begin('api'); get_logger().error('leak', exception_text=[f'<{text}>' for text in sys.argv[1:]])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, *texts], env={**os.environ, **secrets}, capture_output=True, text=True, check=True
    ).stderr
    assert '"event":"leak"' in said
    assert "canary" not in said
