"""Log lines are JSON in production, readable on a terminal, and carry the task."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

SETUP = """
import logging
from libs.common.runtime.logging import configure_logging, get_logger
log = get_logger()
"""


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SETUP + script], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return done.stderr


def lines(script: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(script).splitlines()]


def test_a_line_says_who_and_when() -> None:
    [line] = lines("""
configure_logging("executor", "INFO")
log.info("task.claimed", lane=3)
log.debug("not.shown")
""")
    assert line["time"].endswith("Z")
    assert isinstance(line["pid"], int)
    wanted = {"event": "task.claimed", "level": "info", "role": "executor", "lane": 3}
    assert wanted.items() <= line.items()


def test_the_standard_library_comes_out_the_same_way_and_chatty_libraries_from_warning_on() -> None:
    first, second, third = lines("""
configure_logging("api", "INFO", "json")
logging.getLogger("aiokafka.consumer").info("hidden")
logging.getLogger("aiokafka.consumer").warning("seen %s", "here")
logging.getLogger("other").info("100 %")
logging.getLogger("other").info("too few %s %s", 1)
""")
    assert (first["event"], first["level"], first["logger"]) == ("seen here", "warning", "aiokafka.consumer")
    assert (second["event"], second["level"]) == ("100 %", "info")
    assert "too few" in third["event"]


def test_secrets_are_masked_in_fields_tracebacks_and_libraries() -> None:
    output = run("""
from libs.common.runtime.redaction import register_secret
register_secret("canary-42")
configure_logging("api", "INFO", "json")
log.info("a", api_key="hidden-1", url="redis://u:hidden-2@h", headers={"Authorization": "hidden-3"}, x="canary-42")
try:
    raise ValueError("Bearer hidden-4444")
except ValueError:
    log.error("b", exc_info=True)
    logging.getLogger("lib").exception("password=hidden-5")
""")
    assert "hidden" not in output
    assert "canary" not in output
    assert output.count("Traceback") == 2


def test_values_that_json_cannot_hold_do_not_raise() -> None:
    first, second = lines(r"""
configure_logging("api", "INFO", "json")
log.info("big", number=2**70, key={1: 2}, thing=object())
log.info("torn", text="\ud800")
""")
    assert first["number"] == 2**70
    assert first["key"] == {"1": 2}
    assert second["text"] == "\ud800"


@pytest.mark.parametrize("format", ["None", "'pretty'"])
def test_without_a_terminal_it_is_json_unless_asked_for(format: str) -> None:
    output = run(f"""
configure_logging("api", "INFO", {format})
try:
    1 / 0
except ZeroDivisionError:
    log.error("task.failed", code="x", exc_info=True)
""")
    assert output.startswith("{") == (format == "None")
    assert "task.failed" in output
    assert "ZeroDivisionError" in output


def test_a_stderr_that_cannot_be_written_stops_nothing() -> None:
    assert run('configure_logging("api")\nimport os\nos.close(2)\nlog.info("lost")\n') == ""
