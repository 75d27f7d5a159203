"""What a stack tells of itself; nothing of it is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from libs.common.embedded.addresses import Addresses
from libs.common.embedded.data_folder import DataFolder
from libs.common.embedded.stack import Stack


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path)


def told(folder: DataFolder, **given: str) -> Any:
    environment = {f"SLUICEWAY_{name}": value for name, value in given.items()}
    return Stack(folder, Addresses(folder.addresses), environment).report["settings"]


def test_what_names_its_topics_and_finds_its_files_is_told_to_other_commands(folder: DataFolder) -> None:
    settings = told(folder, TOPIC_PREFIX="others", TIMEZONE="Asia/Tokyo", STAGING_DIR="/srv/staging", EVENT_SOURCE="/x")
    assert settings == {
        "SLUICEWAY_TOPIC_PREFIX": "others",
        "SLUICEWAY_TIMEZONE": "Asia/Tokyo",
        "SLUICEWAY_STAGING_DIR": "/srv/staging",
        "SLUICEWAY_EVENT_SOURCE": "/x",
        "SLUICEWAY_SECRET_KEYS_FILE": str(folder.secrets),
    }


def test_files_are_found_from_every_folder(folder: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.path)
    settings = told(folder, SECRET_KEYS_FILE="keys", STAGING_DIR="./staging", KAFKA_CA_FILE="")
    assert settings == {
        "SLUICEWAY_SECRET_KEYS_FILE": str(folder.path / "keys"),
        "SLUICEWAY_STAGING_DIR": str(folder.path / "staging"),
        "SLUICEWAY_KAFKA_CA_FILE": "",
    }


def test_no_secret_is_told_and_no_ring_but_the_one_in_use(folder: DataFolder) -> None:
    secrets = {"SECRET_KEYS": "k:c2VjcmV0", "KAFKA_PASSWORD": "secret", "OSS_AUTHORIZATION": "secret"}
    assert told(folder, **secrets) == {"SLUICEWAY_STAGING_DIR": str(folder.staging)}
    assert told(folder, SECRET_KEYS_FILE="/srv/keys")["SLUICEWAY_SECRET_KEYS_FILE"] == "/srv/keys"
