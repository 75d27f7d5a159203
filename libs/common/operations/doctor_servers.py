"""How the doctor examines PostgreSQL, Redis and Kafka."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError
from sqlalchemy.exc import SQLAlchemyError

from libs.common.adapters.kafka.connection import KafkaConnection
from libs.common.adapters.kafka.topics import existing_topics
from libs.common.adapters.postgres import migrate, way_in
from libs.common.adapters.postgres.failures import UNREACHABLE
from libs.common.adapters.postgres.statements import load_statements
from libs.common.adapters.redis import keys
from libs.common.adapters.redis.connection import RedisServer, open_redis
from libs.common.contracts.topics import EVENT_PARTITIONS, dead_topic, events_topic, model_topic
from libs.common.domain.errors import BrokerUnavailable, GateUnavailable, WrongSetting
from libs.common.operations.doctor import Finding, advice, fine, problem
from libs.common.settings import Settings

_POSTGRES_VERSION: Final = 15
_REDIS_VERSION: Final = (7, 0)
_SKEW_SECONDS: Final = 5.0
_TRANSACTION_SECONDS: Final = 600.0
_IDLE_SECONDS: Final = 60.0  #: ours are ended after 30
_SECONDS: Final = 5.0
_COPIES: Final = 2
_CONFIGS_AT_ONCE: Final = 100
_PAUSES_TOLD: Final = 5
#: What each key of a lane is, where it is there.
_KINDS: Final = ((keys.gate, "zset"), (keys.permits, "zset"), (keys.lock, "string"))
_KEYS_AT_ONCE: Final = 1_000
_STATEMENTS: Final = load_statements()
#: A broker that is away, or does not know the question, as Tansu.
_UNANSWERED: Final = (KafkaError, OSError, TimeoutError, AttributeError, NotImplementedError)
_LET_THEM: Final = (
    "let the dispatchers' user create topics and write to them, make them by hand (`sluiceway topics` names them), or"
    " set SLUICEWAY_TOPIC_REPLICATION to what the brokers can keep"
)


async def examine_postgres(settings: Settings) -> list[Finding]:
    """Reachable, writable, new enough, with this version's tables, and with a clock like ours."""
    url = settings.database_url.get_secret_value()
    try:
        connection = await asyncpg.connect(url, timeout=_SECONDS, command_timeout=_SECONDS)
    except (*UNREACHABLE, asyncpg.PostgresError, ValueError) as error:
        do = "check SLUICEWAY_DATABASE_URL, and that the server runs and takes connections"
        if isinstance(error, asyncpg.TooManyConnectionsError):
            do = "raise max_connections (or the role's limit): docs/operations.md says how many processes open"
        return [problem(f"cannot be reached: {_plain(error)}", do)]
    found: list[Finding] = []
    try:
        if await way_in.shares_sessions(connection, url, timeout=_SECONDS, command_timeout=_SECONDS):
            return [problem(way_in.WHAT, way_in.DO)]
        found += await _server(connection)
        found += await _zone(connection, settings.timezone)
        found += await _tables(connection, url)
    except (*UNREACHABLE, asyncpg.PostgresError, SQLAlchemyError) as error:
        what = f"it does not answer what it is asked: {_plain(error)}"
        do = "look in pg_locks for who holds our tables (a migration?), and at the rights of its user"
        found.append(problem(what, do))
    finally:
        await _hang_up(connection)
    return found


async def _hang_up(connection: Any) -> None:
    with suppress(*UNREACHABLE, asyncpg.PostgresError):
        await connection.close(timeout=_SECONDS)


