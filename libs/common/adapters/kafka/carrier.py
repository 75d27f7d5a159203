"""The sending side of Kafka: whole batches, one answer for every record, a deadline of our own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from libs.common.adapters.kafka.connection import KafkaConnection, pace
from libs.common.adapters.kafka.consignment import RECORD_BYTES, UNSENT, Consignment, cause_of
from libs.common.ports_dispatch import Record, SendVerdict
from libs.common.runtime.logging import get_logger

log = get_logger()

#: An idempotent producer never gives up by itself so this deadline is ours.
DEADLINE_SECONDS: Final = 4.5
_OPEN_SECONDS: Final = 3.0
_PROBE_SECONDS: Final = 2.0
_CLOSE_SECONDS: Final = 1.0
_REQUEST_TIMEOUT_MS: Final = 4_000
#: Below a broker's default limit for one batch of records (1,048,588 bytes).
_BATCH_BYTES: Final = 512 * 1024


@dataclass(slots=True, eq=False)
class _Line:
    """A producer and how many batches it carries now; a worn one carries no further batch."""

    producer: AIOKafkaProducer
    batches: int = 0
    believed: Sequence[object] = ()  #: the connections over which the broker is known to have our topics


class KafkaCarrier:
    """Implements ports_dispatch.Carrier. A producer that failed anything is closed hard and built anew: it would keep
    records that we give back, and send them later. Other batches that it carries meanwhile come to their end first: one
    partition without an answer must not take those of others with it."""

    def __init__(self, connection: KafkaConnection, *, client_id: str) -> None:
        self._connection = connection
        self._client_id = client_id
        self._line: _Line | None = None
        self._opening = asyncio.Lock()
        self._reachable = False
        self._last_error = ""

    @property
    def reachable(self) -> bool:
        return self._reachable

    @property
    def last_error(self) -> str:
        return self._last_error

    async def send(self, records: Sequence[Record]) -> list[SendVerdict]:
        verdicts = [UNSENT] * len(records)
        line = None
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                line = await self._open()
                if line is not None:
                    await self._carry(line, records, verdicts)
        except (TimeoutError, KafkaError, OSError) as error:
            await self._distrust(line, cause_of(error))
        return verdicts

    async def probe(self) -> bool:
        line = await self._open()
        if line is None:
            return False
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                client = line.producer.client
                # About no topic: the smallest question.
                await client.send(client.get_random_node(), MetadataRequest([]))
        except (TimeoutError, KafkaError, OSError) as error:
            await self._distrust(line, cause_of(error))
        else:
            self._reachable = True
        return self._reachable

    async def close(self) -> None:
        """Let go of the connection; what was not acknowledged is not sent any more."""
        line, self._line = self._line, None
        if line is not None:
            await _close_hard(line.producer)

    async def _carry(self, line: _Line, records: Sequence[Record], verdicts: list[SendVerdict]) -> None:
        line.batches += 1
        try:
            consignment = Consignment(line.producer, records, verdicts)
            suspects = await consignment.send()
            if not self._connection.idempotent:
                await _unsay_lost(line, records, verdicts)
        finally:
            line.batches -= 1
            if line is not self._line and not line.batches:
                await _close_hard(line.producer)
        self._reachable = True
        if self._connection.idempotent and (suspects or any(verdict.refused for verdict in verdicts)):
            # aiokafka counts a refused batch in its sequence, the broker does not: later ones would be out of order.
            await self._wear_out(line)
        if suspects:
            await self._send_singly(suspects, records, verdicts)

    async def _wear_out(self, line: _Line) -> None:
        if line is self._line:
            self._line = None
        if not line.batches:
            await _close_hard(line.producer)

    async def _send_singly(
        self, suspects: Sequence[int], records: Sequence[Record], verdicts: list[SendVerdict]
    ) -> None:
        """Refused as a batch: each alone, so that only the guilty ones stay refused. Without idempotence, see above."""
        producer = self._new_producer(idempotent=False)
        try:
            await producer.start()
            for index in suspects:
                verdict = [UNSENT]
                await Consignment(producer, [records[index]], verdict).send()
                verdicts[index] = verdict[0]
        finally:
            await _close_hard(producer)

    async def _open(self) -> _Line | None:
        if self._line is not None:
            return self._line
        async with self._opening:
            if self._line is None:
                await self._build()
        return self._line

    async def _build(self) -> None:
        producer = self._new_producer(idempotent=self._connection.idempotent)
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                await producer.start()
        except (TimeoutError, KafkaError, OSError) as error:
            await _close_hard(producer)
            self._reachable = False
            self._last_error = await self._connection.diagnose() or cause_of(error)
            return
        except BaseException:
            await _close_hard(producer)
            raise
        self._line, self._reachable = _Line(producer), True

    def _new_producer(self, *, idempotent: bool) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **self._connection.arguments(),
            client_id=self._client_id,
            acks="all",
            enable_idempotence=idempotent,
            linger_ms=0,
            max_batch_size=_BATCH_BYTES,
            max_request_size=RECORD_BYTES,
            request_timeout_ms=_REQUEST_TIMEOUT_MS,
            retry_backoff_ms=100,
        )
        pace(producer.client)
        return producer

    async def _distrust(self, line: _Line | None, cause: str) -> None:
        log.warning("kafka.send_failed", cause=cause)
        self._reachable, self._last_error = False, cause
        if line is not None:
            await self._wear_out(line)


async def _unsay_lost(line: _Line, records: Sequence[Record], verdicts: list[SendVerdict]) -> None:
    """Tansu loses its topics with its process, and then acknowledges records of topics that it has not; nobody can read
    them until others follow. So over a new connection a yes counts only if the topic is seen to be there."""
    client = line.producer.client
    connections = list(client._conns.values())
    if connections == line.believed:
        return
    there = (await client.fetch_all_metadata()).topics()
    lost = [index for index, record in enumerate(records) if verdicts[index].acknowledged and record.topic not in there]
    for index in lost:
        verdicts[index] = UNSENT
    if not lost:
        line.believed = connections


async def _close_hard(producer: AIOKafkaProducer) -> None:
    """End a producer without sending what it still holds. There is no public call: `stop()` flushes first, and its
    sender lives on for ever when the broker is away. A test guards these names against a new aiokafka."""
    if producer._closed:
        return
    producer._closed = True
    closing = asyncio.gather(producer._sender.close(), producer.client.close(), return_exceptions=True)
    with suppress(TimeoutError):
        await asyncio.wait_for(closing, _CLOSE_SECONDS)
