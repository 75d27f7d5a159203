"""The staging store on a real disk, and what is left of it when things go wrong."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import hashlib
import os
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from libs.common.adapters import disk_sync, staging_writer
from libs.common.adapters.staging import CHUNK_BYTES, Staging, open_staging
from libs.common.adapters.staging_writer import INLINE_BYTES, LARGE_BYTES, SPILL_BYTES
from libs.common.domain.errors import OutcomeUnknown
from libs.common.domain.model_errors import ModelError, StagedLost, StagingFull, StagingShareFull
from libs.common.domain.output import IN_DATABASE, IN_DATABASE_BYTES, StagedFile
from libs.common.ports_execution import OutputSet
from tests.support.descriptors import no_more_files
from tests.support.waiting import until

_MIB = 2**20
_SMALL = IN_DATABASE_BYTES + 1  #: the smallest that is a file
_SIZES = [_SMALL, INLINE_BYTES, INLINE_BYTES + 1, SPILL_BYTES - 1, SPILL_BYTES, 3 * CHUNK_BYTES + 5]


@pytest.fixture
async def staging(tmp_path: Path) -> AsyncIterator[Staging]:
    async with open_staging(
        tmp_path / "staging", "local", max_file_bytes=8 * _MIB, max_total_bytes=20 * _MIB
    ) as staging:
        yield staging


def _content(size: int) -> bytes:
    return (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * (size // 256 + 1))[:size]


async def _staged(
    staging: Staging, content: bytes, chunk: int = 50_000, task: UUID | None = None, tenant: int = 7
) -> StagedFile:
    async with staging.create(task or uuid4(), 1, tenant) as sink:
        for place in range(0, len(content), chunk):
            await sink.write(content[place : place + chunk])
        return await sink.commit()


async def _read(staging: Staging, staged: StagedFile, into: list[bytes] | None = None) -> bytes:
    passed = [] if into is None else into
    async with aclosing(staging.chunks(staged)) as chunks:
        async for chunk in chunks:
            passed.append(chunk)
    return b"".join(passed)


def _path(staging: Staging, staged: StagedFile) -> Path:
    return staging.root / staged.reference.partition(":")[2]


@pytest.mark.parametrize("size", _SIZES)
async def test_what_goes_in_comes_out(staging: Staging, size: int) -> None:
    content = _content(size)
    staged = await _staged(staging, content)
    assert (staged.size, staged.sha256) == (size, hashlib.sha256(content).digest())
    assert staged.file_type == "png"
    assert await staging.read(staged) == content
    assert await _read(staging, staged) == content
    assert Path(await staging.verified_path(staged)).read_bytes() == content
    assert staging.usage == size


@pytest.mark.parametrize("size", [0, 1, 2_048, IN_DATABASE_BYTES])
async def test_a_small_output_is_no_file_but_what_commit_returns(staging: Staging, size: int) -> None:
    content = _content(size)
    staged = await _staged(staging, content, chunk=1_000)
    assert (staged.reference, staged.content, staged.size) == (IN_DATABASE, content, size)
    assert staged.sha256 == hashlib.sha256(content).digest()
    assert staged.file_type == ("png" if size > 7 else staged.file_type)
    assert staging.holds(staged.reference), "it can be read wherever the record of it can"
    assert await staging.read(staged) == await _read(staging, staged) == content
    await staging.remove(staged.reference)
    assert (staging.usage, await staging.entries()) == (0, [])
    with pytest.raises(StagedLost, match="database"):
        await staging.read(replace(staged, content=None))


async def test_two_outputs_of_one_attempt_do_not_meet(staging: Staging) -> None:
    """A presumed-dead executor may still be at work on the same attempt."""
    task = uuid4()
    first, second = (
        await _staged(staging, b"one" * _SMALL, task=task),
        await _staged(staging, b"two" * _SMALL, task=task),
    )
    await staging.remove(first.reference)
    assert await staging.read(second) == b"two" * _SMALL


async def test_removing_is_idempotent(staging: Staging) -> None:
    staged = await _staged(staging, b"x" * _SMALL)
    for _ in range(2):
        await staging.remove(staged.reference)
    assert staging.usage == 0
    assert await staging.entries() == []
    with pytest.raises(StagedLost):
        await staging.read(staged)


@pytest.mark.parametrize("size", [_SMALL, INLINE_BYTES + 100, 2 * CHUNK_BYTES + 100])
@pytest.mark.parametrize("fault", ["flipped", "shorter", "longer", "gone", "a folder", "a link"])
async def test_what_is_not_as_it_was_written_is_lost(staging: Staging, size: int, fault: str) -> None:
    staged = await _staged(staging, _content(size))
    path = _path(staging, staged)
    content = path.read_bytes()
    path.unlink()
    match fault:
        case "flipped":
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "shorter":
            path.write_bytes(content[:-1])
        case "longer":
            path.write_bytes(content + b"x")
        case "a folder":
            path.mkdir()
        case "a link":
            (staging.root.parent / "outside").write_bytes(content)
            path.symlink_to(staging.root.parent / "outside")
    with pytest.raises(StagedLost, match="bytes where" if fault in ("shorter", "longer") else "staged output"):
        await staging.read(staged)
    with pytest.raises(StagedLost):
        await staging.verified_path(staged)
    passed: list[bytes] = []
    with pytest.raises(StagedLost):
        await _read(staging, staged, into=passed)
    assert sum(map(len, passed)) < size


@pytest.mark.parametrize("size", [IN_DATABASE_BYTES + 1, 2 * CHUNK_BYTES + 100])
async def test_what_cannot_be_opened_for_want_of_descriptors_is_not_lost(staging: Staging, size: int) -> None:
    staged = await _staged(staging, _content(size))
    with no_more_files(), pytest.raises(OSError, match="Too many open files"):
        await staging.verified_path(staged)
    assert await _read(staging, staged) == _content(size)


@pytest.mark.parametrize(
    "reference",
    [
        "local:../../etc/passwd",
        "local:/etc/passwd",
        "local:",
        "local:.",
        "local:..",
        "local:a/b",
        "local:0123456789abcdef0123456789abcdef-1-0123456\x00",
        "local:0123456789abcdef0123456789abcdef-1-01234567/../x",
        "local:0123456789abcdef0123456789abcdef-1-01234567\n",
    ],
)
async def test_no_reference_leads_out_of_the_folder(staging: Staging, reference: str) -> None:
    (staging.root.parent / "outside").write_text("secret")
    with pytest.raises(StagedLost):
        await staging.read(StagedFile(reference, 6, b"", "txt", "text/plain"))
    with pytest.raises(StagedLost):
        await staging.remove(reference)


async def test_references_of_other_stores_are_left_alone(staging: Staging) -> None:
    staged = await _staged(staging, b"x" * _SMALL)
    other = replace(staged, reference=staged.reference.replace("local", "elsewhere"))
    assert staging.holds(staged.reference)
    assert not staging.holds(other.reference)
    await staging.remove(other.reference)
    with pytest.raises(StagedLost):
        await staging.read(other)
    assert await staging.read(staged) == b"x" * _SMALL


@pytest.mark.parametrize("name", ["", "database", "a:b", "a/b", "\u00fc", "x" * 65])
async def test_a_store_needs_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="staging store"):
        Staging(tmp_path, name, max_file_bytes=1, max_total_bytes=1)


# outputs that come to nothing


@pytest.mark.parametrize("size", [0, 100, 2 * SPILL_BYTES])
async def test_what_is_not_committed_leaves_nothing(staging: Staging, size: int) -> None:
    async with staging.create(uuid4(), 1, 7) as sink:
        await sink.write(_content(size))
    assert await staging.entries() == []
    assert staging.usage == 0


async def test_an_output_over_the_cap_is_refused_for_good(staging: Staging) -> None:
    with pytest.raises(ModelError) as refusal:
        await _staged(staging, _content(8 * _MIB + 1))
    assert (refusal.value.code, refusal.value.retryable) == ("answer_too_large", False)
    assert await staging.entries() == []


async def test_a_writer_cancelled_while_a_thread_writes_leaves_nothing(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread cannot be stopped: its file must be closed and deleted behind it, never under it."""
    inside, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    write_all = staging_writer.write_all
    closed: list[int] = []

    def slow(descriptor: int, content: bytes) -> None:
        loop.call_soon_threadsafe(inside.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(5)
        os.fstat(descriptor)  # still open
        write_all(descriptor, content)
        closed.append(descriptor)

    monkeypatch.setattr(staging_writer, "write_all", slow)
    writing = asyncio.ensure_future(_staged(staging, _content(2 * SPILL_BYTES), chunk=SPILL_BYTES))
    await inside.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    go_on.set()
    await until(lambda: closed and not list(staging.root.iterdir()))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(closed[0])


@pytest.mark.parametrize("committed", [True, False])
async def test_a_large_file_is_deleted_beside_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    """On ext4 that takes 150 ms for 512 MiB, and half a second for 2 GiB."""
    deleted_by: list[str] = []
    unlink = os.unlink

    def watched(path: str) -> None:
        deleted_by.append(threading.current_thread().name)
        unlink(path)

    monkeypatch.setattr(os, "unlink", watched)
    async with open_staging(tmp_path / "s", "local", max_file_bytes=2**30, max_total_bytes=2**31) as staging:
        if committed:
            await staging.remove((await _staged(staging, _content(LARGE_BYTES + 1))).reference)
        else:
            async with staging.create(uuid4(), 1, 7) as sink:
                await sink.write(_content(LARGE_BYTES + 1))
            await until(lambda: not os.listdir(staging.root))
        assert staging.usage == await staging.measure() == 0
    (thread,) = deleted_by
    assert thread.startswith("staging")


async def test_whoever_is_cancelled_while_a_large_file_is_deleted_leaves_none(tmp_path: Path) -> None:
    """Nobody would delete it before the task is over, and it counts against its tenant meanwhile."""
    async with open_staging(tmp_path / "s", "local", max_file_bytes=2**30, max_total_bytes=2**31) as staging:
        removing = asyncio.create_task(staging.remove((await _staged(staging, _content(LARGE_BYTES + 1))).reference))
        await asyncio.sleep(0)
        removing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await removing
        await until(lambda: not os.listdir(staging.root))
        await until(lambda: staging.usage == 0)


async def test_unfinished_files_of_processes_that_died_are_listed_and_can_be_deleted(staging: Staging) -> None:
    finished = await _staged(staging, b"keep" * _SMALL)
    task = uuid4()
    part = staging.root / f"{task.hex}-1--5-01234567.part"
    part.write_bytes(b"half")
    (staging.root / "notes.txt").write_text("not ours")
    assert {(entry.task, entry.size) for entry in await staging.entries()} >= {(task, 4)}
    os.utime(part, (1, 1))
    [stale] = [entry for entry in await staging.entries() if entry.age > 60]
    await staging.remove(stale.reference)
    assert [entry.reference for entry in await staging.entries()] == [finished.reference]
    assert (staging.root / "notes.txt").exists()


# full and broken disks


async def test_a_full_store_takes_nothing_until_something_is_removed(staging: Staging) -> None:
    kept = [await _staged(staging, _content(size), tenant=size) for size in (8 * _MIB, 6 * _MIB, 3 * _MIB, 1_990_000)]
    assert staging.full
    with pytest.raises(StagingFull, match="19815792 of 20971520"):
        staging.create(uuid4(), 1, 7)
    await staging.remove(kept[0].reference)
    assert not staging.full
    await _staged(staging, b"x" * _SMALL)


async def test_one_tenant_never_fills_the_store(staging: Staging) -> None:
    """Answers that never end, or uploads that always fail, had kept every executor from taking anybody's work."""
    async with AsyncExitStack() as open_ones:
        for _ in range(10):
            endless = await open_ones.enter_async_context(staging.create(uuid4(), 1, -1))
            await endless.write(_content(_MIB))
        with pytest.raises(StagingShareFull) as refused:
            staging.create(uuid4(), 1, -1)
        assert refused.value.code == "staging_share"
        for _ in range(4):
            await endless.write(_content(_MIB))
        with pytest.raises(StagingShareFull):
            await endless.write(_content(_MIB))
        assert not staging.full
        theirs = await _staged(staging, _content(2 * _MIB), tenant=2)
    assert staging.usage == await staging.measure() == theirs.size
    await _staged(staging, _content(_MIB), tenant=-1)


async def test_an_output_that_the_store_could_never_hold_is_refused_for_good(tmp_path: Path) -> None:
    """Alone in it, too, it would have no room: its model was called again every 15 s to 5 min, for a day."""
    async with open_staging(tmp_path / "s", "local", max_file_bytes=2**31, max_total_bytes=9 * _MIB) as staging:
        kept = await _staged(staging, _content(6 * _MIB))
        await staging.remove(kept.reference)
        with pytest.raises(ModelError, match="larger than 6291456 bytes") as refused:
            await _staged(staging, _content(6 * _MIB + 1))
        assert (refused.value.code, refused.value.retryable) == ("answer_too_large", False)
        assert staging.usage == await staging.measure() == 0


async def test_outputs_that_the_store_could_never_hold_together_are_refused_for_good(tmp_path: Path) -> None:
    """Each found room, all of them never did: they were fetched again and again until their task's time was up."""
    async with open_staging(tmp_path / "s", "local", max_file_bytes=2**31, max_total_bytes=9 * _MIB) as staging:
        fitting, kept = OutputSet(), []
        for _ in range(6):  # behind the first, the others go on what was begun
            async with staging.create(uuid4(), 1, 7, fitting) as sink:
                await sink.write(_content(_MIB))
                kept.append(await sink.commit())
        async with staging.create(uuid4(), 1, 7, OutputSet(fitting.size)) as sink:
            with pytest.raises(ModelError, match="together are larger than 6291456 bytes") as refused:
                await sink.write(b"x")
        assert (refused.value.code, refused.value.retryable) == ("answer_too_large", False)
        for file in kept:
            await staging.remove(file.reference)
        assert staging.usage == await staging.measure() == 0


async def test_what_was_thrown_away_of_an_output_is_no_part_of_its_set(staging: Staging) -> None:
    outputs = OutputSet()
    for _ in range(10):
        async with staging.create(uuid4(), 1, 7, outputs) as sink:
            await sink.write(_content(2 * _MIB))
    assert outputs.size == 0


async def test_shares_count_what_other_processes_put_there(staging: Staging) -> None:
    async with open_staging(staging.root, "local", max_file_bytes=8 * _MIB, max_total_bytes=20 * _MIB) as other:
        kept = [await _staged(other, _content(5 * _MIB), tenant=-1) for _ in range(2)]
        await staging.measure()
        with pytest.raises(StagingShareFull):
            staging.create(uuid4(), 1, -1)
        staging.create(uuid4(), 1, 1)
        await staging.remove(kept[0].reference)
        staging.create(uuid4(), 1, -1)


async def test_usage_counts_what_other_processes_put_there(staging: Staging, tmp_path: Path) -> None:
    async with open_staging(staging.root, "local", max_file_bytes=8 * _MIB, max_total_bytes=20 * _MIB) as other:
        staged = await _staged(other, _content(5 * _MIB))
        assert staging.usage == 0
        assert await staging.measure() == 5 * _MIB
        assert await staging.read(staged) == _content(5 * _MIB)
        await staging.remove(staged.reference)
        assert await other.measure() == 0


@pytest.mark.parametrize("size", [_SMALL, INLINE_BYTES + 1, 2 * SPILL_BYTES])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
async def test_a_disk_that_refuses_makes_the_store_full_until_it_is_measured(
    staging: Staging, monkeypatch: pytest.MonkeyPatch, size: int, code: int
) -> None:
    def refuse(descriptor: int, content: bytes) -> None:
        os.write(descriptor, content[:10])
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as broken:
        broken.setattr(staging_writer, "write_all", refuse)
        with pytest.raises(StagingFull, match=os.strerror(code)):
            await _staged(staging, _content(size))
    assert await staging.entries() == []
    assert staging.full
    with pytest.raises(StagingFull):
        staging.create(uuid4(), 1, 7)
    await staging.measure()
    assert not staging.full
    await _staged(staging, _content(size))


async def test_a_disk_that_cannot_sync_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async with open_staging(tmp_path, "local", max_file_bytes=_MIB, max_total_bytes=_MIB) as staging:
        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", refuse)
            with pytest.raises(StagingFull, match="Input/output"):
                await _staged(staging, b"x" * _SMALL)
            await staging.measure()
            assert staging.full, "a probe that fails must not open the store"
        assert await staging.entries() == []
        await staging.measure()
        assert not staging.full


async def test_a_folder_that_vanished_is_full_not_a_crash(staging: Staging) -> None:
    staging.root.rmdir()
    with pytest.raises(StagingFull):
        await _staged(staging, b"x" * _SMALL)
    staging.root.mkdir()
    await staging.measure()
    await _staged(staging, b"x" * _SMALL)


@pytest.mark.parametrize("size", [_SMALL, 2 * SPILL_BYTES])
async def test_a_disk_that_takes_a_little_at_a_time_gets_everything(
    staging: Staging, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:1_000]))
    staged = await _staged(staging, _content(size))
    monkeypatch.undo()
    assert await staging.read(staged) == _content(size)


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="no /dev/full here")
def test_a_partial_write_ends_in_the_disks_error() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="No space left"):
            staging_writer.write_all(descriptor, b"x")
    finally:
        os.close(descriptor)


