"""How the doctor examines settings, secrets, the place of results and the staging folder."""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

import asyncpg
import obstore
from obstore.exceptions import BaseError
from sqlalchemy.exc import SQLAlchemyError

from libs.common.adapters.models.registry import checking_adapters
from libs.common.adapters.object_storage.file_service import upload_address
from libs.common.adapters.object_storage.obstore import BadStorageUrl, open_store, refusal_code
from libs.common.adapters.postgres.database import open_database
from libs.common.adapters.postgres.sealed import sealed_places
from libs.common.adapters.secrets import BadKeyRing, KeyRing
from libs.common.domain.errors import SluicewayError, WrongSetting
from libs.common.operations.doctor import Finding, advice, fine, problem
from libs.common.ports_secrets import SealedValue, SealError
from libs.common.settings import Settings, unknown_names

_SECONDS: Final = 10.0
_CONNECT_SECONDS: Final = 3.0
#: Below this the next large output may not fit.
_FREE_BYTES: Final = 2**30
_FREE_SHARE: Final = 0.05
#: Sealed values of each place that are opened: a ring that is wrong opens none of them.
_SEALED: Final = 20


async def examine_settings(settings: Settings, environment: Mapping[str, str]) -> list[Finding]:
    """Every name is known, and what has no useful default is set."""
    found = [
        problem(f"{name} is no setting: it changes nothing", "check its spelling; `sluiceway config` shows them all")
        for name in unknown_names(environment)
    ]
    if settings.failpoints:
        found.append(advice("SLUICEWAY_FAILPOINTS is set: processes fail on purpose", "unset it outside of tests"))
    if not settings.storage_url and not settings.oss_url:
        do = "set SLUICEWAY_STORAGE_URL (file:///, s3://, gs://, az://) or SLUICEWAY_OSS_URL"
        found.append(problem("results have no place", do))
    return found or [fine("every setting is known and has a value that can be used")]


async def examine_adapters() -> list[Finding]:
    """Every adapter of an installed package can be used."""
    adapters = checking_adapters()
    do = "mend or remove the package that brings it; models that name it cannot be saved and their tasks fail"
    found = [problem(str(broken), do) for broken in adapters.broken]
    return [*found, fine(f"models can be called by {', '.join(adapters.names())}")]


async def examine_secrets(settings: Settings) -> list[Finding]:
    """The key ring opens what it seals, and what was sealed before."""
    try:
        ring = KeyRing(settings.secret_keys.get_secret_value())
        ring.open(ring.seal(b"probe", "doctor"), "doctor")
    except BadKeyRing as error:
        return [problem(str(error), "`sluiceway secrets new` prints a key; keep old keys at the end of the ring")]
    found = [fine("SLUICEWAY_SECRET_KEYS seals and opens")]
    try:
        stored = await _stored(settings.database_url.get_secret_value())
    except (SluicewayError, asyncpg.PostgresError, SQLAlchemyError, OSError, ValueError):
        # What keeps PostgreSQL from answering is told by its own examination.
        what = "the stored values were not looked at: PostgreSQL does not give them"
        return [*found, advice(what, "examine again once PostgreSQL is in order")]
    return found + _unopened(ring, stored)


async def _stored(database_url: str) -> list[tuple[str, SealedValue]]:
    """The newest sealed values of each place."""
    async with asyncio.timeout(_CONNECT_SECONDS), open_database(database_url) as database:
        return [(place.name, value) for place in sealed_places(database) for value in await place.newest(_SEALED)]


