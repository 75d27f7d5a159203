"""Stopping a folder's stack; the real ones are in tests/integration/test_embedded_stack.py."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from libs.common.embedded import running


def test_a_supervisor_that_was_started_before_an_upgrade_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(["sleep", "60"]) as supervisor:
        monkeypatch.setattr(running, "supervisor_pid", lambda _: supervisor.pid if supervisor.poll() is None else None)
        running.write_report(tmp_path, {"pid": supervisor.pid, "processes": []})
        try:
            assert running.stop(tmp_path)
            assert supervisor.wait() == -signal.SIGTERM
        finally:
            supervisor.kill()