async def test_no_descriptor_stays_open(staging: Staging) -> None:
    await _staged(staging, b"w" * _SMALL)
    before = len(os.listdir("/proc/self/fd"))
    for size in (10, _SMALL, INLINE_BYTES + 1, 2 * SPILL_BYTES):
        staged = await _staged(staging, _content(size))
        await _read(staging, staged)
        async with staging.create(uuid4(), 1, 7) as sink:
            await sink.write(_content(size))
        kept = staging.create(uuid4(), 1, 7)
        await kept.write(_content(size))
        await kept.commit()
    await until(lambda: len(os.listdir("/proc/self/fd")) == before)


async def test_many_at_once_share_their_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs: list[list[object]] = []
    sync = disk_sync._sync

    def counted(batch: list[disk_sync._Kept]) -> list[OSError | None]:
        syncs.append([*batch])
        return sync(batch)

    monkeypatch.setattr(disk_sync, "_sync", counted)
    async with open_staging(tmp_path, "local", max_file_bytes=_MIB, max_total_bytes=_MIB) as staging:
        await asyncio.gather(*(_staged(staging, b"x" * _SMALL) for _ in range(50)))
    assert sum(map(len, syncs)) == 50
    assert len(syncs) < 10


@pytest.mark.parametrize("files", [1, 3, 4, 30])
async def test_whether_one_by_one_or_together_every_folder_and_file_is_synced(tmp_path: Path, files: int) -> None:
    disk = disk_sync.DiskSync()
    folder, gone = tmp_path / "there", tmp_path / "gone"
    folder.mkdir()
    opened = [os.open(folder / str(number), os.O_WRONLY | os.O_CREAT) for number in range(files)]
    outcomes = await asyncio.gather(
        *(disk.keep(descriptor, str(folder)) for descriptor in opened),
        disk.keep(None, str(gone)),
        return_exceptions=True,
    )
    await disk.close()
    assert outcomes[:-1] == [None] * files
    assert isinstance(outcomes[-1], FileNotFoundError), "one's failure is its own"
    for descriptor in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


