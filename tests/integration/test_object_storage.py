"""Results in object stores: a local folder and memory as they are, S3 against a stand-in of its wire."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from libs.common.adapters.object_storage.obstore import PART_BYTES, BadStorageUrl, ObjectStorage
from libs.common.adapters.object_storage.put_memory import PutMemory
from libs.common.adapters.staging import Staging, open_staging
from libs.common.domain.model_errors import StagedLost, UploadFailed
from libs.common.domain.output import ResultName, StagedFile
from libs.common.operations.doctor_places import examine_storage
from libs.common.settings import load_settings
from tests.support.descriptors import no_more_files
from tests.support.stand_in_s3 import StandInS3, lending_keys, stand_in_s3
from tests.support.waiting import until

_TASK = UUID("0190a000-0000-7000-8000-000000000001")
_NAME = ResultName(7, datetime(2026, 3, 1, 23, 30, tzinfo=UTC), _TASK, 2)
_FILE = f"{_TASK}-2-0.png"
_KEY = f"7/2026-03-01/{_FILE}"
_PNG = b"\x89PNG\r\n\x1a\n"
_SIZES = [20, 70_000, 3 * 2**20, PART_BYTES * 2 + 17]


@pytest.fixture
async def staging(tmp_path: Path) -> AsyncIterator[Staging]:
    async with open_staging(tmp_path / "staging", "local", max_file_bytes=2**26, max_total_bytes=2**30) as staging:
        yield staging


@pytest.fixture
async def s3(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StandInS3]:
    async with stand_in_s3() as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-key")
        yield store


async def _staged(staging: Staging, content: bytes) -> StagedFile:
    async with staging.create(_TASK, 2, 7) as sink:
        await sink.write(content)
        return await sink.commit()


def _content(size: int) -> bytes:
    return (_PNG + os.urandom(1_000) * (size // 1_000 + 1))[:size]


async def _damaged(staging: Staging, size: int) -> StagedFile:
    staged = await _staged(staging, _content(size))
    path = staging.root / staged.reference.partition(":")[2]
    with path.open("r+b") as file:
        file.seek(size - 1)
        file.write(b"\x00\x01")
    return staged


def test_names_depend_on_the_task_alone() -> None:
    assert _NAME.key("png") == _KEY
    assert _NAME.file_name("png") == f"asynch_1772407800_{_TASK.hex}-2-0.png"
    elsewhere = replace(_NAME, created_at=_NAME.created_at.astimezone(timezone(timedelta(hours=8))))
    assert (elsewhere.key("png"), elsewhere.file_name("png")) == (_NAME.key("png"), _NAME.file_name("png"))
    assert replace(_NAME, tenant_id=-5, index=3).key("bin") == f"-5/2026-03-01/{_TASK}-2-3.bin"


# a folder of this machine


@pytest.mark.parametrize("size", _SIZES)
@pytest.mark.parametrize("copied", [False, True])
async def test_a_folder_keeps_the_result_when_staging_forgets_it(
    staging: Staging, tmp_path: Path, size: int, copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if copied:  # as if staging lay on another disk

        def refuse(*_: object) -> None:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(os, "link", refuse)
    content = _content(size)
    staged = await _staged(staging, content)
    store = ObjectStorage((tmp_path / "results").as_uri(), staging)
    stored = await store.put(_NAME, staged)
    await staging.remove(staged.reference)

    path = tmp_path / "results" / _KEY
    assert stored.url == path.as_uri()
    assert (stored.size, stored.file_type, stored.sha256, stored.name) == (size, "png", staged.sha256, _FILE)
    assert path.read_bytes() == content
    assert path.stat().st_nlink == 1
    assert await store.read(_KEY) == content
    assert await store.head(_KEY) == size
    assert [found async for found in store.listing("7")] == [(_KEY, size)]
    assert [found async for found in store.listing("8")] == []


@pytest.mark.parametrize("size", [70_000, PART_BYTES * 2 + 17])
async def test_a_result_that_had_to_be_copied_is_on_disk(
    staging: Staging, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task is a success then, and staging forgets it."""
    synced: set[str] = set()
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        fsync(descriptor)
        synced.add(os.path.realpath(f"/proc/self/fd/{descriptor}"))

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    staged = await _staged(staging, _content(size))
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "fsync", watched)
    await ObjectStorage((tmp_path / "results").as_uri(), staging).put(_NAME, staged)
    path = tmp_path / "results" / _KEY
    assert synced >= {str(path), str(path.parent)}


