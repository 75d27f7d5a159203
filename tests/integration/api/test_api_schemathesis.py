"""Generated requests for every operation of the document: no server error, nothing that the document does not say."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.api import Api

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.long, pytest.mark.timeout(1_800)]

#: Some rules cannot be said in a schema: what a cursor holds, that a model's address must be public. And a batch is
#: accepted with a bad task in it: that one gets its verdict in its place.
CONFIG = """
[checks]
positive_data_acceptance.enabled = false

[[operations]]
include-path = "/v1/tasks/batch"

[operations.checks]
negative_data_rejection.enabled = false

# The old routes take numbers as text, unknown fields, and names in any spelling.
[[operations]]
include-path-regex = "^/(model|task|stat)/"

[operations.checks]
negative_data_rejection.enabled = false
"""
#: Ten minutes beside other tests on two cores.
EXAMPLES = 80


async def test_every_operation_keeps_to_the_document(api: Api, tmp_path: Path) -> None:
    tenant = await api.tenant()
    await tenant.model("speech")
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "schemathesis"),
        "run",
        f"{api.url}/openapi.json",
        "--header",
        f"Authorization: Bearer {tenant.key}",
        "--phases",
        "examples,coverage,fuzzing,stateful",
        "--max-examples",
        str(EXAMPLES),
        "--suppress-health-check",
        "all",
        "--seed",
        "1",
        "--no-color",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=tmp_path,
    )
    report, _ = await process.communicate()
    assert process.returncode == 0, report.decode()[-8_000:]
