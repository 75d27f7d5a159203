"""Records that nobody could understand: kept in PostgreSQL, then put on the dead-letter topic with their cause."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from libs.common.ports_dead import DeadLetter, DeadLetterBook
from libs.common.ports_dispatch import Carrier, Record
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger

log = get_logger()

#: Headers that tell where a dead letter comes from and why it is one; those of the record itself follow.
CODE, CAUSE = "sluiceway-code", "sluiceway-cause"
TOPIC, PARTITION, OFFSET = "sluiceway-topic", "sluiceway-partition", "sluiceway-offset"
LEFT_OUT: Final = "sluiceway-value-left-out"  #: the record's size, where the topic does not take it whole
_BATCH: Final = 100
_BATCH_BYTES: Final = 4 * 2**20
#: Whoever kept a record sends its letter within this time, or is gone.
_GRACE_SECONDS: Final = 10.0


class DeadLetters:
    """One row and one letter for each record. A letter may come twice, when a process dies in between."""

    def __init__(
        self, book: DeadLetterBook, carrier: Carrier, topic: str, unsent: Callable[[], None] = lambda: None
    ) -> None:
        """`unsent` is told when the topic did not take letters: it may be gone."""
        self._book = book
        self._carrier = carrier
        self._topic = topic
        self._unsent = unsent

    async def keep(self, letters: Sequence[DeadLetter]) -> None:
        """Returns when they are kept for good and have their letters. Raises DatabaseUnavailable, OutcomeUnknown.

        Where the topic does not take them at once they get their letters from `send_rest`: bytes that nobody
        understands must not hold up those behind them.
        """
        for batch in _batches(letters):
            await failpoint("executor/before-dead-message")
            fresh = await self._book.bury(batch)
            if fresh:
                await failpoint("executor/before-dead-letter")
                await self._send(fresh)

    async def send_rest(self) -> int:
        """Letters of records that were kept a while ago and have none; returns how many went."""
        sent = 0
        rest = await self._book.unlettered(_GRACE_SECONDS, _BATCH)
        for batch in _batches(rest):
            await failpoint("dispatcher/before-dead-letters")
            sent += await self._send(batch)
        return sent

    async def _send(self, letters: Sequence[DeadLetter]) -> int:
        verdicts = await self._carrier.send([dead_letter(letter, self._topic) for letter in letters])
        sent = [letter for letter, verdict in zip(letters, verdicts, strict=True) if verdict.acknowledged]
        refused = [letter for letter, verdict in zip(letters, verdicts, strict=True) if verdict.refused]
        if refused:
            await failpoint("executor/before-dead-letter")
            again = await self._carrier.send([dead_letter(letter, self._topic, whole=False) for letter in refused])
            sent += [letter for letter, verdict in zip(refused, again, strict=True) if verdict.acknowledged]
        if sent:
            await failpoint("executor/after-dead-letter")
            await self._book.lettered([letter.key for letter in sent])
        if len(sent) < len(letters):
            self._unsent()
            log.warning("dead_letters.later", letters=len(letters) - len(sent), cause=self._carrier.last_error)
        return len(sent)


def dead_letter(letter: DeadLetter, topic: str, *, whole: bool = True) -> Record:
    """The record for the dead-letter topic: key and value as they were, the cause in headers. A value of which only the
    beginning was kept is left out: it would pass for the whole."""
    value = letter.value or b""
    told: list[tuple[str, bytes | None]] = [
        (CODE, letter.code.encode()),
        (CAUSE, letter.cause.encode("utf-8", "replace")),
        (TOPIC, letter.topic.encode()),
        (PARTITION, str(letter.partition).encode()),
        (OFFSET, str(letter.offset).encode()),
    ]
    if not whole or len(value) < letter.size:
        return Record(topic, 0, letter.record_key or b"", b"", [*told, (LEFT_OUT, str(letter.size).encode())])
    return Record(topic, 0, letter.record_key or b"", value, [*told, *letter.headers])


def _batches(letters: Sequence[DeadLetter]) -> list[list[DeadLetter]]:
    batches: list[list[DeadLetter]] = []
    size = 0
    for letter in letters:
        size += len(letter.value or b"")
        if not batches or len(batches[-1]) == _BATCH or size > _BATCH_BYTES:
            batches.append([])
            size = len(letter.value or b"")
        batches[-1].append(letter)
    return batches
