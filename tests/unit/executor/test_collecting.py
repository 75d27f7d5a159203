"""What a provider's job puts out is staged as a whole, or not at all."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from libs.common.domain.model_errors import EgressRefused, ModelError, StagingFull
from libs.common.domain.output import FILES_LIMIT, StagedFile
from libs.common.ports_execution import OutputLink, StagingWriter
from libs.common.ports_jobs import JobOutput
from libs.common.runtime import failpoints
from services.executor import collecting
from services.executor.calls import ModelHeaders
from services.executor.collecting import OutputCollector
from tests.support.executor_rig import FakeStaging
from tests.support.waiting import until

_MODEL = SimpleNamespace(id=1, tenant_id=7, bindings=b"X-Key:abc", base_url="https://provider.example/v1")
_RUN: Any = SimpleNamespace(attempt=SimpleNamespace(tenant_id=7, public_id=uuid4(), number=1), model=_MODEL)


class FakeLinks:
    """Fetches the name of a link, unless it is told what else becomes of it."""

    def __init__(self) -> None:
        self.asked: list[OutputLink] = []
        self.running = 0
        self.most = 0
        self.fail: Callable[[str, int], ModelError | StagingFull | None] = lambda _name, _nth: None
        self.held: set[str] = set()

    async def fetch(self, link: OutputLink, sink: StagingWriter) -> StagedFile:
        self.asked.append(link)
        name = link.url.rpartition("/")[2]
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0)
            while name in self.held:
                await asyncio.sleep(0.001)
            if (error := self.fail(name, self.times(name))) is not None:
                raise error
            await sink.write(name.encode())
            return await sink.commit(link.content_type)
        finally:
            self.running -= 1

    def times(self, name: str) -> int:
        return sum(link.url.endswith(f"/{name}") for link in self.asked)


class Desk:
    def __init__(self, seconds: float = 60.0) -> None:
        self.links, self.staging = FakeLinks(), FakeStaging()
        headers = ModelHeaders(lambda sealed, _owner: sealed)
        self.collector = OutputCollector(self.links, self.staging, headers, seconds=seconds)

    async def collect(self, *outputs: JobOutput | str) -> list[bytes]:
        """What is staged, in the order of the outputs."""
        asked = [JobOutput(url=f"https://files/{one}") if isinstance(one, str) else one for one in outputs]
        return [self.staging.files[file.reference] for file in await self.collector.collect(_RUN, asked)]

    async def refused(self, *outputs: JobOutput | str) -> ModelError:
        """The error that collecting ends with; it leaves nothing behind."""
        with pytest.raises(ModelError) as caught:
            await self.collect(*outputs)
        assert self.staging.files == {}
        assert self.links.running == 0
        return caught.value


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(collecting, "_LONGEST_PAUSE", 0.002)


def _passing(code: str = "output_http_503", **more: Any) -> ModelError:
    return ModelError(code, "files answered 503", retryable=True, **more)


async def test_what_came_with_the_report_and_what_lies_behind_links_is_staged_in_order() -> None:
    desk = Desk()
    desk.links.held = {"first"}
    collected = asyncio.create_task(
        desk.collect("first", JobOutput(content=b"inline", content_type="text/plain"), "last")
    )
    await until(lambda: desk.links.times("last"))
    desk.links.held = set()
    assert await collected == [b"first", b"inline", b"last"]
    assert {link.base_url for link in desk.links.asked} == {_MODEL.base_url}
    assert {link.headers for link in desk.links.asked} == {(("X-Key", "abc"),)}


@pytest.mark.parametrize(
    ("outputs", "code"),
    [
        ([], "no_outputs"),
        (["x"] * (FILES_LIMIT + 1), "too_many_outputs"),
        ([JobOutput(content=b"")], "empty_output"),
        (["fine", JobOutput(content=b"")], "empty_output"),
    ],
)
async def test_what_cannot_be_taken_is_said_and_stages_nothing(outputs: list[JobOutput | str], code: str) -> None:
    error = await Desk().refused(*outputs)
    assert (error.code, error.retryable) == (code, False)


async def test_one_failed_output_is_fetched_again_alone() -> None:
    desk = Desk()
    desk.links.fail = lambda name, nth: _passing() if name == "b" and nth < 3 else None
    assert await desk.collect("a", "b", "c") == [b"a", b"b", b"c"]
    assert [desk.links.times(name) for name in "abc"] == [1, 3, 1]


@pytest.mark.parametrize(
    "final",
    [ModelError("output_link_expired", "files answered 404", retryable=False), EgressRefused("not there")],
)
async def test_a_final_failure_of_one_ends_the_others_and_names_it(final: ModelError) -> None:
    desk = Desk()
    desk.links.held = {"c"}
    desk.links.fail = lambda name, _nth: final if name == "b" else None
    error = await desk.refused("a", "b", "c")
    assert (error.code, error.retryable) == (final.code, False)
    assert error.message == f"output 2 of 3: {final.message}"
    assert (await desk.refused("b")).message == final.message


async def test_the_time_for_all_is_one_and_says_what_was_wrong_last() -> None:
    desk = Desk(seconds=0.1)
    desk.links.fail = lambda name, _nth: _passing() if name == "b" else None
    error = await desk.refused("a", "b")
    assert (error.code, error.retryable) == ("output_timeout", True)
    assert error.message.endswith("output 2 of 2: files answered 503")
    assert desk.links.times("b") > 2


async def test_a_provider_that_asks_to_be_left_alone_is() -> None:
    desk = Desk(seconds=0.1)
    desk.links.fail = lambda _name, _nth: _passing("output_http_429", retry_after=30)
    assert (await desk.refused("a")).code == "output_timeout"
    assert desk.links.times("a") == 1


async def test_a_link_that_hangs_is_bounded_by_the_same_time() -> None:
    desk = Desk(seconds=0.05)
    desk.links.held = {"a"}
    error = await desk.refused("a", "b")
    assert (error.code, error.message) == ("output_timeout", "not all outputs came within 0.05 s")


async def test_staging_that_is_full_keeps_nothing_of_it() -> None:
    desk = Desk()
    desk.links.fail = lambda name, _nth: StagingFull("no room") if name == "b" else None
    with pytest.raises(StagingFull):
        await desk.collect("a", "b")
    assert desk.staging.files == {}


async def test_whoever_is_cancelled_leaves_nothing_staged() -> None:
    desk = Desk()
    desk.links.held = {"b"}
    collecting_ = asyncio.create_task(desk.collect("a", "b"))
    await until(lambda: desk.staging.files)
    collecting_.cancel()
    with pytest.raises(asyncio.CancelledError):
        await collecting_
    assert desk.staging.files == {}
    assert desk.links.running == 0


async def test_whoever_is_cancelled_while_it_clears_up_leaves_nothing_staged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large files are deleted in a thread, which takes a while."""
    desk, removing = Desk(), asyncio.Event()
    remove = desk.staging.remove

    async def slowly(reference: str) -> None:
        removing.set()
        await asyncio.sleep(0.01)
        await remove(reference)

    monkeypatch.setattr(desk.staging, "remove", lambda one: asyncio.shield(asyncio.ensure_future(slowly(one))))
    desk.links.held.add("bad")
    desk.links.fail = lambda name, _nth: StagingFull("no room") if name == "bad" else None
    collecting_ = asyncio.create_task(desk.collect("a", "b", "bad"))
    await until(lambda: len(desk.staging.files) == 2)
    desk.links.held.clear()
    await removing.wait()
    collecting_.cancel()
    with pytest.raises(asyncio.CancelledError):
        await collecting_
    await until(lambda: not desk.staging.files)