@pytest.mark.parametrize("padding", [b"", bytes(20_000)], ids=["small", "file"])
async def test_storing_again_replaces_the_result(staging: Staging, tmp_path: Path, padding: bytes) -> None:
    """The upload of an attempt may be repeated, by another executor and from another staged output too."""
    store = ObjectStorage((tmp_path / "results").as_uri(), staging)
    first, second = await _staged(staging, _PNG + b"one" + padding), await _staged(staging, _PNG + b"two" + padding)
    for staged in (first, first, second, second):
        await store.put(_NAME, staged)
    assert await store.read(_KEY) == _PNG + b"two" + padding
    assert os.listdir((tmp_path / "results" / _KEY).parent) == [_FILE]
    assert await staging.read(first) == _PNG + b"one" + padding, "replacing a name must not write into the other's file"


async def test_an_object_that_was_never_there_and_one_that_is_deleted(staging: Staging, tmp_path: Path) -> None:
    store = ObjectStorage((tmp_path / "results").as_uri(), staging)
    assert await store.head(_KEY) is None
    await store.put(_NAME, await _staged(staging, _PNG))
    for _ in range(2):
        await store.delete(_KEY)
    assert await store.head(_KEY) is None


@pytest.mark.parametrize("size", [20_000, 3 * 2**20])
@pytest.mark.parametrize("where", ["folder", "memory"])
async def test_what_is_not_as_it_was_staged_never_becomes_a_result(
    staging: Staging, tmp_path: Path, size: int, where: str
) -> None:
    store = ObjectStorage((tmp_path / "results").as_uri() if where == "folder" else "memory:///", staging)
    with pytest.raises(StagedLost):
        await store.put(_NAME, await _damaged(staging, size))
    assert [found async for found in store.listing()] == []


async def test_a_folder_that_cannot_be_written_to_is_tried_again_later(staging: Staging, tmp_path: Path) -> None:
    store = ObjectStorage((tmp_path / "results").as_uri(), staging)
    (tmp_path / "results").rmdir()
    (tmp_path / "results").write_text("a file in its place")
    with pytest.raises(UploadFailed) as failure:
        await store.put(_NAME, await _staged(staging, _PNG))
    assert (failure.value.code, failure.value.retryable) == ("upload_unreachable", True)
    assert str(tmp_path) not in failure.value.message


@pytest.mark.parametrize("padding", [b"", bytes(20_000)], ids=["small", "file"])
async def test_a_change_that_breaks_half_way_leaves_no_file_beside(
    staging: Staging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, padding: bytes
) -> None:
    store = ObjectStorage((tmp_path / "results").as_uri(), staging)
    await store.put(_NAME, await _staged(staging, _PNG + b"one" + padding))

    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    second = await _staged(staging, _PNG + b"two" + padding)
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(UploadFailed, match="Input/output error"):
        await store.put(_NAME, second)
    assert os.listdir((tmp_path / "results" / _KEY).parent) == [_FILE]


@pytest.mark.parametrize("stored_before", [False, True])
async def test_a_disk_that_is_full_is_left_no_parts_of_files(
    staging: Staging, tmp_path: Path, stored_before: bool
) -> None:
    store = ObjectStorage((tmp_path / "results").as_uri(), staging)
    if stored_before:
        await store.put(_NAME, await _staged(staging, _PNG + b"one"))
    staged = await _staged(staging, _PNG + b"two" + bytes(100))
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    for _ in range(3):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, usual[1]))
        try:
            with pytest.raises(UploadFailed):
                await store.put(_NAME, staged)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert os.listdir((tmp_path / "results" / _KEY).parent) == [_FILE] * stored_before