async def _server(connection: Any) -> list[Finding]:
    began = time.time()
    row = await connection.fetchrow(_STATEMENTS["doctor_server"])
    skew = row["now"] - (began + time.time()) / 2
    found = [fine(f"PostgreSQL {row['version']} answers")]
    if row["major"] < _POSTGRES_VERSION:
        found.append(problem(f"version {row['version']} is too old", f"upgrade to {_POSTGRES_VERSION} or newer"))
    if row["standby"]:
        found.append(problem("it is a standby and takes no writes", "point SLUICEWAY_DATABASE_URL at the primary"))
    if row["durable"] == "off":
        found.append(problem("synchronous_commit is off: accepted tasks may vanish in a crash", "set it to on"))
    if row["autovacuum"] == "off":
        found.append(problem("autovacuum is off: the queue's tables will grow for ever", "set autovacuum to on"))
    if abs(skew) > _SKEW_SECONDS:
        found.append(advice(f"its clock is {skew:+.0f} s from this machine's", "let both follow a time server"))
    return found + await _forgotten(connection)


async def _forgotten(connection: Any) -> list[Finding]:
    """Transactions that hold up tasks, or vacuum."""
    found = []
    open_ = await connection.fetchrow(_STATEMENTS["doctor_transaction"], _TRANSACTION_SECONDS, _IDLE_SECONDS)
    if open_ is not None:
        what = f"a transaction ({_whose(open_)}) has been open for {open_['seconds']:.0f} s"
        do = f"SELECT pg_terminate_backend({open_['pid']}): tasks whose rows it locks wait, and vacuum, too"
        found.append(advice(what, do))
    unseen = await connection.fetchrow(_STATEMENTS["doctor_unseen"])
    if unseen is not None:
        what = f"since when a transaction ({_whose(unseen)}) is open cannot be seen: it may be a forgotten one"
        found.append(advice(what, f'GRANT pg_read_all_stats TO "{unseen["me"]}"'))
    return found


def _whose(transaction: Any) -> str:
    client = transaction["client"] or "a client without a name"
    return f"{transaction['user']}, {client}, process {transaction['pid']}"


async def _zone(connection: Any, name: str) -> list[Finding]:
    try:
        await connection.fetchval(_STATEMENTS["zone_known"], name)
    except asyncpg.InvalidParameterValueError:
        do = "set SLUICEWAY_TIMEZONE to a name that its pg_timezone_names has, or renew its time zone data"
        return [problem(f"it does not know the time zone {name!r}: no task starts", do)]
    return []


async def _tables(connection: Any, url: str) -> list[Finding]:
    there, wanted = await migrate.revisions(url)
    if not there:
        return [problem("it has no tables of ours", "run `sluiceway migrate`")]
    if not migrate.knows(there):
        what = f"its tables are at revision {there}, which this version does not know (it wants {wanted})"
        return [problem(what, "run the version that made them, or restore a backup from before")]
    if there != wanted:
        return [problem(f"its tables are at revision {there}, this version wants {wanted}", "run `sluiceway migrate`")]
    executors = await connection.fetchrow(_STATEMENTS["doctor_executors"])
    found = [fine(f"the tables are at revision {there}")]
    if not executors["alive"]:
        found.append(advice("no executor is alive: tasks are accepted, but none runs", "start `sluiceway executor`"))
    else:
        found += [] if executors["reading"] else [_nobody_reads(executors["postures"])]
        found += [_missing_adapter(row) for row in await connection.fetch(_STATEMENTS["doctor_adapters"])]
    found += _processes(await connection.fetchrow(_STATEMENTS["doctor_processes"]))
    return found + [_paused(row) for row in (await connection.fetch(_STATEMENTS["open_pauses"], None))[:_PAUSES_TOLD]]


def _nobody_reads(postures: Sequence[str]) -> Finding:
    what = f"no executor takes new work: those that are alive are {', '.join(postures).replace('_', ' ')}"
    return advice(what, "`sluiceway executor list` shows them, `sluiceway why` says what that means for a model")


def _missing_adapter(row: Any) -> Finding:
    concerned = f"models that name it: {row['models']}, jobs that wait to be ended by it: {row['jobs']}"
    what = f"no executor that is alive has the adapter {row['adapter']!r} ({concerned})"
    return advice(what, "install its package beside the executors, and restart them")