async def test_whoever_is_cancelled_twice_at_once_leaves_nothing_staged() -> None:
    """The second cancel ended removals that had not begun."""
    desk = Desk()
    desk.links.held.add("bad")
    collecting_ = asyncio.create_task(desk.collect("a", "b", "bad"))
    await until(lambda: len(desk.staging.files) == 2)
    collecting_.cancel()
    while desk.links.running:
        await asyncio.sleep(0)
    for _ in range(10):
        collecting_.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await collecting_
    await until(lambda: not desk.staging.files)


async def test_many_are_fetched_a_few_at_a_time() -> None:
    desk = Desk()
    names = [f"n{number}" for number in range(FILES_LIMIT)]
    assert await desk.collect(*names) == [name.encode() for name in names]
    assert desk.links.most == 4


async def test_what_fails_between_two_outputs_leaves_nothing_staged() -> None:
    desk = Desk()
    failpoints.arm("executor/after-one-collect:1:raise")
    try:
        with pytest.raises(failpoints.FailpointRaised):
            await desk.collect("a", "b", "c")
    finally:
        failpoints.arm("")
    assert desk.staging.files == {}
    assert desk.links.running == 0


async def test_a_disk_that_deletes_nothing_either_changes_no_reason() -> None:
    """A job whose output finds no room is collected later; anything else would buy it again."""
    desk = Desk()
    desk.links.fail = lambda name, _nth: StagingFull("read-only") if name == "b" and desk.staging.files else None

    async def remove(reference: str) -> None:
        raise OSError(errno.EROFS, f"read-only: {reference}")

    desk.staging.remove = remove  # type: ignore[method-assign]
    with pytest.raises(StagingFull):
        await desk.collect("a", "b")
