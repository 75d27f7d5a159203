"""Topics of Kafka: made before they are used."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Mapping
from typing import Any, Final, TypeVar

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.errors import InvalidPartitionsError, KafkaError, TopicAlreadyExistsError, for_code

from libs.common.adapters.kafka.connection import KafkaConnection
from libs.common.domain.errors import BrokerUnavailable
from libs.common.ports_dispatch import TopicPlan
from libs.common.runtime.logging import get_logger

log = get_logger()

Result = TypeVar("Result")

_OPEN_SECONDS: Final = 5.0
#: aiokafka waits so long for the controller that it knew, which may be the broker that died. A hundred topics take less
#: than one second; those that do come later are found by the next look.
_REQUEST_SECONDS: Final = 5.0
_LEADER_SECONDS: Final = 2.0
_LEADER_PAUSE: Final = 0.02
#: What is said of a topic that can be made, as far as the broker tells, and cannot be used.
_NOT_LED: Final = "a partition of it has no leader"
#: Tansu takes any name, so the rules are checked here.
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")


async def existing_topics(connection: KafkaConnection, *, client_id: str) -> dict[str, int]:
    """All topics and their partitions, for who only looks. Raises BrokerUnavailable."""
    topics = KafkaTopics(connection, client_id=client_id, replication=1)
    try:
        return await topics.existing()
    finally:
        await topics.close()


class KafkaTopics:
    """Implements ports_dispatch.Topics. At most a hundred topics a call: leaders of more come slowly."""

    def __init__(self, connection: KafkaConnection, *, client_id: str, replication: int) -> None:
        self._connection = connection
        self._client_id = client_id
        self._replication = replication
        self._admin: AIOKafkaAdminClient | None = None
        self._asking = asyncio.Lock()
        self._refused: dict[str, str] = {}

    @property
    def refused(self) -> Mapping[str, str]:
        return self._refused

    async def ensure(self, plans: Mapping[str, TopicPlan]) -> dict[str, int]:
        valid = {name: plan for name, plan in plans.items() if _is_valid(name)}
        self._refused = dict.fromkeys(plans.keys() - valid.keys(), "not a valid topic name")
        if not valid:
            return {}
        async with self._asking:
            admin = await self._open()
            there, causes = await self._ask(self._create(admin, valid))
            # A topic that we may not make may still be there, made by an operator. Such ones are not waited for, lest
            # topics that are refused hold up those that are not.
            led = await self._ask(self._await_leaders(admin, dict.fromkeys(valid, 0) | dict.fromkeys(there, 1)))
            self._refused |= {name: causes.get(name, _NOT_LED) for name in valid.keys() - led.keys()}
            few = {name: valid[name].partitions for name, count in led.items() if count < valid[name].partitions}
            return led | (await self._ask(self._grow(admin, few)) if few else {})

    async def existing(self) -> dict[str, int]:
        async with self._asking:
            admin = await self._open()
            topics = await self._ask(admin.describe_topics())
        return {topic["topic"]: len(topic["partitions"]) for topic in topics}

    async def close(self) -> None:
        """Let go of the connection."""
        admin, self._admin = self._admin, None
        if admin is not None:
            await admin.close()

    async def _create(
        self, admin: AIOKafkaAdminClient, plans: Mapping[str, TopicPlan]
    ) -> tuple[list[str], dict[str, str]]:
        """Returns those that exist afterwards, as far as the broker's answer tells, and why it makes none of others."""
        new = [
            NewTopic(name, plan.partitions, self._replication, topic_configs=_config(plan))
            for name, plan in plans.items()
        ]
        answer = await admin.create_topics(new)
        there, causes = [], {}
        for name, code, *rest in answer.topic_errors:
            if code in (0, TopicAlreadyExistsError.errno):
                there.append(name)
            else:
                causes[name] = f"{for_code(code).__name__}: {(rest[0] if rest else '') or ''}".rstrip(": ")
        return there, causes

    async def _await_leaders(self, admin: AIOKafkaAdminClient, wanted: Mapping[str, int]) -> dict[str, int]:
        """Wait a little for so many partitions of each with leaders: they show some time after they were made."""
        deadline = asyncio.get_running_loop().time() + _LEADER_SECONDS
        while True:
            led = await _look(admin, list(wanted))
            enough = all(led.get(name, 0) >= count for name, count in wanted.items())
            if enough or asyncio.get_running_loop().time() > deadline:
                return led
            await asyncio.sleep(_LEADER_PAUSE)

    async def _grow(self, admin: AIOKafkaAdminClient, wanted: Mapping[str, int]) -> dict[str, int]:
        """Add partitions one topic at a time: the call raises for all when one is refused. Tansu knows no such call."""
        grown = dict.fromkeys(wanted, 1)
        for name, partitions in wanted.items():
            try:
                await admin.create_partitions({name: NewPartitions(partitions)})
                grown[name] = partitions
            except InvalidPartitionsError:
                grown[name] = partitions  # another dispatcher was quicker
            except (KafkaError, OSError) as error:
                log.warning("kafka.topic_not_grown", topic=name, partitions=partitions, cause=type(error).__name__)
        return await self._await_leaders(await self._open(), grown)

    async def _open(self) -> AIOKafkaAdminClient:
        if self._admin is not None:
            return self._admin
        admin = AIOKafkaAdminClient(
            **self._connection.arguments(),
            client_id=self._client_id,
            request_timeout_ms=int(_REQUEST_SECONDS * 1000),
            retry_backoff_ms=100,
        )
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                await admin.start()
        except (KafkaError, OSError, TimeoutError) as error:
            await admin.close()
            raise BrokerUnavailable(await self._connection.diagnose() or str(error)) from error
        except BaseException:
            await admin.close()
            raise
        self._admin = admin
        return admin

    async def _ask(self, question: Awaitable[Result]) -> Result:
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                return await question
        except (KafkaError, OSError, TimeoutError, AttributeError) as error:
            # AttributeError: aiokafka's admin client takes a missing controller for one.
            await self.close()
            raise BrokerUnavailable(f"{type(error).__name__}: {error}") from error


def _is_valid(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and name not in (".", "..")


def _config(plan: TopicPlan) -> dict[str, str]:
    if plan.retention_ms is None:
        return {}
    # The record's time is the row's, by the database's clock: readers start by it.
    return {"retention.ms": str(plan.retention_ms), "message.timestamp.type": "CreateTime"}


async def _look(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, int]:
    """Partitions of those that have leaders."""
    topics: list[dict[str, Any]] = await admin.describe_topics(names)
    return {
        topic["topic"]: len(topic["partitions"])
        for topic in topics
        if topic["error_code"] == 0
        and topic["partitions"]
        and all(partition["leader"] >= 0 for partition in topic["partitions"])
    }
