"""What `sluiceway demo` does, step by step, as an outside client would."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO
from urllib.parse import unquote, urlsplit

import httpx
from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Table

from libs.common.embedded.child import last_words
from libs.common.embedded.data_folder import DataFolder
from libs.common.runtime.process import PARENT_VARIABLE
from libs.common.settings import PREFIX
from services.cli.demo_files import opened_picture, opened_sound

_TOPIC_PREFIX: Final = "sluiceway"  #: what the setting is when nobody sets it

TENANTS: Final = (1001, 1002)
MODELS: Final = {"speak": "/speak", "draw": "/draw"}
_ROAD_SECONDS: Final = 60.0
_SENTENCES: Final = (
    "water finds its way",
    "a gate holds back what a mill cannot grind",
    "patience is a queue with a promise",
    "every task ends once",
    "what was accepted is durable",
    "one flood must not drown the other field",
)


class DemoFailed(Exception):
    """A part of the demo did not work; the text says which."""


@dataclass
class Carried:
    """One task of the demo as its client knows it."""

    tenant: int
    model: str
    id: str
    view: dict[str, Any] = field(default_factory=dict)
    event: dict[str, Any] = field(default_factory=dict)
    event_id: str = ""
    opened: str = ""

    @property
    def status(self) -> str:
        return str(self.view.get("status", "submitted"))


class Show:
    """What the terminal shows: live where there is one, plain lines where not."""

    def __init__(self, out: TextIO) -> None:
        self.console = Console(file=out)
        self._began = time.monotonic()

    def step(self, text: str) -> None:
        self.console.print(f"[bold cyan]{time.monotonic() - self._began:5.1f} s[/] {text}")

    def progress(self, tasks: list[Carried]) -> Table:
        table = Table(title="on the road", title_justify="left", box=SIMPLE)
        for heading in ("tenant", "model", "waiting", "running", "success", "other", "events"):
            table.add_column(heading, justify="right" if heading not in ("tenant", "model") else "left")
        for tenant in TENANTS:
            for model in MODELS:
                mine = [task for task in tasks if (task.tenant, task.model) == (tenant, model)]
                counted = {"waiting": 0, "running": 0, "success": 0, "other": 0}
                for task in mine:
                    counted[_column(task.status)] += 1
                events = sum(1 for task in mine if task.event)
                table.add_row(str(tenant), model, *map(str, counted.values()), str(events))
        return table

    def results(self, tasks: list[Carried]) -> None:
        table = Table(title="results", title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
        for heading in ("tenant", "model", "task", "status", "waited", "ran", "file", "event"):
            table.add_column(heading, no_wrap=True)
        for task in tasks:
            times = task.view["times"]
            waited, ran = _between(times, "created", "started"), _between(times, "started", "finished")
            row = (
                f"..{task.id[-8:]}",
                task.status,
                waited,
                ran,
                task.opened,
                f"version {task.event_id.rpartition(':')[2]}",
            )
            table.add_row(str(task.tenant), task.model, *row)
        self.console.print(table)
        example = Path(_path(tasks[0]))
        self.console.print(f"the first file is {example}", soft_wrap=True)
        folder = example.parents[2]
        self.console.print(f"all lie in {folder} until the demo ends; --keep FOLDER keeps them", soft_wrap=True)


@contextmanager
def _part(name: str, log: str) -> Iterator[None]:
    """Whatever goes wrong in the block is a failure of this part, of which this log may tell more."""
    try:
        yield
    except DemoFailed:
        raise
    except Exception as error:
        raise DemoFailed(f"{name}: {type(error).__name__}: {error}; see {log}") from error


async def run_demo(folder: Path, tasks_each: int, show: Show) -> None:
    """Run the whole demo in a folder; raises DemoFailed naming the part that did not work, and its log."""
    async with AsyncExitStack() as stack:
        show.step("starting PostgreSQL, Redis, a Kafka broker and the services (two executors)")
        addresses = await stack.enter_async_context(_stack(folder))
        show.step(f"API at {addresses['api']}, Kafka at {addresses['kafka']}; starting the sample models")
        models = await stack.enter_async_context(_sample_models(folder))
        keys = dict(zip(TENANTS, await asyncio.gather(*(_key(tenant, addresses) for tenant in TENANTS)), strict=True))
        events: dict[str, tuple[str, dict[str, Any]]] = {}
        listening = asyncio.create_task(_listen(addresses["kafka"], events))
        stack.push_async_callback(_end, listening)
        async with httpx.AsyncClient(base_url=addresses["api"], timeout=10, trust_env=False) as client:
            with _part("registering the models", "api-1.log"):
                await _register(client, keys, models)
            show.step(f"two models registered for each of {len(TENANTS)} tenants; handing in tasks")
            with _part("handing in tasks", "api-1.log"):
                tasks = await _submit(client, keys, tasks_each)
            with _part("watching the tasks", "api-1.log"):
                await _watch(client, keys, tasks, events, listening, show)
        for task in tasks:
            task.opened = _open(task)
        show.results(tasks)
        show.step(f"{len(tasks)} tasks succeeded, {len(tasks)} files open, {len(tasks)} events arrived; stopping")
    show.step("everything stopped")


@asynccontextmanager
async def _stack(folder: Path) -> AsyncIterator[dict[str, Any]]:
    """A stack that ends when we do, however that comes; in a session of its own, since Ctrl-C is for us alone."""
    data = DataFolder(folder / "data")
    data.furnish()
    said, named = data.logs / "supervisor.log", ("--data", str(data.path))
    environment = {**_own_environment(), "SLUICEWAY_EXECUTORS": "2"}
    with said.open("wb") as log:
        supervisor = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.cli", "up", "--json", *named),
            env=_ending_with_us(environment), stdout=asyncio.subprocess.PIPE, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        report = await supervisor.stdout.readline() if supervisor.stdout is not None else b""
        if not report:
            raise DemoFailed(f"the stack: `sluiceway up` said: {last_words(said)}")
        yield json.loads(report)
    finally:
        await _command("stopping", "down", *named, environment=environment)
        with suppress(ProcessLookupError):
            supervisor.terminate()  # it may be at its imports still, where `down` finds nobody
        await supervisor.wait()


def _own_environment() -> dict[str, str]:
    """Ours without settings, but for the kind of broker: who operates a real stack has its servers in the shell."""
    kept = f"{PREFIX}BROKER"
    return {name: value for name, value in os.environ.items() if name == kept or not name.startswith(PREFIX)}


def _ending_with_us(environment: Mapping[str, str]) -> dict[str, str]:
    return {**environment, PARENT_VARIABLE: str(os.getpid())}


@asynccontextmanager
async def _sample_models(folder: Path) -> AsyncIterator[str]:
    from libs.common.embedded.ports import free_port

    port = free_port()
    log = (folder / "data" / "logs" / "sample-models.log").open("wb")
    module = "libs.common.embedded.sample_models"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, str(port), env=_ending_with_us(os.environ), stdout=log, stderr=log
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            for _ in range(200):
                try:
                    await client.get(f"{url}/healthy")
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
                else:
                    break
            else:
                raise DemoFailed("the sample models did not start; see sample-models.log")
        yield url
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()
        log.close()


async def _key(tenant: int, addresses: dict[str, Any]) -> str:
    environment = {**_own_environment(), "SLUICEWAY_DATABASE_URL": addresses["database"]}
    answer = await _command("keys", "keys", "create", "--tenant", str(tenant), "--json", environment=environment)
    return str(json.loads(answer)["key"])


async def _command(part: str, *arguments: str, environment: dict[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.cli",
        *arguments,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, errors = await process.communicate()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)  # an `up` that is interrupted ends what it has begun
        await process.wait()
        raise
    if process.returncode:
        raise DemoFailed(f"{part}: `sluiceway {' '.join(arguments)}` said: {errors.decode()[-600:].strip()}")
    return out.decode()


async def _listen(bootstrap: str, events: dict[str, tuple[str, dict[str, Any]]]) -> None:
    """An independent consumer of completion events: from the start, without a group."""
    from aiokafka import AIOKafkaConsumer

    from libs.common.contracts.topics import events_topic

    consumer = AIOKafkaConsumer(
        events_topic(_TOPIC_PREFIX), bootstrap_servers=bootstrap, group_id=None, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        async for record in consumer:
            headers = dict(record.headers)
            events[record.key.decode()] = (headers["ce_id"].decode(), json.loads(record.value))
    finally:
        await consumer.stop()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _register(client: httpx.AsyncClient, keys: dict[int, str], models: str) -> None:
    for key in keys.values():
        for name, route in MODELS.items():
            body = {"name": name, "base_url": models, "route": route, "max_concurrency": 2, "retry_times": 1}
            _checked("registering a model", await client.post("/v1/models", json=body, headers=_bearer(key)))


async def _submit(client: httpx.AsyncClient, keys: dict[int, str], each: int) -> list[Carried]:
    tasks = []
    for number in range(each):
        text = _SENTENCES[number % len(_SENTENCES)]
        for tenant, key in keys.items():
            for model in MODELS:
                body = {"model": model, "payload": {"text": text, "seconds": 0.3}, "biz_name": "demo"}
                answer = await client.post("/v1/tasks", json=body, headers=_bearer(key))
                tasks.append(Carried(tenant, model, _checked("handing in a task", answer)["id"]))
    return tasks


async def _watch(
    client: httpx.AsyncClient,
    keys: dict[int, str],
    tasks: list[Carried],
    events: dict[str, tuple[str, dict[str, Any]]],
    listening: asyncio.Task[None],
    show: Show,
) -> None:
    deadline = time.monotonic() + _ROAD_SECONDS
    with Live(console=show.console, refresh_per_second=8) as live:
        while True:
            for tenant, key in keys.items():
                mine = {task.id: task for task in tasks if task.tenant == tenant}
                answer = await client.post("/v1/tasks/read", json={"ids": list(mine)}, headers=_bearer(key))
                for view in _checked("reading tasks", answer)["items"]:
                    mine[view["id"]].view = view
            for task in tasks:
                task.event_id, task.event = events.get(task.id, ("", {}))
            live.update(show.progress(tasks))
            _check_road(tasks, listening, late=time.monotonic() > deadline)
            if all(task.status == "success" and task.event for task in tasks):
                return
            await asyncio.sleep(0.15)


def _check_road(tasks: list[Carried], listening: asyncio.Task[None], *, late: bool) -> None:
    if listening.done():
        raise DemoFailed(f"the event consumer ended: {listening.exception()}")
    for task in tasks:
        if task.status in ("timeout", "canceled") or (task.status == "failed" and task.event):
            raise DemoFailed(f"task {task.id} ended as {task.status}: {task.view.get('error')}; see executor-*.log")
        if task.event and task.event["status"] != "success":
            raise DemoFailed(f"task {task.id} has an event that says {task.event['status']}")
    if late:
        missing = [task.id for task in tasks if task.status != "success"]
        silent = [task.id for task in tasks if not task.event]
        raise DemoFailed(
            f"after {_ROAD_SECONDS:.0f} s {len(missing)} tasks have no success (see executor-*.log) "
            f"and {len(silent)} no event (see dispatcher-*.log); the first: {(missing or silent)[0]}"
        )


def _open(task: Carried) -> str:
    """Open the result as what it says it is; raises DemoFailed when it is not."""
    path = _path(task)
    with _part(f"opening {path}, the file of task {task.id}", "executor-*.log"):
        content = Path(path).read_bytes()
        if len(content) != task.view["result"]["size"] or task.event.get("fileSize") != len(content):
            raise ValueError("it does not have the size that was recorded")
        return opened_picture(content) if task.model == "draw" else opened_sound(content)


def _path(task: Carried) -> str:
    return unquote(urlsplit(task.view["result"]["url"]).path)


def _checked(part: str, answer: httpx.Response) -> dict[str, Any]:
    if answer.is_error:
        raise DemoFailed(f"{part}: the API answered {answer.status_code}: {answer.text[:400]}; see api-1.log")
    body: dict[str, Any] = answer.json()
    return body


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _column(status: str) -> str:
    if status in ("draft", "submitted", "queued"):
        return "waiting"
    if status in ("processing", "generated", "migrating"):
        return "running"
    return status if status == "success" else "other"


def _between(times: dict[str, Any], first: str, second: str) -> str:
    from datetime import datetime

    begin, end = times.get(f"{first}_at"), times.get(f"{second}_at")
    if not begin or not end:
        return "-"
    return f"{(datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds():.2f} s"