def _paused(row: Any) -> Finding:
    """What an operator holds, and the words that let it go on: a name that its tenant chose is quoted for a shell."""
    tenant, model = f"tenant {row['tenant_id']}", shlex.quote(row["model"] or "")
    what, words = {
        "all": ("all dispatching", "resume --all"),
        "tenant": (tenant, f"resume --tenant {row['tenant_id']}"),
        "model": (f"model {row['model']} of {tenant}", f"resume --tenant {row['tenant_id']} --model {model}"),
        "webhook": (f"webhook {row['webhook_id']} of {tenant}", f"webhooks resume {row['webhook_id']}"),
    }[row["scope"]]
    reason = f": {row['reason']}" if row["reason"] else ""
    return advice(f"paused is {what}{reason}", f"`sluiceway {words}` lets it go on")


def _processes(seen: Any) -> list[Finding]:
    """Who lives, and what the broker takes from them."""
    found = []
    if not seen["dispatchers"]:
        what = "no dispatcher is alive: tasks are accepted, but none is published"
        found.append(advice(what, "start `sluiceway dispatcher`"))
    elif seen["reachable"] is False:
        what = f"no dispatcher reaches the broker: {seen['last_error'] or 'it does not answer'}"
        found.append(problem(what, "check SLUICEWAY_KAFKA_BOOTSTRAP as the dispatchers have it, and the broker"))
    found += _refused(seen)
    if not seen["janitors"]:
        what = "no janitor is alive: nothing is retried, rescued or cleaned"
        found.append(advice(what, "start `sluiceway janitor`"))
    if len(seen["versions"]) > 1:
        what = f"processes of several versions are alive: {', '.join(seen['versions'])}"
        found.append(advice(what, "finish the upgrade: restart those of older versions"))
    return found


def _refused(seen: Any) -> list[Finding]:
    """What a broker that answers refuses to take from the dispatchers: it waits, and does not die."""
    found = []
    if seen["events_refused"]:
        what = f"the broker refuses the topic of events: {seen['events_refused']}"
        found.append(problem(what, f"until it takes it, no event and no webhook leaves: {_LET_THEM}"))
    if seen["refused_models"]:
        what = f"models whose topics the broker refuses: {seen['refused_models']}, for example {seen['refused_model']}"
        found.append(problem(what, f"until it takes them, their tasks wait: {_LET_THEM}"))
    return found


async def examine_redis(settings: Settings) -> list[Finding]:
    """Reachable, new enough, and never forgetting a slot that is taken."""
    try:
        return await _redis(settings)
    except ValueError as error:
        return [problem(f"SLUICEWAY_REDIS_URL is no address: {error}", "write redis://host:port/number")]


async def _redis(settings: Settings) -> list[Finding]:
    async with open_redis(settings.redis_url.get_secret_value(), seconds=_SECONDS) as redis:
        refusal = await _refusal_of(redis)
        try:
            (server, memory) = await redis.command_many([("INFO", "server"), ("INFO", "memory")])
        except GateUnavailable as error:
            if refusal is None:
                do = "let its account run INFO, or see that maxmemory-policy is noeviction"
                unseen = advice(f"whether it ever forgets cannot be seen: {error}", do)
                return [fine("Redis takes writes"), unseen, *await _other_kinds(settings, redis)]
            do = "check SLUICEWAY_REDIS_URL, and that the server runs; creates get 503 without it"
            return [problem(str(error), do)]
        spoilt = await _other_kinds(settings, redis)
    facts = _facts(server) | _facts(memory)
    name = f"Valkey {facts['valkey_version']}" if "valkey_version" in facts else f"Redis {facts['redis_version']}"
    found = [fine(f"{name} answers")]
    if tuple(int(part) for part in facts["redis_version"].split(".")[:2]) < _REDIS_VERSION:
        found.append(problem(f"{name} is too old", "upgrade to Redis 7 or Valkey"))
    policy = facts.get("maxmemory_policy", "unknown")
    if policy != "noeviction":
        what = f"maxmemory-policy is {policy}: it may forget slots and permits that are taken"
        found.append(problem(what, "set maxmemory-policy to noeviction"))
    used, limit = int(facts.get("used_memory", 0)), int(facts.get("maxmemory", 0))
    full = 0 < limit <= used
    if full:
        found.append(problem(f"its memory is full ({used} of {limit} bytes): creates get 503", "raise maxmemory"))
    elif limit and used > 0.8 * limit:
        found.append(advice(f"{used} of {limit} bytes are used; when it is full creates get 503", "raise maxmemory"))
    if refusal is not None and not full:
        what = f"it takes no writes, so creates get 503: {refusal}"
        found.append(problem(what, "point SLUICEWAY_REDIS_URL at the primary, or mend what it names"))
    return found + spoilt


