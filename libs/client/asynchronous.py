"""The client for asyncio: the same methods as `Client`, as coroutines and asynchronous iterators."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from libs.client import calls
from libs.client.calls import Call, Pause
from libs.client.errors import ApiError, NotReachable, TaskEnded
from libs.client.files import whole
from libs.client.streams import Events, Patience, is_end
from libs.client.task import Task


class AsyncClient:
    """One server and one API key. Every method raises ApiError when refused, NotReachable when there is no answer.

    `timeout` is for one request, in seconds; `tries` how often a request is sent at most.
    """

    def __init__(self, url: str, key: str, *, timeout: float = 30.0, tries: int = 5) -> None:
        self._timeout = timeout
        self._tries = tries
        self._http = httpx.AsyncClient(
            base_url=calls.root_of(url), headers=calls.bearer(key), limits=calls.LIMITS, mounts=calls.MOUNTS
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    async def submit(
        self, model: str, payload: Any = None, *, idempotency_key: str | None = None, **options: Any
    ) -> Task:
        """Hand a task in: accepted means durable. `options` are the other fields of POST /v1/tasks."""
        return calls.task_of(await self.send(calls.submit(model, payload, idempotency_key, options)))

    async def submit_batch(
        self, tasks: Sequence[Mapping[str, Any]], *, idempotency_key: str | None = None
    ) -> list[dict[str, Any]]:
        """Hand in up to 1,000: for each its task, or what is wrong with it, in order."""
        return calls.items_of(await self.send(calls.submit_batch(tasks, idempotency_key)))

    async def get(self, task_id: str) -> Task:
        """A task as it is now. The first read of a success starts the time until it is cleaned."""
        return calls.task_of(await self.send(calls.task(task_id)))

    async def wait(self, task_id: str, timeout: float | None = None) -> Task:
        """The task once it has ended; breaks of two minutes are bridged.

        Raises TimeoutError after `timeout` seconds, and changes nothing by it.
        """
        return await self._wait(task_id, timeout, Patience(1))

    async def _wait(self, task_id: str, timeout: float | None, patience: Patience) -> Task:
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = calls.WAIT_SECONDS if end is None else end - time.monotonic()
            try:
                task = calls.task_of(await self.send(calls.task(task_id, wait=max(left, 1.0)), until=end))
            except (ApiError, NotReachable) as broke:
                pause = patience.pause(broke, time.monotonic())
                if end is not None and time.monotonic() + pause > end:
                    raise TimeoutError("the server did not answer in time") from None
                await asyncio.sleep(pause)
                continue
            patience.had()
            if task.ended:
                return task
            if left <= 0:
                raise TimeoutError(f"task {task_id} is {task.status} after {timeout:g} s")

    async def run(self, model: str, payload: Any = None, *, timeout: float | None = None, **options: Any) -> Task:
        """Submit, and wait for success. Raises TaskEnded for another end, TimeoutError as `wait`."""
        patience, task = Patience(1), await self.submit(model, payload, **options)
        patience.had()
        task = await self._wait(task.id, timeout, patience)
        if not task.succeeded:
            raise TaskEnded(task)
        return task

    async def cancel(self, task_id: str) -> dict[str, Any]:
        """Ask for the end of a task; `verdict` is canceled, cancel_requested or already_final."""
        answer: dict[str, Any] = await self.send(calls.cancel(task_id))
        return answer

    async def why(self, task_id: str) -> dict[str, Any]:
        """What the task waits for: the limit, its value, the position, an estimate."""
        answer: dict[str, Any] = await self.send(calls.about_task(task_id, "why"))
        return answer

    async def attempts(self, task_id: str) -> list[dict[str, Any]]:
        """The attempts that have ended, oldest first."""
        return calls.items_of(await self.send(calls.about_task(task_id, "attempts")))

    async def history(self, task_id: str) -> list[dict[str, Any]]:
        """What happened to the task beside its attempts, oldest first."""
        return calls.items_of(await self.send(calls.about_task(task_id, "history")))

    async def pages(self, path: str, **filters: Any) -> AsyncIterator[dict[str, Any]]:
        """Every item of a list such as /v1/tasks, page by page."""
        cursor: str | None = None
        while True:
            wanted = {name: value for name, value in {**filters, "cursor": cursor}.items() if value is not None}
            page = calls.page_of(await self.send(Call("GET", path, params=wanted)))
            for item in page["items"]:
                yield item
            cursor = page.get("next_cursor")
            if not cursor:
                return

    async def events(self, task_id: str | None = None, *, last_event_id: str = "") -> AsyncIterator[dict[str, Any]]:
        """Changes of a task until it ends, or of all the tenant's tasks for ever; breaks of two minutes are bridged.

        Behind a break some may come again: of two with one id the greater `sequence` is the newer. Where the server
        looks at too few tasks to tell all that happened meanwhile, a warning is logged. The last
        `event_id` that was not None is the `last_event_id` of a program that was started again.
        """
        stream, patience = Events(last_event_id), Patience(self._tries)
        while True:
            broke: Exception | None = None
            try:
                async with self._opened(calls.stream(task_id, stream.last)) as response:
                    if not stream.begin(response):
                        return
                    async for text in response.aiter_text():
                        patience.had()
                        for event in stream.feed(text):
                            yield event
                            if task_id is not None and is_end(event):
                                return
            except (httpx.TransportError, ApiError) as error:
                broke = error
            except httpx.DecodingError:
                raise calls.garbled() from None
            await asyncio.sleep(patience.pause(broke, time.monotonic()))

    async def download(self, task_id: str, target: str | Path, index: int = 0) -> Path:
        """Write a file of the result to `target`, whole or not at all. What could not begin is tried again."""
        target = Path(target)
        for nth in range(self._tries):
            left, begun = self._tries - nth - 1, False
            try:
                async with self._opened(calls.result(task_id, index)) as response:
                    with whole(target) as file:
                        async for chunk in response.aiter_bytes():
                            begun = True
                            file.write(chunk)
                return target
            except ApiError as refused:
                seconds = calls.pause(refused, left, nth).seconds
            except httpx.RequestError as error:
                if begun or not left:
                    raise NotReachable(f"the download broke: {type(error).__name__}") from None
                seconds = calls.backoff(nth)
            await asyncio.sleep(seconds)
        raise NotReachable("no try is left")

    async def send(self, call: Call, *, until: float | None = None) -> Any:
        """Any other call of the REST face: its JSON. Raises TimeoutError where a try would begin after `until`."""
        for nth in range(self._tries):
            answer = calls.judge(call, await self._answer(call, until), self._tries - nth - 1, nth)
            if not isinstance(answer, Pause):
                return answer
            if until is not None and time.monotonic() + answer.seconds > until:
                raise TimeoutError("the server did not answer in time")
            await asyncio.sleep(answer.seconds)
        raise NotReachable("no try is left")

    async def _answer(self, call: Call, until: float | None) -> httpx.Response | None:
        left = None if until is None else until - time.monotonic()
        request = calls.built(self._http, call, self._timeout, left)
        try:
            return await self._http.send(request)
        except httpx.TransportError:
            return None
        except httpx.DecodingError:
            raise calls.garbled() from None

    @asynccontextmanager
    async def _opened(self, call: Call) -> AsyncIterator[httpx.Response]:
        """A streamed answer; the key is not shown to where a redirect leads."""
        timeout = httpx.Timeout(self._timeout, read=60.0)
        async with self._http.stream(call.method, call.path, headers=call.headers, timeout=timeout) as response:
            if response.has_redirect_location:
                async with (
                    httpx.AsyncClient(timeout=timeout, mounts=calls.MOUNTS, follow_redirects=True) as other,
                    other.stream("GET", calls.elsewhere(response)) as elsewhere,
                ):
                    await _check(elsewhere, ours=False)
                    yield elsewhere
                return
            await _check(response)
            yield response


async def _check(response: httpx.Response, *, ours: bool = True) -> None:
    if not response.is_success:
        await response.aread()
        raise calls.refusal(response, ours=ours)