def _unopened(ring: KeyRing, stored: Sequence[tuple[str, SealedValue]]) -> list[Finding]:
    """What the ring does not open, by key."""
    closed: dict[str, Counter[str]] = {}
    for place, value in stored:
        try:
            ring.open(value.sealed, value.owner)
        except SealError:
            closed.setdefault(ring.key_of(value.sealed), Counter())[place] += 1
    found = []
    for key, places in sorted(closed.items()):
        where = ", ".join(f"{number} in {place}" for place, number in places.items())
        where = f"of the newest {_SEALED} of each place {where}"
        if key in ring.names:
            what = f"key {key!r} does not open what names it ({where}): another key of that id, or damaged values"
            do = "put the right key under that id"
        else:
            what = f"no key {key!r} in SLUICEWAY_SECRET_KEYS, and stored values are sealed by it ({where})"
            do = f"put {key!r} back at the end of the ring and restart, then `sluiceway secrets rotate`"
        lost = "if it is lost, write those models' apiKey and webhooks' secrets anew; tasks' credentials are gone"
        found.append(problem(what, f"{do}; {lost}"))
    return found or [fine(f"it opens the newest of what is stored ({len(stored)} values looked at)")]


async def examine_storage(settings: Settings) -> list[Finding]:
    """The place of results takes an object, gives it back and deletes it."""
    if settings.oss_url:
        try:
            upload_address(settings.oss_url, settings.oss_path)
        except WrongSetting as wrong:
            return [problem(str(wrong), "correct them")]
        return [await _file_service(settings.oss_url)]
    if not settings.storage_url:
        return []
    key = f".sluiceway-doctor/{uuid.uuid4().hex}"
    try:
        store = open_store(settings.storage_url)
        async with asyncio.timeout(_SECONDS):
            await obstore.put_async(store, key, b"probe")
            there = bytes(await (await obstore.get_async(store, key)).bytes_async())
            await obstore.delete_async(store, key)
    except BadStorageUrl as error:
        return [problem(str(error), "correct SLUICEWAY_STORAGE_URL")]
    except (BaseError, OSError, TimeoutError) as error:
        text = str(error).partition("\n")[0][:200]
        what = f"results cannot be stored{refusal_code(error)}: {type(error).__name__}: {text}"
        return [problem(what, "check SLUICEWAY_STORAGE_URL, its credentials and its rights, and this host's clock")]
    if there != b"probe":
        return [problem("the object store gives back other bytes than it was given", "check what stands between")]
    return [fine("results can be stored, read and deleted")]


async def _file_service(url: str) -> Finding:
    address = urlsplit(url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(address.hostname, port)
    except (OSError, TimeoutError) as error:
        what = f"the file service at {address.hostname}:{port} cannot be reached: {type(error).__name__}"
        return problem(what, "check SLUICEWAY_OSS_URL; until it is back outputs wait in staging")
    writer.close()
    return fine(f"the file service at {address.hostname}:{port} takes connections")


async def examine_staging(settings: Settings) -> list[Finding]:
    """Outputs can be staged, and the disk has room for them."""
    folder = settings.staging_folder
    probe = folder / f".doctor-{os.getpid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe.write_bytes(b"probe")
        probe.unlink()
        disk = shutil.disk_usage(folder)
    except OSError as error:
        what = f"nothing can be written to {folder}: {error.strerror or type(error).__name__}"
        return [problem(what, "check SLUICEWAY_STAGING_DIR and its rights: without it executors take no work")]
    found = [fine(f"{folder} can be written to, {disk.free // 2**20} MiB are free")]
    if disk.free < max(_FREE_BYTES, _FREE_SHARE * disk.total):
        what = f"the disk of {folder} has {disk.free // 2**20} MiB left of {disk.total // 2**20}"
        found.append(problem(what, "make room: when it is full executors take no work"))
    elif disk.free < settings.staging_max_bytes:
        what = f"{disk.free // 2**20} MiB are free, SLUICEWAY_STAGING_MAX_BYTES promises more"
        found.append(advice(what, "lower it, so that executors stop taking work before the disk is full"))
    if not settings.staging_dir:
        what = "SLUICEWAY_STAGING_DIR is not set: outputs are staged in a temporary folder"
        found.append(advice(what, "set it to a folder that survives a reboot, or such calls are made twice"))
    return found