async def _refusal_of(redis: RedisServer) -> GateUnavailable | None:
    """Why it takes no writes, like a replica, which still answers questions; None when it takes them."""
    try:
        await redis.ping()
    except GateUnavailable as refusal:
        return refusal
    return None


async def _other_kinds(settings: Settings, redis: RedisServer) -> list[Finding]:
    """Keys of ours that somebody made something else of: for what they are about Redis refuses each answer."""
    whose: dict[str, tuple[str, str, str]] = {
        keys.listeners(): ("zset", "streams are told late", f"DEL {keys.listeners()}")
    }
    for row in await _models(settings):
        costs = f"creates of model {row['name']} of tenant {row['tenant_id']} get 503, and none of its tasks starts"
        for key, kind in _KINDS:
            # Without its mark the lane is not taken for empty, and filled again from PostgreSQL before it is used.
            whose[key(row["lane"])] = (kind, costs, f"DEL {key(row['lane'])} {keys.known(row['lane'])}")
    found, names = [], list(whose)
    with suppress(GateUnavailable):  # which is a finding of its own
        for start in range(0, len(names), _KEYS_AT_ONCE):
            page = names[start : start + _KEYS_AT_ONCE]
            for name, answer in zip(page, await redis.command_many([("TYPE", name) for name in page]), strict=True):
                kind, costs, do = whose[name]
                if (is_ := answer.decode()) not in (kind, "none"):
                    found.append(problem(f"somebody made a {is_} of its key {name}, a {kind}: {costs}", do))
    return found


async def examine_kafka(settings: Settings) -> list[Finding]:
    """Reachable, with the topics of events and models as they must be."""
    try:
        connection = KafkaConnection.of(settings)
    except WrongSetting as wrong:
        return [problem(str(wrong), "check its path and its rights")]
    try:
        cause = await connection.diagnose()
    except ValueError as error:
        cause = f"SLUICEWAY_KAFKA_BOOTSTRAP is no list of host:port ({error})"
    if cause:
        do = "check SLUICEWAY_KAFKA_BOOTSTRAP, _SECURITY, user and CA; until it is back tasks are accepted and wait"
        return [problem(f"cannot be reached: {cause}", do)]
    try:
        existing = await existing_topics(connection, client_id="sluiceway-doctor")
    except BrokerUnavailable as error:
        return [problem(f"does not list its topics: {error}", "check the rights of SLUICEWAY_KAFKA_USERNAME")]
    models = {
        model_topic(settings.topic_prefix, row["id"], row["name"]): row["partitions"] for row in await _models(settings)
    }
    found = [
        fine(f"Kafka answers and has {len(existing)} topics"),
        *_topics_of_all(settings.topic_prefix, existing),
        *_missing(models, existing),
    ]
    ours = [events_topic(settings.topic_prefix), *models]
    found += await _copies(connection, [name for name in ours if name in existing])
    return found + await _settings_of(connection, [name for name in models if name in existing])


