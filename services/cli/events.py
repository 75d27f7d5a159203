"""`sluiceway events`: completion events as they lie on Kafka."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from libs.common.runtime.redaction import redact_text
from services.cli.app import app
from services.cli.options import LARGEST_ID, OfTenant, instant
from services.cli.output import OneObjectOption, note, printable
from services.cli.wiring import complete

if TYPE_CHECKING:
    from libs.common.operations.republish import Republished
    from libs.common.ports_audit import LogRecord

#: The calendar's end, as a producer may date its record beyond it.
_LAST_MS = 253_402_300_799_000

events = typer.Typer(help="Completion events on Kafka.", no_args_is_help=True)
app.add_typer(events, name="events")


class End(StrEnum):
    """How a task can end."""

    SUCCESS = "success"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELED = "canceled"


@events.command()
def tail(
    since: Annotated[
        str | None, typer.Option("--since", help="Also those since: RFC 3339, an age such as 90m, 2h, 3d, or seconds.")
    ] = None,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="All that the topic still holds.")] = False,
    tenant: OfTenant = None,
    model: Annotated[str | None, typer.Option("--model", help="Only those of models of this name.")] = None,
    status: Annotated[End | None, typer.Option("--status", help="Only tasks that ended so.")] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="Stop after so many.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Print events as they come, until interrupted. Repeated ones are printed again: their id tells.

    Example: sluiceway events tail --since 1h --status failed
    """
    from_ms = 0 if from_beginning else _since_ms(since)
    wanted = {"tenantId": tenant, "model": model, "status": status}
    complete(_tail(from_ms, {name: str(value) for name, value in wanted.items() if value is not None}, count, as_json))


@events.command()
def republish(
    since: Annotated[str, typer.Option("--since", help="Ended since: RFC 3339, or an age such as 90m, 2h, 3d.")],
    until: Annotated[str | None, typer.Option("--until", help="Ended before; left out: now.")] = None,
    tenant: OfTenant = None,
    model: Annotated[str | None, typer.Option("--model", help="Only those of models of this name.")] = None,
    rate: Annotated[float, typer.Option("--rate", min=0.1, help="So many a second at most.")] = 1_000.0,
    after: Annotated[
        int, typer.Option("--after", min=0, max=LARGEST_ID, help="Go on where a run was interrupted.")
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    as_json: OneObjectOption = False,
) -> None:
    """Send events again under the same ids, built from the tasks' rows: for a broker that lost its topic.

    Only the present end of each task that is still stored: consumers tell repeated events by their ids.

    Example: sluiceway events republish --since 2h --dry-run
    """
    now = datetime.now(UTC)
    span = (instant(since, "--since") or now, instant(until, "--until") or now)
    done = complete(_republish(span, tenant, model, after, rate, dry_run))
    if as_json:
        print(json.dumps({**asdict(done), "dry_run": dry_run}))
    else:
        print(f"{done.sent} events {'would be ' if dry_run else ''}sent, {done.refused} refused")
    raise typer.Exit(1 if done.refused else 0)


def _since_ms(since: str | None) -> int:
    now = time.time()
    try:
        ago = float(since or 0)
    except ValueError:
        at = instant(since, "--since")
        return int((now if at is None else at.timestamp()) * 1_000)
    if not ago >= 0:
        raise typer.BadParameter("seconds are a number from 0 on", param_hint="--since")
    return int((now - min(ago, now)) * 1_000)


async def _republish(
    span: tuple[datetime, datetime], tenant: int | None, model: str | None, after: int, rate: float, dry_run: bool
) -> Republished:
    from libs.common.ports_dispatch import EndFilter
    from libs.common.settings import load_settings
    from services.cli.events_republish import open_republish

    told_at = time.monotonic()

    def tell(done: Republished) -> None:
        nonlocal told_at
        if time.monotonic() - told_at > 5:
            note(f"{done.sent} events; go on by --after {done.after}")
            told_at = time.monotonic()

    async with open_republish(load_settings()) as work:
        return await work.run(EndFilter(*span, tenant, model), after, rate, tell, dry_run=dry_run)


async def _tail(since_ms: int, wanted: dict[str, str], count: int | None, as_json: bool) -> None:
    seen = 0
    async with aclosing(_records(since_ms)) as records:
        async for record in records:
            event = _event(record)
            if any(event["data"].get(name) != value for name, value in wanted.items()):
                continue
            print(json.dumps(event) if as_json else _line(event), flush=True)
            seen += 1
            if seen == count:
                return


async def _records(since_ms: int) -> AsyncGenerator[LogRecord, None]:
    from libs.common.adapters.kafka.connection import KafkaConnection
    from libs.common.adapters.kafka.log import KafkaLog
    from libs.common.contracts.topics import events_topic
    from libs.common.settings import load_settings

    settings = load_settings()
    log = KafkaLog(KafkaConnection.of(settings))
    topic = events_topic(settings.topic_prefix)
    async with aclosing(log.follow(topic, since_ms)) as batches:
        async for batch in batches:
            if not batch:
                note(f"following {topic}")
            for record in batch:
                yield record


def _event(record: LogRecord) -> dict[str, Any]:
    """A record as it is, its secrets masked: what is no event of ours is shown as one without data."""
    headers = {name: value.decode("utf-8", "replace") for name, value in record.headers if value is not None}
    try:
        data = json.loads(record.value or b"")
    except (ValueError, RecursionError):
        data = None
    told = data if isinstance(data, dict) else {}
    if isinstance(told.get("errorMsg"), str):
        told["errorMsg"] = redact_text(told["errorMsg"])
    return {
        "id": headers.get("ce_id"),
        "type": headers.get("ce_type"),
        "sequence": headers.get("ce_sequence"),
        "partition": record.partition,
        "offset": record.offset,
        "at": datetime.fromtimestamp(min(max(record.timestamp_ms, 0), _LAST_MS) / 1_000, UTC).isoformat(
            timespec="milliseconds"
        ),
        "data": told,
    }


def _line(event: dict[str, Any]) -> str:
    data = event["data"]
    error = " ".join(str(part) for part in (data.get("errorCode"), data.get("errorMsg")) if part)
    what = data.get("ossFile") if data.get("status") == "success" else error
    parts = (
        event["at"],
        f"{data.get('status', '?')!s:8}",  # as long as the longest
        f"tenant {data.get('tenantId')}",
        data.get("model"),
        event["id"],
        what,
    )
    return printable("  ".join(str(part) for part in parts))
