"""How a consumer of ours is started and stopped. It is in no group: it says itself what it reads, and from where."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from libs.common.adapters.kafka.connection import KafkaConnection, pace
from libs.common.domain.errors import BrokerUnavailable

_STOP_SECONDS: Final = 1.0


async def started(connection: KafkaConnection, client_id: str, *, seconds: float) -> AIOKafkaConsumer:
    """A consumer that reached a broker. Raises BrokerUnavailable when it has not within so many seconds."""
    consumer = AIOKafkaConsumer(
        **connection.arguments(),
        client_id=client_id,
        group_id=None,  # with one, `assign` while the coordinator is away kills the consumer for ever
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=connection.fetch_wait_ms,
        request_timeout_ms=10_000,
    )
    try:
        async with within(seconds):
            await consumer.start()
    except (KafkaError, OSError, TimeoutError) as error:
        await stop(consumer)
        cause = await connection.diagnose() or type(error).__name__
        raise BrokerUnavailable(f"no connection to Kafka: {cause}") from error
    except BaseException:
        await asyncio.shield(stop(consumer))
        raise
    pace(consumer._client)
    return consumer


async def stop(consumer: AIOKafkaConsumer) -> None:
    """Let go of the broker, whether it answers or not."""
    with suppress(KafkaError, OSError, TimeoutError):
        async with within(_STOP_SECONDS):
            await consumer.stop()


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Bounds what a client is asked inside. Raises TimeoutError, and KafkaError as `cancelled_by_us` does."""
    with cancelled_by_us():
        async with asyncio.timeout(seconds):
            yield


@contextmanager
def cancelled_by_us() -> Iterator[None]:
    """While it closes, the client cancels futures of its own that somebody may wait for. Nobody asked that one to end:
    the cancellation comes out as a KafkaError.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise KafkaError("the client gave up what was waited for") from error
