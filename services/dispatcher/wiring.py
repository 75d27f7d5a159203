"""What the dispatcher is made of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from random import Random

from libs.common.adapters.egress import EgressGuard
from libs.common.adapters.kafka.carrier import KafkaCarrier
from libs.common.adapters.kafka.connection import KafkaConnection, quiet_clients
from libs.common.adapters.kafka.topics import KafkaTopics
from libs.common.adapters.postgres.control import PostgresPresence
from libs.common.adapters.postgres.database import open_database
from libs.common.adapters.postgres.deliveries import PostgresDeliveries
from libs.common.adapters.postgres.dispatch_queue import PostgresDispatchQueue, PostgresEvents
from libs.common.adapters.postgres.failures import is_data_error
from libs.common.adapters.postgres.replay import PostgresDeadLetters, PostgresReplayWork
from libs.common.adapters.postgres.sweeps import PostgresOpenTasks
from libs.common.adapters.redis.connection import open_redis
from libs.common.adapters.redis.hints import open_hints
from libs.common.adapters.redis.queue_gate import RedisQueueGate
from libs.common.adapters.redis.rebuild import open_rebuilder
from libs.common.adapters.secrets import KeyRing
from libs.common.adapters.webhook_post import open_webhook_post
from libs.common.contracts.topics import dead_topic, events_topic
from libs.common.domain.errors import BrokerUnavailable
from libs.common.operations.dead_letters import DeadLetters
from libs.common.operations.presence import SignOfLife
from libs.common.operations.replay_run import MessageReplays, ReplayRunner
from libs.common.operations.wake import Wake
from libs.common.ports_dead import DeadKind
from libs.common.ports_dispatch import Carrier, TopicPlan
from libs.common.ports_insight import Broker
from libs.common.ports_secrets import KeyMissing
from libs.common.runtime.health import Health
from libs.common.runtime.periodic import Periodic
from libs.common.settings import Settings
from services.dispatcher.dispatcher import Dispatcher
from services.dispatcher.event_relay import EventRelay
from services.dispatcher.lanes import LaneBook
from services.dispatcher.publisher import Publisher
from services.dispatcher.relay import Relay
from services.dispatcher.roads import Roads
from services.dispatcher.topic_keeper import TopicKeeper
from services.dispatcher.webhooks import Opener, WebhookSender


@asynccontextmanager
async def open_dispatcher(settings: Settings, health: Health) -> AsyncIterator[Dispatcher]:
    """A dispatcher over real servers. None of them need be there yet: each is waited for."""
    async with (
        open_database(settings.database_url.get_secret_value()) as database,
        open_redis(settings.redis_url.get_secret_value()) as redis,
        open_rebuilder(redis, PostgresOpenTasks(database)) as rebuilder,
        open_hints(redis) as hints,
        open_webhook_post(EgressGuard.from_setting(settings.egress_allow)) as poster,
        AsyncExitStack() as closing,
    ):
        queue, events = PostgresDispatchQueue(database), PostgresEvents(database)
        closing.push_async_callback(events.close)
        quiet_clients()
        connection = KafkaConnection.of(settings)
        carrier = KafkaCarrier(connection, client_id="sluiceway-dispatcher")
        closing.push_async_callback(carrier.close)
        # A connection of its own: events and messages never wait for each other's answers.
        event_carrier = KafkaCarrier(connection, client_id="sluiceway-events")
        closing.push_async_callback(event_carrier.close)
        topics = KafkaTopics(connection, client_id="sluiceway-topics", replication=settings.topic_replication)
        closing.push_async_callback(topics.close)

        rng, book, prefix = Random(), LaneBook(), settings.topic_prefix  # noqa: S311 - spreads retries
        keeper = TopicKeeper(topics, rng)
        roads = Roads(queue, book, keeper, topic_prefix=prefix)
        publisher = Publisher(queue, carrier, RedisQueueGate(redis, rebuilder), hints, roads, rng)
        relay = Relay(queue, carrier, publisher, book, roads, rng)
        event_relay = EventRelay(
            events,
            event_carrier,
            keeper,
            topic=events_topic(prefix),
            source=settings.event_source,
            rng=rng,
            public_url=settings.public_url,
            delivered=Wake(hints).deliveries,
        )
        replay_work = PostgresReplayWork(database, settings.timezone)
        letters = PostgresDeadLetters(database)
        periodics = _of_the_dead(replay_work, letters, event_carrier, keeper, dead_topic(prefix), rng)
        deliveries = PostgresDeliveries(database)
        closing.push_async_callback(deliveries.close)
        sender = WebhookSender(deliveries, poster, _opener(settings), rng)
        health.need("postgres", lambda: database.fetch("database_now"))
        health.need("kafka", lambda: _answering(carrier))
        presence = SignOfLife(
            PostgresPresence(database),
            "dispatcher",
            lambda: Broker(_reaches(carrier), carrier.last_error, roads.refused(), event_relay.refused),
        )
        closing.push_async_callback(presence.leave)
        yield Dispatcher(relay, event_relay, roads, keeper, book, hints, presence.periodic, periodics, sender)


def _opener(settings: Settings) -> Opener:
    keys = settings.secret_keys.get_secret_value()
    return KeyRing(keys).open if keys else _no_key


def _no_key(_sealed: bytes, _owner: str) -> bytes:
    raise KeyMissing("there is no key")


def _reaches(carrier: Carrier) -> bool | None:
    """None before it has tried: a dispatcher that has just started is no broker that is away."""
    return carrier.reachable or (False if carrier.last_error else None)


async def _answering(carrier: Carrier) -> None:
    if not carrier.reachable or not await carrier.probe():
        raise BrokerUnavailable(carrier.last_error)


def _of_the_dead(
    work: PostgresReplayWork,
    book: PostgresDeadLetters,
    carrier: Carrier,
    keeper: TopicKeeper,
    topic: str,
    rng: Random,
) -> list[Periodic]:
    """What is done about the dead here: messages go back to their topics, letters that are missing are sent."""
    replays = ReplayRunner(work, {DeadKind.MESSAGE: MessageReplays(work, carrier, rng)}, is_data_error)
    keeper.want(topic, TopicPlan(1), lambda partitions: None)
    letters = DeadLetters(book, carrier, topic, unsent=lambda: keeper.doubt(topic))
    return [
        Periodic("replays", timedelta(seconds=1), replays.round),
        Periodic("dead-letters", timedelta(seconds=5), letters.send_rest),
    ]
