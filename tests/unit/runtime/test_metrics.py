"""Every metric is in the table, with a sentence and bounded labels."""

from __future__ import annotations

import asyncio
import typing
from datetime import timedelta

import pytest

from libs.common.runtime import metrics
from libs.common.runtime.periodic import Periodic

ALLOWED_LABELS = {"model", "route", "method", "status", "result", "outcome", "code", "step", "sweep", "name", "role",
                  "version", "python", "channel", "dependency"}  # fmt: skip


@pytest.mark.parametrize(
    ("names", "table"),
    [
        (metrics.CounterName, metrics.COUNTERS),
        (metrics.GaugeName, metrics.GAUGES),
        (metrics.HistogramName, metrics.HISTOGRAMS),
    ],
)
def test_names_and_tables_agree(names: object, table: dict[str, metrics.Metric]) -> None:
    assert set(typing.get_args(names)) == set(table)
    for name, metric in table.items():
        assert name.startswith("sluiceway_")
        assert name.endswith("_total") == (table is metrics.COUNTERS)
        assert metric.sentence.endswith(".")
        assert set(metric.labels) <= ALLOWED_LABELS  # never a tenant
        assert bool(metric.buckets) == (table is metrics.HISTOGRAMS)


def scrape() -> list[str]:
    return metrics.exposition().decode().splitlines()


def test_all_of_them_can_be_made_and_scraped() -> None:
    for counter in metrics.COUNTERS:
        metrics.counter(counter)
    for gauge in metrics.GAUGES:
        metrics.gauge(gauge)
    for histogram in metrics.HISTOGRAMS:
        metrics.histogram(histogram)
    text = "\n".join(scrape())
    for name in (*metrics.COUNTERS, *metrics.GAUGES, *metrics.HISTOGRAMS):
        assert f"# TYPE {name} " in text
    assert "process_cpu_seconds_total" in text


def test_counters_histograms_and_build_info_come_out() -> None:
    # Metrics live as long as the process: a model that no other test counts.
    metrics.counter("sluiceway_gate_refusals_total").labels(model="70707").inc()
    metrics.histogram("sluiceway_task_wait_seconds").labels(model="70707").observe(0.02)
    metrics.announce_build("api")
    text = scrape()
    assert 'sluiceway_gate_refusals_total{model="70707"} 1.0' in text
    assert 'sluiceway_task_wait_seconds_bucket{le="0.05",model="70707"} 1.0' in text
    assert any(line.startswith("sluiceway_build_info{") and 'role="api"' in line for line in text)


def test_what_may_be_counted_one_day_is_zero_until_then() -> None:
    metrics.announce_build("dispatcher")
    Periodic("never-ran", timedelta(seconds=1), asyncio.Event().wait)
    names = {line.rpartition(" ")[0] for line in scrape()}
    assert 'sluiceway_events_published_total{result="refused"}' in names
    assert 'sluiceway_webhook_attempts_total{result="failed"}' in names
    assert 'sluiceway_periodic_runs_total{name="never-ran",result="error"}' in names


def test_what_is_counted_for_a_model_is_zero_from_its_first_task_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_models", set())
    metrics.announce_build("api")
    metrics.of_model(80808)
    names = {line.rpartition(" ")[0] for line in scrape()}
    assert {f'sluiceway_{kind}_refusals_total{{model="80808"}}' for kind in ("gate", "quota")} <= names


def test_a_gauge_can_be_read_at_scrape_time() -> None:
    held = [1, 2, 3]
    metrics.read_gauge_from("sluiceway_executor_held", lambda: len(held))
    assert "sluiceway_executor_held 3.0" in scrape()
    held.clear()
    assert "sluiceway_executor_held 0.0" in scrape()


def test_replacing_a_gauge_forgets_what_is_gone() -> None:
    metrics.replace_gauge("sluiceway_backlog_tasks", {("1",): 5, ("2",): 6})
    metrics.replace_gauge("sluiceway_backlog_tasks", {("2",): 7})
    lines = [line for line in scrape() if line.startswith("sluiceway_backlog_tasks{")]
    assert lines == ['sluiceway_backlog_tasks{model="2"} 7.0']


def test_models_beyond_the_first_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_models", set())
    monkeypatch.setattr(metrics, "_MODELS", 2)
    assert [metrics.of_model(model) for model in (7, 8, 9, 7, 10)] == ["7", "8", "other", "7", "other"]
