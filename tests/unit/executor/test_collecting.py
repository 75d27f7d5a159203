"""What a provider's job puts out is staged, or refused before anything is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from libs.common.domain.model_errors import ModelError
from libs.common.ports_jobs import JobOutput
from services.executor.collecting import InlineCollector
from tests.support.executor_rig import FakeStaging

_RUN: Any = SimpleNamespace(attempt=SimpleNamespace(public_id=uuid4(), number=1))


async def test_the_content_that_came_with_the_report_is_staged() -> None:
    staging = FakeStaging()
    (staged,) = await InlineCollector(staging).collect(_RUN, [JobOutput(content=b"out", content_type="text/plain")])
    assert staging.files == {staged.reference: b"out"}
    assert staged.mime == "text/plain"


@pytest.mark.parametrize(
    ("outputs", "code"),
    [
        ([], "no_output"),
        ([JobOutput(url="http://provider/1")], "unsupported_output"),
        ([JobOutput(content=b"1"), JobOutput(content=b"2")], "unsupported_output"),
    ],
)
async def test_what_cannot_be_taken_is_said_and_stages_nothing(outputs: list[JobOutput], code: str) -> None:
    staging = FakeStaging()
    with pytest.raises(ModelError) as caught:
        await InlineCollector(staging).collect(_RUN, outputs)
    assert (caught.value.code, caught.value.retryable) == (code, False)
    assert staging.files == {}
