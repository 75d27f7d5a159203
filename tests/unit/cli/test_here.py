"""Commands that go to the stores find those of the stack that runs here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from libs.common.domain.errors import WrongSetting
from libs.common.embedded import running
from libs.common.embedded.data_folder import chosen_folder
from services.cli.here import adopt_stack, offer_stack

ADDRESSES = {
    "database": "postgresql://here", "redis": "redis://here", "kafka": "here:9", "broker_kind": "tansu",
    "object_store": "file:///x",
}  # fmt: skip
SETTINGS = {
    "SLUICEWAY_TOPIC_PREFIX": "others",
    "SLUICEWAY_STAGING_DIR": "/srv/staging",
    "SLUICEWAY_SECRET_KEYS_FILE": "/srv/keys",
    "SLUICEWAY_KAFKA_CA_FILE": "/srv/ca",
}


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    running.write_report(tmp_path, {**ADDRESSES, "settings": SETTINGS, "pid": os.getpid(), "processes": []})
    return tmp_path


def adopted(stack: Path, **given: str) -> dict[str, str]:
    environment = {"SLUICEWAY_DATA": str(stack), **given}
    adopt_stack(environment)
    return {name.removeprefix("SLUICEWAY_"): value for name, value in environment.items()}


def test_a_running_stack_is_taken_whole(stack: Path) -> None:
    with running.held(stack):
        found = adopted(stack)
        assert (found["DATABASE_URL"], found["REDIS_URL"], found["KAFKA_BOOTSTRAP"]) == (
            "postgresql://here", "redis://here", "here:9",
        )  # fmt: skip
        assert (found["STAGING_DIR"], found["SECRET_KEYS_FILE"]) == ("/srv/staging", "/srv/keys")
        assert (found["TOPIC_PREFIX"], found["KAFKA_CA_FILE"]) == ("others", "/srv/ca")
        assert found["BROKER"] == "tansu", "it has no idempotent producer, and events would not go out"
        named = adopted(stack, SLUICEWAY_DATABASE_URL="postgresql://here", SLUICEWAY_REDIS_URL="redis://own")
        assert (named["REDIS_URL"], named["KAFKA_BOOTSTRAP"]) == ("redis://own", "here:9")
        own = adopted(stack, SLUICEWAY_SECRET_KEYS="own", SLUICEWAY_TOPIC_PREFIX="mine")
        assert "SECRET_KEYS_FILE" not in own
        assert own["TOPIC_PREFIX"] == "mine"


def test_other_stores_and_stacks_that_do_not_run_are_left_alone(stack: Path, tmp_path: Path) -> None:
    assert adopted(stack) == {"DATA": str(stack)}
    assert adopted(tmp_path / "nothing") == {"DATA": str(tmp_path / "nothing")}
    assert adopted(Path("~no-such-account/data")) == {"DATA": "~no-such-account/data"}
    with running.held(stack):
        other = adopted(stack, SLUICEWAY_DATABASE_URL="postgresql://other")
        assert other == {"DATA": str(stack), "DATABASE_URL": "postgresql://other"}
        mounted = adopted(stack, SLUICEWAY_DATABASE_URL_FILE="/run/secrets/database")
        assert "REDIS_URL" not in mounted


def test_an_account_without_a_home_is_told_to_name_a_folder() -> None:
    with pytest.raises(WrongSetting, match=r"SLUICEWAY_DATA: .* whole path"):
        chosen_folder(None, {"SLUICEWAY_DATA": "~no-such-account/data"})


def test_who_names_no_stores_is_told_how_to_get_some(capsys: pytest.CaptureFixture[str]) -> None:
    offer_stack({"SLUICEWAY_DATABASE_URL": "postgresql://other"})
    offer_stack({"SLUICEWAY_DATABASE_URL_FILE": "/run/secrets/database"})
    assert capsys.readouterr().err == ""
    offer_stack({})
    assert "`sluiceway up` starts one" in capsys.readouterr().err
