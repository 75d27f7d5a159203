"""Certificates for Kafka: the file that cannot be used is told by the setting that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from libs.common.adapters.kafka.connection import KafkaConnection
from libs.common.domain.errors import WrongSetting
from libs.common.settings import Settings
from tests.support.secure_kafka import locked, self_signed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A certificate `ours` with its key, beside and in one file, and files that do not go with it."""
    certificate, key = self_signed()
    (tmp_path / "ours.pem").write_bytes(certificate)
    (tmp_path / "ours.key").write_bytes(key)
    (tmp_path / "both.pem").write_bytes(key + certificate)
    (tmp_path / "locked.key").write_bytes(locked(key))
    (tmp_path / "other.key").write_bytes(self_signed()[1])
    (tmp_path / "text").write_text("no PEM\n")
    return tmp_path


def presenting(folder: Path, certificate: str, key: str) -> KafkaConnection:
    named = {"kafka_cert_file": str(folder / certificate), "kafka_key_file": str(folder / key) if key else ""}
    return KafkaConnection.of(Settings(kafka_security="SSL", **named))


@pytest.mark.parametrize(("certificate", "key"), [("ours.pem", "ours.key"), ("both.pem", "")])
def test_a_certificate_has_its_key_beside_it_or_with_it(folder: Path, certificate: str, key: str) -> None:
    assert presenting(folder, certificate, key).ssl_context is not None


@pytest.mark.parametrize("key", ["none.key", "text", "locked.key", "other.key", "ours.pem"])
def test_a_wrong_key_is_told_by_its_own_setting(folder: Path, key: str) -> None:
    with pytest.raises(WrongSetting, match=rf"^SLUICEWAY_KAFKA_KEY_FILE: .*/{key} cannot be used"):
        presenting(folder, "ours.pem", key)


@pytest.mark.parametrize(
    ("certificate", "key"), [("none.pem", "ours.key"), ("text", "ours.key"), ("ours.key", "ours.key"), ("ours.pem", "")]
)
def test_a_wrong_certificate_is_told_by_its_own(folder: Path, certificate: str, key: str) -> None:
    with pytest.raises(WrongSetting, match=rf"^SLUICEWAY_KAFKA_CERT_FILE: .*/{certificate} cannot be used"):
        presenting(folder, certificate, key)


def test_a_key_alone_shows_nothing_to_anybody(folder: Path) -> None:
    with pytest.raises(WrongSetting, match=r"^SLUICEWAY_KAFKA_KEY_FILE: .* set SLUICEWAY_KAFKA_CERT_FILE"):
        KafkaConnection.of(Settings(kafka_security="SSL", kafka_key_file=str(folder / "ours.key")))
