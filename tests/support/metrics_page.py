"""The page of metrics, made from the code: `python -m tests.support.metrics_page > docs/metrics.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from libs.common.runtime.metrics import COUNTERS, GAUGES, HISTOGRAMS, Metric

_HEAD = """# Metrics

What `/metrics` of each process answers, in the Prometheus text format. Every figure is there from the start of its
process, before anything was counted; those with labels as soon as their values are known (a model's with its first
task). `model` is a model's id. What executors and the API count tells the first 200 apart that the process meets, and
is `other` for all behind them (`sluiceway lanes` tells all apart); no label is ever a tenant. Figures of what waits are
measured by the janitors, of every model that has some, each for everything: take the maximum, not the sum, where
several run. What a janitor cannot read now has no figure. Counters and histograms come with a
figure `<name>_created` (of a counter without its `_total`): since when they count.

| name | kind | process | labels | meaning |
|---|---|---|---|---|
"""


def page() -> str:
    """The page as it has to be."""
    rows = [
        f"| `{name}` | {kind} | {metric.role or 'all'} | {', '.join(metric.labels)} | {metric.sentence} |"
        for name, kind, metric in described()
    ]
    return _HEAD + "\n".join(rows) + "\n"


def described() -> Iterator[tuple[str, str, Metric]]:
    """Every metric by name, with its kind."""
    for kind, table in (("counter", COUNTERS), ("gauge", GAUGES), ("histogram", HISTOGRAMS)):
        for name, metric in table.items():
            yield name, kind, metric


if __name__ == "__main__":
    sys.stdout.write(page())
