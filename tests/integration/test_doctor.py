"""The doctor finds what is wrong with settings, servers and places, and says what to do."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from libs.common.adapters.kafka.connection import KafkaConnection
from libs.common.adapters.kafka.topics import KafkaTopics
from libs.common.adapters.redis import keys
from libs.common.adapters.secrets import KeyRing
from libs.common.contracts.topics import EVENT_PARTITIONS, dead_topic, events_topic, model_topic
from libs.common.domain.errors import GateUnavailable
from libs.common.embedded.ports import free_port
from libs.common.operations import doctor_places, doctor_servers
from libs.common.operations.doctor import Diagnosis, Finding, examine
from libs.common.ports_dispatch import TopicPlan
from libs.common.settings import Settings
from tests.support.cli_schemas import assert_as_promised
from tests.support.house import House
from tests.support.servers import BrokerChoice
from tests.support.sights import alive, controls_of, why_model

KEYS = "t:" + base64.b64encode(b"t" * 32).decode()


def levels(found: list[Finding]) -> set[str]:
    return {finding.level for finding in found}


def told(found: list[Finding], word: str) -> Finding:
    """The one finding that is no good news and has a word in it."""
    (finding,) = [one for one in found if one.level != "ok" and word in one.what]
    assert finding.do
    return finding


@pytest.fixture
def settings(house: House, redis_url: str, tmp_path: Path, topic_prefix: str) -> Settings:
    return Settings(
        database_url=house.database_url,
        redis_url=redis_url,
        kafka_bootstrap=f"127.0.0.1:{free_port()}",
        topic_prefix=topic_prefix,
        storage_url=(tmp_path / "objects").as_uri(),
        staging_dir=str(tmp_path / "staging"),
        secret_keys=KEYS,
    )


def changed(settings: Settings, **changes: Any) -> Settings:
    return settings.model_copy(update={name: _as_is(settings, name, value) for name, value in changes.items()})


def _as_is(settings: Settings, name: str, value: Any) -> Any:
    kind = type(getattr(settings, name))
    return kind(value)


async def test_postgres_in_order_and_what_can_be_wrong_with_it(house: House, settings: Settings) -> None:
    found = await doctor_servers.examine_postgres(settings)
    assert levels(found) == {"ok", "advice"}
    assert "executor" in told(found, "no executor").do
    assert "dispatcher" in told(found, "no dispatcher").do
    assert "janitor" in told(found, "no janitor").do
    await house.executor()
    await alive(house, broker=False, error="connection refused")
    finding = told(await doctor_servers.examine_postgres(settings), "reaches the broker: connection refused")
    assert finding.level == "problem"
    # One that has just started has not tried yet: that is no broker that is away.
    for known in ("NULL", "true"):
        await house.sql(f"UPDATE process SET broker_reachable = {known}, version = 'test'")
        assert levels(await doctor_servers.examine_postgres(settings)) == {"ok"}
    # Nor is one that is full, or leaves, an executor that is gone: it is no use to start another of its kind.
    for posture in ("crowded", "draining"):
        await house.sql("UPDATE executor SET reading = false, posture = $1", posture)
        finding = told(await doctor_servers.examine_postgres(settings), "no executor takes new work")
        assert posture in finding.what
        assert "start" not in finding.do
    await house.sql("UPDATE executor SET reading = true, posture = 'reading'")
    await house.sql("UPDATE process SET version = 'older' WHERE role = 'janitor'")
    await controls_of(house).pause_all("ann", "broker moves")
    found = await doctor_servers.examine_postgres(settings)
    assert "older, test" in told(found, "several versions").what
    assert "broker moves" in told(found, "all dispatching").what
    assert "`sluiceway resume --all`" in told(found, "all dispatching").do
    named = await house.model(tenant=7, name="m; rm -rf ~")
    await controls_of(house).pause_model(7, named.name, "ann", "")
    finding = told(await doctor_servers.examine_postgres(settings), "model m;")
    assert "`sluiceway resume --tenant 7 --model 'm; rm -rf ~'`" in finding.do

    forgotten = await asyncpg.connect(house.database_url, server_settings={"application_name": "somebody's tool"})
    async with forgotten.transaction():
        pid = await forgotten.fetchval("SELECT pg_backend_pid()")
        assert not [one for one in await doctor_servers.examine_postgres(settings) if "transaction" in one.what]
        with patch.object(doctor_servers, "_IDLE_SECONDS", 0.0):
            finding = told(await doctor_servers.examine_postgres(settings), "a transaction (")
        assert "somebody's tool" in finding.what
        assert finding.do.startswith(f"SELECT pg_terminate_backend({pid})")
        await forgotten.execute("SELECT pg_sleep(2.5)")
        with patch.object(doctor_servers, "_IDLE_SECONDS", 2.0):  # somebody works in it
            assert not [one for one in await doctor_servers.examine_postgres(settings) if str(pid) in one.what]
    await forgotten.close()
    newer = settings.model_copy(update={"timezone": "Europe/Newtown"})  # of a release that the server has not yet
    finding = told(await doctor_servers.examine_postgres(newer), "'Europe/Newtown'")
    assert (finding.level, "SLUICEWAY_TIMEZONE" in finding.do) == ("problem", True)
    await house.sql("UPDATE alembic_version SET version_num = '0000'")
    try:
        finding = told(await doctor_servers.examine_postgres(settings), "revision 0000")
        assert (finding.level, "`sluiceway migrate`" in finding.do) == ("problem", False), "it knows no way from there"
    finally:
        await house.sql("UPDATE alembic_version SET version_num = '0001'")
    with patch.object(doctor_servers.migrate, "head", return_value="0002"):
        finding = told(await doctor_servers.examine_postgres(settings), "revision 0001")
    assert (finding.level, finding.do) == ("problem", "run `sluiceway migrate`")
    away = changed(settings, database_url=f"postgresql://x:secret@127.0.0.1:{free_port()}/y")
    finding = told(await doctor_servers.examine_postgres(away), "cannot be reached")
    assert "ConnectionRefusedError" in finding.what
    assert "secret" not in finding.what


async def test_topics_that_the_broker_refuses_are_named_with_its_words(house: House, settings: Settings) -> None:
    await house.executor()
    one, two = await house.model(), await house.model()
    cause = "InvalidReplicationFactorError: 3 is larger than 1"
    await alive(house, refused={one.lane: cause, two.lane: "a partition of it has no leader"}, events=cause)
    found = await doctor_servers.examine_postgres(settings)
    events, models = told(found, "topic of events"), told(found, "topics the broker refuses: 2")
    assert events.level == models.level == "problem"
    assert cause in events.what
    assert f"{one.name} of tenant {one.tenant_id}: {cause}" in models.what
    assert "SLUICEWAY_TOPIC_REPLICATION" in events.do
    # A dispatcher that died, or does not reach the broker, says nothing of what the broker takes now.
    for silenced in ("beat_at = now() - interval '1 min'", "beat_at = now(), broker_reachable = false"):
        await house.sql(f"UPDATE process SET {silenced} WHERE role = 'dispatcher'")
        found = await doctor_servers.examine_postgres(settings)
        assert [finding.what for finding in found if "refuses" in finding.what] == []


async def test_each_pause_is_told_with_what_resumes_it(house: House, settings: Settings) -> None:
    model, controls = await house.model(), controls_of(house)
    tenant = model.tenant_id
    webhook = await house.value(
        "INSERT INTO webhook (tenant_id, kind, url, secrets) VALUES ($1, 'endpoint', 'http://h', '') RETURNING id",
        tenant,
    )
    await controls.pause_tenant(tenant, "ann", "unpaid")
    await controls.pause_model(tenant, model.name, "ann", "wrong answers")
    await controls.pause_webhook(webhook, "ann", "it moves")
    found = await doctor_servers.examine_postgres(settings)
    for what, words in {
        f"tenant {tenant}: unpaid": f"resume --tenant {tenant}",
        f"model {model.name} of tenant {tenant}: wrong answers": f"resume --tenant {tenant} --model {model.name}",
        f"webhook {webhook} of tenant {tenant}: it moves": f"webhooks resume {webhook}",
    }.items():
        (finding,) = [one for one in found if one.what == f"paused is {what}"]
        assert finding.do == f"`sluiceway {words}` lets it go on"


async def test_a_database_without_tables(settings: Settings, postgres_server: str) -> None:
    finding = told(await doctor_servers.examine_postgres(changed(settings, database_url=postgres_server)), "no tables")
    assert finding.level == "problem"


async def test_a_database_that_may_lose_what_it_accepted(house: House, settings: Settings) -> None:
    name = await house.value("SELECT current_database()")
    await house.sql(f"ALTER DATABASE {name} SET synchronous_commit = off")
    try:
        told(await doctor_servers.examine_postgres(settings), "synchronous_commit")
    finally:
        await house.sql(f"ALTER DATABASE {name} RESET synchronous_commit")


async def test_a_database_without_a_connection_to_spare(house: House, settings: Settings) -> None:
    role = f"few_{uuid4().hex[:8]}"
    await house.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'few' CONNECTION LIMIT 0")
    address = urlsplit(house.database_url)
    limited = address._replace(netloc=f"{role}:few@{address.netloc.rpartition('@')[2]}").geturl()
    try:
        found = await doctor_servers.examine_postgres(changed(settings, database_url=limited))
        assert "max_connections" in told(found, "cannot be reached").do
    finally:
        await house.sql(f"DROP ROLE {role}")


@pytest.fixture
async def forgetful(house: House) -> AsyncIterator[None]:
    await house.redis.command_many([("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")])
    yield
    await house.redis.command_many([("CONFIG", "SET", "maxmemory-policy", "noeviction")])


async def test_a_redis_whose_memory_is_full(house: House, settings: Settings) -> None:
    await house.redis.command_many([("CONFIG", "SET", "maxmemory", 1)])
    try:
        assert told(await doctor_servers.examine_redis(settings), "its memory is full").level == "problem"
    finally:
        await house.redis.command_many([("CONFIG", "SET", "maxmemory", 0)])


async def test_a_redis_whose_account_may_not_ask(house: House, settings: Settings) -> None:
    await house.redis.command_many(
        [("ACL", "SETUSER", "sw", "on", ">secret", "~sw:*", "&sw:*", "+@all", "-@admin", "-@dangerous")]
    )
    address = urlsplit(settings.redis_url.get_secret_value())
    limited = address._replace(netloc=f"sw:secret@{address.netloc.rpartition('@')[2]}").geturl()
    try:
        found = await doctor_servers.examine_redis(changed(settings, redis_url=limited))
        assert levels(found) == {"ok", "advice"}
        assert "'info'" in told(found, "cannot be seen").what
    finally:
        await house.redis.command_many([("ACL", "DELUSER", "sw")])


async def test_redis_in_order_and_away(settings: Settings) -> None:
    assert levels(await doctor_servers.examine_redis(settings)) == {"ok"}
    away = changed(settings, redis_url=f"redis://127.0.0.1:{free_port()}/0")
    assert told(await doctor_servers.examine_redis(away), "Redis").level == "problem"
    told(await doctor_servers.examine_redis(changed(settings, redis_url="nonsense")), "no address")


async def test_a_redis_that_became_a_replica(house: House, settings: Settings) -> None:
    await house.redis.command_many([("REPLICAOF", "127.0.0.1", free_port())])
    try:
        finding = told(await doctor_servers.examine_redis(settings), "takes no writes")
    finally:
        await house.redis.command_many([("REPLICAOF", "NO", "ONE")])
    assert (finding.level, "read only" in finding.what) == ("problem", True)
    assert "primary" in finding.do


async def test_a_key_that_somebody_made_something_else_of(house: House, settings: Settings) -> None:
    await house.executor()
    spoilt, other = await house.model(tenant=7, name="painter"), await house.model()
    await house.tasks(spoilt)
    await house.tasks(other)
    for key in (keys.gate(spoilt.lane), keys.permits(spoilt.lane), keys.listeners()):
        await house.redis.command_many([("SET", key, "x")])
    try:
        with pytest.raises(GateUnavailable):
            await house.gate.depths([spoilt.lane])
        found = [one for one in await doctor_servers.examine_redis(settings) if one.level == "problem"]
        assert [one.what.partition(",")[0] for one in found] == [
            f"somebody made a string of its key {key}" for key in
            (keys.listeners(), keys.gate(spoilt.lane), keys.permits(spoilt.lane))
        ]  # fmt: skip
        assert "painter of tenant 7 get 503" in found[1].what
        explained = await why_model(house, spoilt)
        assert "sluiceway doctor" in str(explained)
    finally:
        for one in found:
            await house.redis.command_many([tuple(one.do.split())])
    assert levels(await doctor_servers.examine_redis(settings)) == {"ok"}
    assert await house.gate.depths([spoilt.lane]) == [1], "it is filled again from PostgreSQL"


@pytest.mark.usefixtures("forgetful")
async def test_a_redis_that_forgets(settings: Settings) -> None:
    assert "noeviction" in told(await doctor_servers.examine_redis(settings), "allkeys-lru").do


async def test_kafka_away_is_told_with_its_cause(settings: Settings) -> None:
    finding = told(await doctor_servers.examine_kafka(settings), "cannot be reached")
    assert "127.0.0.1" in finding.what
    unreadable = changed(settings, kafka_ca_file="/none.pem", kafka_security="SSL")
    told(await doctor_servers.examine_kafka(unreadable), "SLUICEWAY_KAFKA_CA_FILE")


async def test_topics_of_kafka(
    house: House, settings: Settings, kafka_bootstrap: str, broker_choice: BrokerChoice
) -> None:
    here = changed(settings, kafka_bootstrap=kafka_bootstrap, broker=broker_choice.kind)
    model = await house.model()
    of_model = model_topic(here.topic_prefix, model.id, model.name)
    found = await doctor_servers.examine_kafka(here)
    for topic in (events_topic(here.topic_prefix), dead_topic(here.topic_prefix), of_model):
        assert told(found, topic).level == "advice"
    topics = KafkaTopics(KafkaConnection.of(here), client_id="test", replication=1)
    try:
        good = {events_topic(here.topic_prefix): EVENT_PARTITIONS, dead_topic(here.topic_prefix): 1, of_model: 1}
        await topics.ensure({name: TopicPlan(partitions, 3_600_000) for name, partitions in good.items()})
        assert levels(await doctor_servers.examine_kafka(here)) == {"ok"}
        await house.sql("UPDATE model SET partitions = 3")
        told(await doctor_servers.examine_kafka(here), f"{of_model}: 1 instead of 3")
        other = changed(here, topic_prefix=f"{here.topic_prefix}x")
        await topics.ensure({events_topic(other.topic_prefix): TopicPlan(3, None)})
        told(await doctor_servers.examine_kafka(other), "3 partitions instead")
    finally:
        await topics.close()


async def test_a_migration_that_holds_our_tables_hides_nothing_else(
    house: House, settings: Settings, kafka_bootstrap: str, broker_choice: BrokerChoice
) -> None:
    here = changed(settings, kafka_bootstrap=kafka_bootstrap, broker=broker_choice.kind)
    migration = await asyncpg.connect(house.database_url)
    try:
        async with migration.transaction():
            await migration.execute("LOCK TABLE model IN ACCESS EXCLUSIVE MODE")
            kafka, found = await asyncio.gather(
                doctor_servers.examine_kafka(here), doctor_servers.examine_postgres(here)
            )
    finally:
        await migration.close()
    assert kafka[0].what.startswith("Kafka answers")
    assert "pg_locks" in told(found, "TimeoutError").do
    assert any("answers" in one.what for one in found if one.level == "ok"), "the server itself was looked at"


async def test_a_transaction_whose_age_our_user_may_not_see_is_told_of(house: House, settings: Settings) -> None:
    user = f"doctor{uuid4().hex[:8]}"
    await house.sql(f"CREATE ROLE {user} LOGIN PASSWORD 'well-kept-1'")
    address = urlsplit(house.database_url)
    theirs = address._replace(netloc=f"{user}:well-kept-1@{address.hostname}:{address.port}").geturl()
    somebody = await asyncpg.connect(house.database_url)
    try:
        await somebody.execute("BEGIN; INSERT INTO tenant (id) VALUES (4711)")
        finding = told(await doctor_servers.examine_postgres(changed(settings, database_url=theirs)), "since when")
        assert (finding.level, finding.do) == ("advice", f'GRANT pg_read_all_stats TO "{user}"')
        assert str(somebody.get_server_pid()) in finding.what
        await house.sql(f"GRANT pg_read_all_stats TO {user}")
        for url in (theirs, house.database_url):
            found = await doctor_servers.examine_postgres(changed(settings, database_url=url))
            assert not [one for one in found if "since when" in one.what]
    finally:
        await somebody.close()
        await house.sql(f"DROP ROLE {user}")


async def test_settings_secrets_and_places(settings: Settings, tmp_path: Path) -> None:
    fine = {"SLUICEWAY_TOPIC_PREFIX": "x", "HOME": "/"}
    assert levels(await doctor_places.examine_settings(settings, fine)) == {"ok"}
    told(await doctor_places.examine_settings(settings, {"SLUICEWAY_TOPIC_PREFIXX": "x"}), "SLUICEWAY_TOPIC_PREFIXX")
    told(await doctor_places.examine_settings(changed(settings, storage_url=""), {}), "no place")
    told(await doctor_places.examine_settings(changed(settings, failpoints="x"), {}), "on purpose")

    assert levels(await doctor_places.examine_secrets(settings)) == {"ok"}
    assert "secrets new" in told(await doctor_places.examine_secrets(changed(settings, secret_keys="")), "empty").do

    assert levels(await doctor_places.examine_storage(settings)) == {"ok"}
    assert [path for path in (tmp_path / "objects").rglob("*") if path.is_file()] == []
    (tmp_path / "file").write_text("")
    blocked = (tmp_path / "file").as_uri()
    assert levels(await doctor_places.examine_storage(changed(settings, storage_url=blocked))) == {"problem"}
    assert levels(await doctor_places.examine_storage(changed(settings, storage_url="ftp://x"))) == {"problem"}
    nobody = changed(settings, oss_url=f"http://127.0.0.1:{free_port()}")
    told(await doctor_places.examine_storage(nobody), "file service")
    told(await doctor_places.examine_storage(changed(settings, oss_url="ftp://x")), "SLUICEWAY_OSS_URL")

    assert "problem" not in levels(await doctor_places.examine_staging(settings))
    blocked = str(tmp_path / "file" / "staging")
    told(await doctor_places.examine_staging(changed(settings, staging_dir=blocked)), "nothing can be written")


async def test_a_ring_that_does_not_open_what_is_stored(house: House, settings: Settings) -> None:
    sealing, model = KeyRing(KEYS), await house.model()
    (task,) = await house.tasks(model)
    (public_id,) = await house.public([task])
    await house.sql("UPDATE model SET bindings = $1", sealing.seal(b"X-Key:1", f"tenant:{model.tenant_id}"))
    await house.sql("INSERT INTO task_secret VALUES ($1, $2)", task, sealing.seal(b"{}", f"task:{public_id}"))
    hook = "INSERT INTO webhook (tenant_id, kind, url, secrets) VALUES ($1, 'endpoint', 'http://h', $2)"
    await house.sql(hook, model.tenant_id, sealing.seal(b"s", f"webhook:{model.tenant_id}"))
    assert levels(await doctor_places.examine_secrets(settings)) == {"ok"}

    other = base64.b64encode(b"o" * 32).decode()
    lost = told(await doctor_places.examine_secrets(changed(settings, secret_keys=f"n:{other}")), "no key 't'")
    assert lost.level == "problem"
    assert (
        "of the newest 20 of each place 1 in model.bindings, 1 in task_secret.sealed, 1 in webhook.secrets" in lost.what
    )
    assert "put 't' back at the end of the ring" in lost.do
    same_id = told(await doctor_places.examine_secrets(changed(settings, secret_keys=f"t:{other}")), "another key")
    assert (same_id.level, "X-Key" in same_id.what) == ("problem", False)
    both = changed(settings, secret_keys=f"n:{other},{KEYS}")
    assert levels(await doctor_places.examine_secrets(both)) == {"ok"}

    await house.sql("UPDATE model SET deleted_at = now()")
    await house.sql("UPDATE webhook SET deleted_at = now()")
    await house.sql("DELETE FROM task_secret")
    only = changed(settings, secret_keys=f"n:{other}")
    assert levels(await doctor_places.examine_secrets(only)) == {"ok"}, "nobody uses what is left"


async def test_values_that_cannot_be_looked_at_are_no_defect(house: House, settings: Settings) -> None:
    away = changed(settings, database_url=f"postgresql://x:secret@127.0.0.1:{free_port()}/y")
    assert told(await doctor_places.examine_secrets(away), "not looked at").level == "advice"
    migration = await asyncpg.connect(house.database_url)
    try:
        async with migration.transaction():
            await migration.execute("LOCK TABLE model IN ACCESS EXCLUSIVE MODE")
            told(await doctor_places.examine_secrets(settings), "not looked at")
    finally:
        await migration.close()


async def test_a_full_disk_is_seen_before_it_is_full(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    class Disk:
        total, free = 100 * 2**30, 2 * 2**30

    monkeypatch.setattr("shutil.disk_usage", lambda _: Disk)
    assert told(await doctor_places.examine_staging(settings), "left of").level == "problem"
    Disk.free = 8 * 2**30
    assert told(await doctor_places.examine_staging(settings), "promises more").level == "advice"


async def test_an_examination_that_fails_hides_no_other() -> None:
    async def breaks() -> list[Finding]:
        raise RuntimeError("no idea")

    async def works() -> list[Finding]:
        return [Finding("ok", "fine")]

    diagnosis = await examine({"a": breaks, "b": works})
    assert not diagnosis.healthy
    assert "no idea" in diagnosis.as_dict()["problems"][0]["what"]
    assert diagnosis.as_dict()["ok"] == [{"check": "b", "what": "fine"}]
    assert Diagnosis({"b": [Finding("advice", "x", "y")]}).healthy


async def test_the_command(settings: Settings, kafka_bootstrap: str, broker_choice: BrokerChoice) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLUICEWAY_")} | {
        "SLUICEWAY_DATABASE_URL": settings.database_url.get_secret_value(),
        "SLUICEWAY_REDIS_URL": settings.redis_url.get_secret_value(),
        "SLUICEWAY_KAFKA_BOOTSTRAP": kafka_bootstrap,
        "SLUICEWAY_BROKER": broker_choice.kind,
        "SLUICEWAY_STORAGE_URL": settings.storage_url,
        "SLUICEWAY_STAGING_DIR": settings.staging_dir,
        "SLUICEWAY_SECRET_KEYS": KEYS,
    }
    code, out = await command(environment, "--json")
    diagnosis = json.loads(out)
    assert (code, diagnosis["healthy"], diagnosis["problems"]) == (0, True, [])
    assert {entry["check"] for entry in diagnosis["ok"]} == {
        "settings", "secrets", "adapters", "postgres", "redis", "kafka", "storage", "staging"
    }  # fmt: skip
    unknown = {"SLUICEWAY_TYPO": "1", "SLUICEWAY_\x1b[2J": ""}
    code, out = await command(environment | {"SLUICEWAY_SECRET_KEYS": ""} | unknown)
    assert code == 1
    assert "\x1b" not in out
    assert "PROBLEM settings  SLUICEWAY_TYPO" in out
    assert "PROBLEM secrets" in out
    code, out = await command(environment | {"SLUICEWAY_EXECUTOR_SLOTS": "many"}, "--json")
    assert code == 1
    assert "SLUICEWAY_EXECUTOR_SLOTS" in json.loads(out)["problems"][0]["what"]


async def command(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli", "doctor", *arguments, env=environment, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert_as_promised(("doctor", *arguments), out)
    return process.returncode or 0, out.decode()
