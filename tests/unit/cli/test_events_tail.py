"""What `events tail` shows of a record, whoever wrote it."""

from __future__ import annotations

import pytest

from libs.common.ports_audit import LogRecord
from services.cli.events import _event


@pytest.mark.parametrize(
    ("timestamp_ms", "at"),
    [
        (1_700_000_000_123, "2023-11-14T22:13:20.123+00:00"),
        (-1, "1970-01-01T00:00:00.000+00:00"),
        (-(2**63), "1970-01-01T00:00:00.000+00:00"),
        (2**63 - 1, "9999-12-31T23:59:59.000+00:00"),
    ],
)
def test_any_timestamp_of_a_record_is_shown(timestamp_ms: int, at: str) -> None:
    """Kafka takes whatever a producer says; -1 is its word for none."""
    assert _event(LogRecord("t", 0, 0, timestamp_ms, None, b"{}", ()))["at"] == at