@pytest.mark.parametrize("size", [20_000, 3 * 2**20])
@pytest.mark.parametrize("url", ["folder", "memory:///"])
async def test_an_executor_without_descriptors_has_not_lost_the_output(
    staging: Staging, tmp_path: Path, url: str, size: int
) -> None:
    store = ObjectStorage((tmp_path / "results").as_uri() if url == "folder" else url, staging)
    staged = await _staged(staging, _content(size))
    with no_more_files(), pytest.raises(UploadFailed) as failure:
        await store.put(_NAME, staged)
    assert (failure.value.code, failure.value.retryable) == ("upload_unreachable", True)
    assert (await store.put(_NAME, staged)).size == size


# other stores


@pytest.mark.parametrize("size", _SIZES)
async def test_memory(staging: Staging, size: int) -> None:
    store = ObjectStorage("memory:///", staging, public_url="https://cdn.example/r/")
    content = _content(size)
    stored = await store.put(_NAME, await _staged(staging, content))
    assert stored.url == f"https://cdn.example/r/{_KEY}"
    assert await store.read(_KEY) == content


@pytest.mark.parametrize("size", _SIZES)
async def test_s3_gets_small_results_whole_and_large_ones_in_parts(staging: Staging, s3: StandInS3, size: int) -> None:
    content = _content(size)
    stored = await ObjectStorage("s3://bucket/some/prefix", staging).put(_NAME, await _staged(staging, content))
    assert stored.url == f"s3://bucket/some/prefix/{_KEY}"
    assert s3.objects == {f"some/prefix/{_KEY}": content}
    assert s3.headers[f"some/prefix/{_KEY}"]["Content-Type"] == "image/png"
    assert len(s3.requests) == (1 if size <= 2**20 else 2 + -(-size // PART_BYTES))


@pytest.mark.parametrize("content", [b"<svg xmlns='x'/>", b"<!doctype html><p>", b"<?xml version='1.0'?><a/>"])
async def test_what_browsers_would_run_is_stored_as_a_download(staging: Staging, s3: StandInS3, content: bytes) -> None:
    await ObjectStorage("s3://bucket", staging).put(_NAME, await _staged(staging, content))
    [headers] = s3.headers.values()
    assert headers["Content-Disposition"] == "attachment"


async def test_s3_sees_no_whole_object_of_a_damaged_output(staging: Staging, s3: StandInS3) -> None:
    with pytest.raises(StagedLost):
        await ObjectStorage("s3://bucket", staging).put(_NAME, await _damaged(staging, PART_BYTES + 2**20))
    assert s3.objects == {}


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "upload_denied"), (401, "upload_denied"), (404, "upload_unreachable"), (503, "upload_unreachable")],
)
async def test_s3_refusals_are_tried_again_later_and_show_no_address(
    staging: Staging, s3: StandInS3, status: int, code: str
) -> None:
    s3.status = status
    with pytest.raises(UploadFailed) as failure:
        await ObjectStorage("s3://bucket", staging).put(_NAME, await _staged(staging, _PNG))
    assert (failure.value.code, failure.value.retryable) == (code, True)
    assert failure.value.message.endswith("(Told)"), "what it says for itself tells a wrong clock from a wrong key"
    for hidden in ("127.0.0.1", "bucket", "canary-key", str(_TASK)):
        assert hidden not in failure.value.message


