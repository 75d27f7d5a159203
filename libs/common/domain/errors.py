"""The errors of the domain.

SluicewayError
|-- Refused                  a request that changes nothing; carries a stable code
|   |-- Invalid              the request itself is wrong
|   |-- NotFound             no such thing inside the caller's tenant
|   |-- Conflict             the state of things forbids it
|   `-- Exhausted            a limit is reached; try again after `retry_after` seconds
|-- Unavailable              a store cannot be reached; nothing is half done
|   |-- DatabaseUnavailable
|   |   `-- Deadlocked       undone for the sake of another statement: once more is right
|   |   `-- RowsLocked       somebody else's transaction does not let go of them
|   |-- GateUnavailable
|   |   `-- LaneUnavailable
|   |-- BrokerUnavailable
|   `-- StorageUnavailable
|-- OutcomeUnknown           the connection was lost while committing
`-- IllegalTransition        an arrow that the state machine does not have
"""

from __future__ import annotations


class SluicewayError(Exception):
    """Anything that this product raises on purpose."""


class Refused(SluicewayError):
    """A request that was refused and changed nothing. `code` is stable; `field` is a JSON pointer or empty."""

    def __init__(self, code: str, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field


class Invalid(Refused):
    """The request itself is wrong."""


class NotFound(Refused):
    """There is no such thing inside the caller's tenant."""


class Conflict(Refused):
    """The present state forbids it."""


class Exhausted(Refused):
    """A limit is reached; trying again makes sense after `retry_after` seconds."""

    def __init__(self, code: str, message: str, *, retry_after: int) -> None:
        super().__init__(code, message)
        self.retry_after = retry_after


class Unavailable(SluicewayError):
    """A store cannot be reached now; nothing is half done."""


class DatabaseUnavailable(Unavailable):
    """PostgreSQL cannot be reached, or refuses to write."""


class RowsLocked(DatabaseUnavailable):
    """Somebody else's transaction keeps rows locked, or a table; nothing was written."""


class Deadlocked(DatabaseUnavailable):
    """PostgreSQL undid it for the sake of another statement that it met: once more is right."""


class GateUnavailable(Unavailable):
    """Redis cannot answer for the gate or the permits; both are closed until it does."""


class LaneUnavailable(GateUnavailable):
    """Redis answers, but not for one lane of the batch; without that lane the batch would have been answered."""


class BrokerUnavailable(Unavailable):
    """Kafka cannot be reached; what was to be sent stays due."""


class StorageUnavailable(Unavailable):
    """The object store or the staging store cannot be read."""


class ForeignTables(SluicewayError):
    """The database has tables that this version cannot bring to its own; the text says which, and what to do."""


class OutcomeUnknown(SluicewayError):
    """The connection broke while committing: only reading back tells what happened."""


class IllegalTransition(SluicewayError):
    """The state machine has no such arrow."""

    def __init__(self, before: str, after: str) -> None:
        super().__init__(f"a task cannot go from {before} to {after}")


class WrongSetting(ValueError):
    """Settings that cannot be used: a line for each, which names the variable and says what to do."""

    def __init__(self, *lines: str) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines
