"""`sluiceway models dry-run` on a file: what is shown, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.cli.app import app
from services.cli.models import models  # noqa: F401 - registers the commands
from tests.support.cli_schemas import assert_as_promised

SECRET = "sk-0123456789"
MODEL = f"""
name: picture
base_url: https://api.example
api_key: 'Authorization:"Bearer {SECRET}"'
adapter: replicate
adapter_config: {{version: acme/picture}}
"""


def run(folder: Path, *arguments: str, model: str = MODEL) -> tuple[int, str, str]:
    """Exit code, what is printed, and what is said beside it."""
    (folder / "model.yaml").write_text(model)
    result = CliRunner().invoke(app, ["models", "dry-run", "-f", str(folder / "model.yaml"), *arguments])
    assert SECRET not in result.output
    assert_as_promised(["models", "dry-run", *arguments], result.stdout)
    return result.exit_code, result.stdout, result.stderr


def test_requests_and_meanings_are_shown(tmp_path: Path) -> None:
    (tmp_path / "payload.json").write_text('{"prompt": "a cat"}')
    (tmp_path / "submit.json").write_text('{"id": "abc", "status": "starting"}')
    (tmp_path / "poll.json").write_text(
        '{"http_status": 200, "body": {"id": "abc", "status": "failed", "error": "no"}}'
    )
    answers = ["--answer", str(tmp_path / "submit.json"), "--answer", str(tmp_path / "poll.json")]
    code, out, _ = run(tmp_path, "--payload", f"@{tmp_path / 'payload.json'}", *answers)
    assert code == 0
    assert "POST https://api.example/v1/predictions\n" in out
    assert '"prompt": "a cat"' in out
    assert "  Authorization: ***\n" in out
    assert 'means: {"status": "queued", "provider_id": "abc"' in out
    assert '"error_code": "provider_failed", "retryable": false' in out
    code, out, _ = run(tmp_path, "--json", *answers)
    assert [step["step"] for step in json.loads(out)["steps"]][:2] == ["submit", "poll"]


@pytest.mark.parametrize(
    ("arguments", "model", "code", "words"),
    [
        (["--payload", "[1]"], MODEL, 1, ""),
        ([], MODEL.replace("acme/picture", "https://evil"), 2, "/adapter_config/version: "),
        ([], MODEL.replace("replicate", "pigeon"), 2, "/adapter: there is no such adapter"),
        ([], MODEL.replace("https://api.example", "ftp://x"), 2, "http"),
        (["--payload", "{"], MODEL, 2, "not JSON"),
        (["--payload", "@nowhere.json"], MODEL, 2, "cannot read nowhere.json"),
        (["--answer", "nowhere.json"], MODEL, 2, "cannot read nowhere.json"),
        (["twice"], MODEL, 2, "either the name of a model or --file"),
        ([], "a: [", 2, "no YAML"),
    ],
)
def test_what_cannot_be_tried_is_said(tmp_path: Path, arguments: list[str], model: str, code: int, words: str) -> None:
    ended, _, said = run(tmp_path, *arguments, model=model)
    assert ended == code
    assert words in " ".join(said.replace("\u2502", " ").split())