async def test_keys_that_are_lent_are_renewed_between_the_parts_of_an_upload(
    staging: Staging, s3: StandInS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("who I am")
    content = _content(PART_BYTES * 2 + 17)
    async with lending_keys(60) as address:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", address)
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
        s3.goes_on.clear()
        putting = asyncio.create_task(ObjectStorage("s3://bucket", staging).put(_NAME, await _staged(staging, content)))
        await until(lambda: len(s3.requests) > 1)
        await asyncio.sleep(0.2)  # for a tenth of a second a key is not asked for again
        s3.goes_on.set()
        await putting
    assert s3.objects == {_KEY: content}
    assert (s3.signers[0], s3.signers[-1] != "lent-1") == ("lent-1", True)


async def test_keys_that_expire_during_an_upload_let_it_be_tried_again_with_others(
    staging: Staging, s3: StandInS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = _content(PART_BYTES * 2 + 17)
    staged = await _staged(staging, content)
    s3.goes_on.clear()
    putting = asyncio.create_task(ObjectStorage("s3://bucket", staging).put(_NAME, staged))
    await until(lambda: len(s3.requests) > 1)
    s3.expired.add("id")
    s3.goes_on.set()
    with pytest.raises(UploadFailed, match="ExpiredToken") as failure:
        await putting
    assert (failure.value.retryable, s3.objects) == (True, {})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    await ObjectStorage("s3://bucket", staging).put(_NAME, staged)
    assert s3.objects == {_KEY: content}


async def test_the_doctor_says_why_s3_refuses(s3: StandInS3, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.status = 403
    monkeypatch.setenv("SLUICEWAY_STORAGE_URL", "s3://bucket")
    (finding,) = await examine_storage(load_settings())
    assert "(Told)" in finding.what


async def test_s3_out_of_reach(
    staging: Staging, s3: StandInS3, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(UploadFailed) as failure:
        await ObjectStorage("s3://bucket", staging).put(_NAME, await _staged(staging, _PNG))
    assert (failure.value.code, failure.value.retryable) == ("upload_unreachable", True)
    assert failure.value.message == "the object store failed: Connection refused"


@pytest.mark.parametrize("size", [9, PART_BYTES + 1])
async def test_a_wrong_region_is_named(staging: Staging, s3: StandInS3, size: int) -> None:
    s3.status = 301
    with pytest.raises(UploadFailed, match="another region") as failure:
        await ObjectStorage("s3://bucket", staging).put(_NAME, await _staged(staging, _content(size)))
    assert (failure.value.code, failure.value.retryable) == ("upload_unreachable", True)


@pytest.mark.parametrize("size", [20_000, 3 * 2**20])
async def test_a_copy_that_the_results_disk_refuses_says_why(
    staging: Staging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """It said `GenericError` where results lie on another disk than staging."""

    def on_another_disk(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", on_another_disk)
    store, staged = ObjectStorage((tmp_path / "results").as_uri(), staging), await _staged(staging, _content(size))
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, usual[1]))
    try:
        with pytest.raises(UploadFailed) as failure:
            await store.put(_NAME, staged)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert failure.value.message == "the object store failed: File too large"


async def test_a_store_that_hangs_is_given_up(staging: Staging, s3: StandInS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libs.common.adapters.object_storage.obstore._SECONDS", 0.01)
    s3.status = 503  # its own retries take longer than that
    with pytest.raises(UploadFailed) as failure:
        await ObjectStorage("s3://bucket", staging).put(_NAME, await _staged(staging, _PNG))
    assert failure.value.code == "upload_timeout"


@pytest.mark.parametrize("why", ["late", "cancelled"])
async def test_an_upload_that_is_cut_off_leaves_no_parts_at_s3(
    staging: Staging, s3: StandInS3, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """Nobody sees them, they are never deleted, and they are paid for."""
    if why == "late":
        monkeypatch.setattr("libs.common.adapters.object_storage.obstore._SECONDS", -PART_BYTES * 4 / 2**20 + 1)
    s3.goes_on.clear()
    staged = await _staged(staging, _content(PART_BYTES * 4))
    store = ObjectStorage("s3://bucket", staging)
    putting = asyncio.create_task(store.put(_NAME, staged))
    await until(lambda: any("partNumber=3" in request for request in s3.requests))
    if why == "cancelled":
        putting.cancel()
    with pytest.raises(UploadFailed if why == "late" else asyncio.CancelledError):
        await putting
    s3.goes_on.set()
    await store.close()
    assert not s3.parts, "aborted, or completed where all had been read by then"


async def test_uploads_that_storage_takes_slowly_do_not_fill_the_memory(staging: Staging, s3: StandInS3) -> None:
    """Each has 18 MiB in it: a hundred had 1.9 GiB, and an executor may have thousands of them."""
    s3.goes_on.clear()
    staged = await _staged(staging, _content(PART_BYTES + 1))
    memory = PutMemory(everything=4 * staged.size, of_a_tenant=2 * staged.size, patience=60)
    store = ObjectStorage("s3://bucket", staging, memory=memory)
    names = [replace(_NAME, tenant_id=1, task=uuid4()) for _ in range(6)]
    puts = [asyncio.create_task(store.put(name, staged)) for name in (*names, replace(_NAME, tenant_id=2))]
    await until(lambda: sum("partNumber=2" in request for request in s3.requests) == 3)
    await asyncio.sleep(0.1)
    begun = [request for request in s3.requests if "uploads" in request]
    assert sorted(request.split("/")[2] for request in begun) == ["1", "1", "2"]
    puts[0].cancel()  # it is not over yet: obstore waits for the store
    await asyncio.sleep(0.1)
    assert len([request for request in s3.requests if "uploads" in request]) == 3
    s3.goes_on.set()
    await asyncio.gather(*puts, return_exceptions=True)
    assert {key for key in s3.objects if key != names[0].key("png")} == {
        name.key("png") for name in (*names[1:], replace(_NAME, tenant_id=2))
    }


async def test_who_finds_no_memory_for_its_upload_tries_again_later(staging: Staging, s3: StandInS3) -> None:
    s3.goes_on.clear()
    staged = await _staged(staging, _content(PART_BYTES + 1))
    memory = PutMemory(everything=staged.size, of_a_tenant=staged.size, patience=0.05)
    store = ObjectStorage("s3://bucket", staging, memory=memory)
    first = asyncio.create_task(store.put(_NAME, staged))
    await until(lambda: any("partNumber=2" in request for request in s3.requests))
    with pytest.raises(UploadFailed) as failure:
        await store.put(replace(_NAME, index=1), staged)
    assert (failure.value.code, failure.value.retryable) == ("upload_busy", True)
    await store.put(replace(_NAME, index=2), await _staged(staging, _PNG))  # little ones always find room
    s3.goes_on.set()
    await first
    await store.put(replace(_NAME, index=1), staged)


@pytest.mark.parametrize(
    "url", ["", "results", "/var/results", "ftp://h/x", "http://h/x", "file://host/x", "file:x", "s3:"]
)
def test_an_unusable_url_stops_the_process_and_names_the_setting(tmp_path: Path, url: str) -> None:
    staging = Staging(tmp_path, "local", max_file_bytes=1, max_total_bytes=1)
    with pytest.raises(BadStorageUrl, match="SLUICEWAY_STORAGE_URL"):
        ObjectStorage(url, staging)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("s3://bucket", "s3://bucket/a/b.png"),
        ("s3://bucket/prefix/", "s3://bucket/prefix/a/b.png"),
        ("gs://bucket/p", "gs://bucket/p/a/b.png"),
        ("file:///tmp/with%20space", "file:///tmp/with%20space/a/b.png"),
    ],
)
async def test_addresses(staging: Staging, s3: StandInS3, url: str, address: str, tmp_path: Path) -> None:
    url = url.replace("/tmp", str(tmp_path))
    assert ObjectStorage(url, staging).address("a/b.png") == address.replace("/tmp", str(tmp_path))


def test_no_two_names_are_the_same() -> None:
    other = replace(_NAME, task=uuid4())
    names = {name.key("png") for name in (_NAME, other, replace(_NAME, attempt=3), replace(_NAME, index=1))}
    assert len(names) == 4
