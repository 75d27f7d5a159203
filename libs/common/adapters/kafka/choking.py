"""Records that the broker gives and the client cannot take."""

from __future__ import annotations

from typing import Final

from aiokafka.errors import ConsumerStoppedError, CorruptRecordException, KafkaError, UnsupportedCodecError

_OF_BYTES: Final = (CorruptRecordException, UnsupportedCodecError)
_OTHERS: Final = (KafkaError, ConsumerStoppedError, OSError)


def chokes(error: Exception) -> bool:
    """Whether the client choked on bytes: a header name that is no UTF-8, a compression that is not what it says or
    that it does not know, a checksum that does not fit.

    With such an error everything is gone that the same call had taken already, of other partitions too.
    """
    return isinstance(error, _OF_BYTES) or not isinstance(error, _OTHERS)