async def test_what_a_thread_is_syncing_stays_open_even_if_nobody_waits_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    sync = disk_sync._sync

    def held(batch: list[disk_sync._Kept]) -> list[OSError | None]:
        go_on.wait(10)
        return sync(batch)

    monkeypatch.setattr(disk_sync, "_sync", held)
    monkeypatch.setattr(disk_sync, "_CLOSE_SECONDS", 0.1)
    disk = disk_sync.DiskSync()
    descriptor = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    keeping = asyncio.create_task(disk.keep(descriptor, str(tmp_path)))
    await asyncio.sleep(0)
    await disk.close()
    with pytest.raises(OutcomeUnknown):
        await keeping
    os.fstat(descriptor)
    go_on.set()
    await until(lambda: not os.path.exists(f"/proc/self/fd/{descriptor}"))


async def test_a_file_system_that_cannot_sync_is_everybodys_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int) -> int:
        ctypes.set_errno(errno.EIO)
        return -1

    monkeypatch.setattr(disk_sync, "_SYNCFS", refuse)
    disk = disk_sync.DiskSync()
    outcomes = await asyncio.gather(*(disk.keep(None, str(tmp_path)) for _ in range(5)), return_exceptions=True)
    await disk.close()
    assert [getattr(outcome, "errno", None) for outcome in outcomes] == [errno.EIO] * 5
