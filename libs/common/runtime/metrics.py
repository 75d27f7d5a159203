"""The figures of a process: every name there is, what it means, and how to reach it.

Labels are bounded: model is of_model's (of gauges, what has work now), route a template, codes come from closed sets,
and no tenant is ever one.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Final, Literal, TypeAlias

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

CounterName: TypeAlias = Literal[
    "sluiceway_tasks_created_total",
    "sluiceway_gate_refusals_total",
    "sluiceway_quota_refusals_total",
    "sluiceway_http_requests_total",
    "sluiceway_operations_dropped_total",
    "sluiceway_push_events_total",
    "sluiceway_push_dropped_total",
    "sluiceway_dispatches_published_total",
    "sluiceway_events_published_total",
    "sluiceway_webhook_attempts_total",
    "sluiceway_permit_refusals_total",
    "sluiceway_attempts_total",
    "sluiceway_attempt_errors_total",
    "sluiceway_stale_messages_total",
    "sluiceway_fence_losses_total",
    "sluiceway_dead_messages_total",
    "sluiceway_heals_total",
    "sluiceway_road_rebuilds_total",
    "sluiceway_rescues_total",
    "sluiceway_sweep_rows_total",
    "sluiceway_periodic_runs_total",
]
GaugeName: TypeAlias = Literal[
    "sluiceway_build_info",
    "sluiceway_push_streams",
    "sluiceway_backlog_tasks",
    "sluiceway_backlog_oldest_seconds",
    "sluiceway_tasks_in_flight",
    "sluiceway_permits_in_use",
    "sluiceway_outbox_rows",
    "sluiceway_outbox_lag_seconds",
    "sluiceway_oldest_transaction_seconds",
    "sluiceway_executor_slots",
    "sluiceway_executor_running",
    "sluiceway_executor_held",
    "sluiceway_executor_jobs_waiting",
    "sluiceway_dependency_up",
    "sluiceway_loop_lag_seconds",
    "sluiceway_event_relay_owner",
]
HistogramName: TypeAlias = Literal[
    "sluiceway_http_request_seconds",
    "sluiceway_dispatcher_tick_seconds",
    "sluiceway_dispatcher_tick_rows",
    "sluiceway_task_wait_seconds",
    "sluiceway_attempt_run_seconds",
    "sluiceway_upload_seconds",
]


@dataclass(frozen=True, slots=True)
class Metric:
    """A sentence, the labels, and for a histogram its buckets; which process has it, empty for all of them.

    `known` are all values of its one label, where they are few: each is there before it was counted, for a figure that
    begins at one has not risen.
    """

    sentence: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    role: str = ""
    known: tuple[str, ...] = ()


#: Tasks wait and run from milliseconds to a day.
_TASK_SECONDS: Final = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)
_STEP_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_ROWS: Final = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

COUNTERS: Final[dict[CounterName, Metric]] = {
    "sluiceway_tasks_created_total": Metric("Tasks accepted.", ("model",), role="api"),
    "sluiceway_gate_refusals_total": Metric(
        "Creates refused because the model's queue is full.", ("model",), role="api"
    ),
    "sluiceway_quota_refusals_total": Metric(
        "Creates refused because the creator's points are used up.", ("model",), role="api"
    ),
    "sluiceway_http_requests_total": Metric("Requests answered.", ("route", "method", "status"), role="api"),
    "sluiceway_operations_dropped_total": Metric("Entries of the operation log that could not be written.", role="api"),
    "sluiceway_push_events_total": Metric("Status changes handed to streams.", role="api"),
    "sluiceway_push_dropped_total": Metric("Streams ended by us because their readers were too slow.", role="api"),
    "sluiceway_dispatches_published_total": Metric(
        "Dispatch messages handed to the broker.",
        ("result",),
        role="dispatcher",
        known=("acknowledged", "refused", "given_back"),
    ),
    "sluiceway_events_published_total": Metric(
        "Lifecycle events handed to the broker.", ("result",), role="dispatcher", known=("acknowledged", "refused")
    ),
    "sluiceway_webhook_attempts_total": Metric(
        "Attempts to deliver to webhooks.", ("result",), role="dispatcher", known=("accepted", "failed")
    ),
    "sluiceway_permit_refusals_total": Metric("Requests for a permit when none was free.", ("model",), role="executor"),
    "sluiceway_attempts_total": Metric(
        "Attempts that an executor has done with: ended, to be tried again, parked, or handed back.",
        ("model", "outcome"),
        role="executor",
    ),
    "sluiceway_attempt_errors_total": Metric("Failed attempts by the code of their error.", ("code",), role="executor"),
    "sluiceway_stale_messages_total": Metric("Messages of a lease that no longer stands, dropped.", role="executor"),
    "sluiceway_fence_losses_total": Metric(
        "Writes that found another owner's token and changed nothing.", ("step",), role="executor"
    ),
    "sluiceway_dead_messages_total": Metric("Records that could not be read and were kept as dead.", role="executor"),
    "sluiceway_heals_total": Metric("Read positions moved back to an unclaimed row.", role="executor"),
    "sluiceway_road_rebuilds_total": Metric("Connections of a reader to Kafka made anew.", role="executor"),
    "sluiceway_rescues_total": Metric("Attempts taken from a silent executor.", role="janitor"),
    "sluiceway_sweep_rows_total": Metric("Rows that a sweep changed.", ("sweep",), role="janitor"),
    "sluiceway_periodic_runs_total": Metric("Runs of a periodic action.", ("name", "result")),
}
GAUGES: Final[dict[GaugeName, Metric]] = {
    "sluiceway_build_info": Metric("Always 1; the labels say what runs.", ("role", "version", "python")),
    "sluiceway_push_streams": Metric("SSE and WebSocket streams that are open.", role="api"),
    "sluiceway_backlog_tasks": Metric("Tasks that wait for their turn.", ("model",), role="janitor"),
    "sluiceway_backlog_oldest_seconds": Metric("How long the oldest due task has waited.", ("model",), role="janitor"),
    "sluiceway_tasks_in_flight": Metric("Tasks on the road, held or running.", ("model",), role="janitor"),
    "sluiceway_permits_in_use": Metric("Calls that the permits allow at this moment.", ("model",), role="janitor"),
    "sluiceway_outbox_rows": Metric("Rows that still have to leave, by channel.", ("channel",), role="janitor"),
    "sluiceway_outbox_lag_seconds": Metric(
        "Age of the oldest row that should have left.", ("channel",), role="janitor"
    ),
    "sluiceway_oldest_transaction_seconds": Metric("Age of PostgreSQL's oldest open transaction.", role="janitor"),
    "sluiceway_executor_slots": Metric("Tasks that this executor can carry.", role="executor"),
    "sluiceway_executor_running": Metric("Attempts that run here.", role="executor"),
    "sluiceway_executor_held": Metric("Messages held here until a permit is free.", role="executor"),
    "sluiceway_executor_jobs_waiting": Metric(
        "Jobs of providers that this executor waits for, without slots.", role="executor"
    ),
    "sluiceway_dependency_up": Metric("1 when the last readiness check succeeded.", ("dependency",)),
    "sluiceway_loop_lag_seconds": Metric("How late the event loop's last tick was."),
    "sluiceway_event_relay_owner": Metric("1 while this dispatcher is the one that sends events.", role="dispatcher"),
}
HISTOGRAMS: Final[dict[HistogramName, Metric]] = {
    "sluiceway_http_request_seconds": Metric(
        "From request to answer; of a create that waits (Prefer) until it is accepted, of streams and other waits not.",
        ("route",),
        _STEP_SECONDS,
        role="api",
    ),
    "sluiceway_dispatcher_tick_seconds": Metric("One turn of the dispatcher.", (), _STEP_SECONDS, role="dispatcher"),
    "sluiceway_dispatcher_tick_rows": Metric("Rows leased in one turn.", (), _ROWS, role="dispatcher"),
    "sluiceway_task_wait_seconds": Metric("From queueing to started.", ("model",), _TASK_SECONDS, role="executor"),
    "sluiceway_attempt_run_seconds": Metric(
        "How long attempts that ended ran in the executor where they did.", ("model",), _TASK_SECONDS, role="executor"
    ),
    "sluiceway_upload_seconds": Metric("One upload to object storage.", (), _TASK_SECONDS, role="executor"),
}

#: Models that a process tells apart: each has some forty lines, and a scrape holds up the loop for 0.4 ms for them.
_MODELS: Final = 200
_models: Final[set[int]] = set()
#: Counters of this process that are told apart by model alone.
_by_model: Final[set[CounterName]] = set()

REGISTRY: Final = CollectorRegistry()
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
ProcessCollector(registry=REGISTRY)


@cache
def counter(name: CounterName) -> Counter:
    """The counter of this name. On hot paths keep the result of `.labels(...)`."""
    metric = COUNTERS[name]
    return Counter(name, metric.sentence, metric.labels, registry=REGISTRY)


@cache
def gauge(name: GaugeName) -> Gauge:
    """The gauge of this name."""
    metric = GAUGES[name]
    return Gauge(name, metric.sentence, metric.labels, registry=REGISTRY)


@cache
def histogram(name: HistogramName) -> Histogram:
    """The histogram of this name. On hot paths keep the result of `.labels(...)`."""
    metric = HISTOGRAMS[name]
    return Histogram(name, metric.sentence, metric.labels, buckets=metric.buckets, registry=REGISTRY)


def of_model(model_id: int) -> str:
    """The label of a model: its id, or `other` behind the first that this process met. Tenants may make any number."""
    if model_id not in _models and len(_models) < _MODELS:
        _models.add(model_id)
        for name in _by_model:
            counter(name).labels(model=model_id)
    return str(model_id) if model_id in _models else "other"


def read_gauge_from(name: GaugeName, read: Callable[[], float], **labels: str) -> None:
    """Let every scrape ask `read`, which must only look at memory: a scrape must cost nothing (lessons 36)."""
    metric = gauge(name)
    (metric.labels(**labels) if labels else metric).set_function(read)


def replace_gauge(name: GaugeName, values: Mapping[tuple[str, ...], float]) -> None:
    """Set the gauge for exactly these label values, in the order of the table; others vanish."""
    metric = gauge(name)
    metric.clear()
    for labels, value in values.items():
        metric.labels(*labels).set(value)


def announce_build(role: str) -> None:
    """Say in the metrics what runs here, and show all figures of such a process, before anything was counted: who
    alerts on a figure must be able to tell nothing from missing."""
    _by_model.update(name for name, metric in COUNTERS.items() if metric.role == role and metric.labels == ("model",))
    for tables, make in ((COUNTERS, counter), (GAUGES, gauge), (HISTOGRAMS, histogram)):
        for name, metric in tables.items():
            if metric.role in ("", role):
                figure = make(name)
                for value in metric.known:
                    figure.labels(value)
    build = {"role": role, "version": version("sluiceway"), "python": platform.python_version()}
    gauge("sluiceway_build_info").labels(**build).set(1)


def exposition() -> bytes:
    """What /metrics answers, in the Prometheus text format of CONTENT_TYPE."""
    return prometheus_client.generate_latest(REGISTRY)