def _topics_of_all(prefix: str, existing: Mapping[str, int]) -> list[Finding]:
    events = events_topic(prefix)
    do = "a running dispatcher makes it; its log says what keeps it"
    found = [advice(f"topic {name} is missing", do) for name in (events, dead_topic(prefix)) if name not in existing]
    if existing.get(events, EVENT_PARTITIONS) != EVENT_PARTITIONS:
        what = f"topic {events} has {existing[events]} partitions instead of {EVENT_PARTITIONS}"
        found.append(advice(what, "consumers may see a task's events out of order: make it anew while nothing runs"))
    return found


def _missing(models: Mapping[str, int], existing: Mapping[str, int]) -> list[Finding]:
    do = "a running dispatcher makes them; its log says what keeps it"
    missing = [name for name in models if name not in existing]
    found = [advice(f"{len(missing)} topics of models are missing, for example {missing[0]}", do)] if missing else []
    few = [name for name, wanted in models.items() if existing.get(name, wanted) < wanted]
    if few:
        example = f"{few[0]}: {existing[few[0]]} instead of {models[few[0]]}"
        found.append(advice(f"{len(few)} topics of models have too few partitions, for example {example}", do))
    return found


async def _copies(connection: KafkaConnection, topics: Sequence[str]) -> list[Finding]:
    """Where there are several brokers, the loss of one of them should stop no topic."""
    admin = AIOKafkaAdminClient(**connection.arguments(), client_id="sluiceway-doctor")
    try:
        await admin.start()
        brokers = len((await admin.describe_cluster())["brokers"])
        described = await admin.describe_topics(list(topics)) if topics and brokers > 1 else []
    except _UNANSWERED:
        return []
    finally:
        await admin.close()
    alone = [
        topic["topic"]
        for topic in described
        if any(len(partition["replicas"]) < _COPIES for partition in topic["partitions"])
    ]
    if not alone:
        return []
    what = f"{len(alone)} topics lie on one of {brokers} brokers alone, for example {alone[0]}"
    do = "set SLUICEWAY_TOPIC_REPLICATION (3) for new ones, and reassign these with kafka-reassign-partitions"
    return [advice(what, do)]


async def _settings_of(connection: KafkaConnection, topics: Sequence[str]) -> list[Finding]:
    """Readers start by the records' own times: a topic that stamps them anew lets messages be missed."""
    stamped = []
    for start in range(0, len(topics), _CONFIGS_AT_ONCE):
        with suppress(*_UNANSWERED):
            stamped += await _stamped(connection, topics[start : start + _CONFIGS_AT_ONCE])
    if not stamped:
        return []
    what = f"topic {stamped[0]} stamps records with the broker's time"
    return [problem(what, "set message.timestamp.type=CreateTime on the topics of models")]


async def _stamped(connection: KafkaConnection, topics: Sequence[str]) -> list[str]:
    admin = AIOKafkaAdminClient(**connection.arguments(), client_id="sluiceway-doctor")
    await admin.start()
    try:
        wanted = [ConfigResource(ConfigResourceType.TOPIC, name, {"message.timestamp.type": None}) for name in topics]
        answers = await admin.describe_configs(wanted)
    finally:
        await admin.close()
    return [
        name
        for answer in answers
        for _, _, _, name, entries in answer.resources
        if any(entry[0] == "message.timestamp.type" and entry[1] != "CreateTime" for entry in entries)
    ]


async def _models(settings: Settings) -> Sequence[Any]:
    """The models that there are; none while the database cannot say, which is a finding of its own."""
    url = settings.database_url.get_secret_value()
    try:
        connection = await asyncpg.connect(url, timeout=_SECONDS, command_timeout=_SECONDS)
        try:
            rows: Sequence[Any] = await connection.fetch(_STATEMENTS["doctor_models"])
        finally:
            await _hang_up(connection)
    except (*UNREACHABLE, asyncpg.PostgresError, ValueError):
        return ()
    return rows


def _facts(answer: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in answer.decode().splitlines() if ":" in line)
    return {name: value for name, _, value in lines}


def _plain(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ").partition("\n")[0][:300]
