"""How an import is watched on a terminal, and read by a person."""

from __future__ import annotations

import io

import pytest

from libs.common.operations.legacy_report import ImportReport, Sample, TableReport
from libs.common.ports_import import Note, NoteBook, SourceFacts
from services.cli.legacy_show import show, watch


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_bars_and_a_pipe_lines() -> None:
    for stream, seen in ((Terminal(), "3/3"), (io.StringIO(), "asynch_task: 3 of 3\n")):
        with watch(stream) as progress:
            progress.begin("asynch_task", 3)
            progress.advance("asynch_task", 1)
            progress.advance("asynch_task", 2)
        assert seen in stream.getvalue()
    assert stream.getvalue().splitlines()[0] == "asynch_task: 0 of 3"


def test_an_empty_table_has_a_line_too() -> None:
    stream = io.StringIO()
    with watch(stream) as progress:
        progress.begin("asynch_op_log", 0)
        progress.advance("asynch_op_log", 0)
    assert stream.getvalue() == "asynch_op_log: 0 of 0\n"


def test_the_report_quotes_what_an_operator_must_know(capsys: pytest.CaptureFixture[str]) -> None:
    report = ImportReport(SourceFacts("s", {}, {}, 0), dry_run=True)
    report.tables["asynch_task"] = TableReport(rows=30, deleted=2, variant="older", copied=30)
    report.notes = NoteBook(
        {"task_id_derived": 25}, [Note("asynch_task", n, "task_id_derived", f"[{n}]") for n in range(25)]
    )
    report.hosts.append({"host": "10.1.2.3", "why": "is private", "models": ["7/m"]})
    report.unlimited.append({"id": "1", "tenant": "7", "model": "m"})
    report.models_changed.append({"id": "1", "tenant": "7", "model": "m", "changes": ["a", "b"]})
    report.samples.append(Sample("t", "m", '{"a":"[red]"}', '{"headers":{}}', True))
    report.warnings.append("set it")
    report.kinds.update({"open": 3, "looks_wrapped": 6, "running_that_wait_again": 1, "open_without_credential": 0})
    show(report)
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "would be copied", "[19]", "and 5 more such rows (25 task_id_derived)", "10.1.2.3 (models 7/m): is private",
        "2147483647", "a; b", '{"a":"[red]"}', "with a credential", "look: set it", "nothing was written",
        "tasks: 3 open; 6 apparently wrapped; 1 running before, waiting again; 0 open without credential",
    ):  # fmt: skip
        assert part in text, part
    assert "[20]" not in text


def test_what_callers_of_the_old_gateway_wrote_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    report = ImportReport(SourceFacts("s", {}, {}, 0), dry_run=True)
    report.hosts.append({"host": "h", "why": "is private", "models": ["7/\x1b[2J\x9b2J:smile:"]})
    report.samples.append(Sample("\x1b]0;t\x07", "\u202em", "{}", None, False))
    report.notes = NoteBook({"model_name": 1}, [Note("asynch_models", 1, "model_name", "\x1b[31m" + 200 * "x")])
    show(report)
    out = capsys.readouterr().out
    assert not set("\x1b\x9b\x07\u202e") & set(out)
    assert ":smile:" in out
    assert 200 * "x" in out, "in a pipe no line is wrapped"
