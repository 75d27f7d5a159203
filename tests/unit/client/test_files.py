"""Where downloads are written."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from libs.client.files import whole


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """Named was the half of the file that nobody had asked for."""
    with pytest.raises(FileNotFoundError) as refused, whole(tmp_path / "there" / "a.png"):
        pass
    assert refused.value.filename == str(tmp_path / "there")


def test_what_breaks_off_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a.png"
    target.write_bytes(b"before")
    with suppress(ConnectionError), whole(target) as file:
        file.write(b"half")
        raise ConnectionError
    assert [each.name for each in tmp_path.iterdir()] == ["a.png"]
    assert target.read_bytes() == b"before"
