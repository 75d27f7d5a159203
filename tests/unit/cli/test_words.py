"""Words that make no sense are refused before anybody is asked."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from services.cli.__main__ import load_commands
from services.cli.app import app

load_commands()


@pytest.mark.parametrize(
    "words",
    [
        "pause", "pause --model m", "resume --all --tenant 3", "why", "why no-id", "why --model m",
        "why 01939d5c-6f3e-7b1a-9c55-2f6f0b6f7a10 --tenant 3", "series --model m", "webhooks --url x pause 7",
        "webhooks --key-file x resume 7", "overview --url http://127.0.0.1:1 --key-file /no/such/file",
        "dead list --since yesterday", "dead list --since 0001-01-01T00:00:00+14:00",
        "events tail --since yesterday", "events tail --since -5", "events tail --since nan",
        "dead list --kind ghost", "dead list --model-id m", "dead groups --model-id 9223372036854775808",
        "dead replay", "replays stop x --yes",
        "tenants set-weight 42 0", "tenants set-weight 42 1001", "tenants set-weight 42 heavy",
        "quota set --tenant 1 -- -5", "quota set 5", "keys create --tenant 1 --scopes all",
    ],
)  # fmt: skip
def test_what_makes_no_sense(words: str) -> None:
    nowhere = {"SLUICEWAY_DATABASE_URL": "postgresql://127.0.0.1:1/nothing", "SLUICEWAY_DATA": "/nowhere"}
    assert CliRunner().invoke(app, words.split(), env=nowhere).exit_code == 2
