"""What the errors of PostgreSQL and of its client mean."""

from __future__ import annotations

import socket
from typing import Final

import asyncpg

from libs.common.domain.errors import DatabaseUnavailable, Deadlocked, OutcomeUnknown, RowsLocked

#: Its server takes no writes any more, as one that is set apart while another takes over: on that connection it would
#: refuse for ever, wherever the address leads by now.
READ_ONLY: Final = asyncpg.exceptions.ReadOnlySQLTransactionError

#: 40P01 and 40001: nothing was written.
_UNDONE: Final = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)

UNREACHABLE: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server ended the connection between two messages of one statement
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.CannotConnectNowError,
    asyncpg.exceptions.OperatorInterventionError,
    asyncpg.exceptions.InsufficientResourcesError,
    asyncpg.exceptions.ReadOnlySQLTransactionError,
    asyncpg.exceptions.InvalidPasswordError,
    asyncpg.exceptions.QueryCanceledError,
    # our limit for locks, or an administrator's own (ALTER ROLE ... SET): a locked table makes every statement meet it
    asyncpg.exceptions.LockNotAvailableError,
    asyncpg.exceptions.TransactionTimeoutError,
    asyncpg.exceptions.IdleInTransactionSessionTimeoutError,
    asyncpg.exceptions.PostgresSystemError,  # its disk fails
    *_UNDONE,
)

#: What the server answers before it has begun to change anything.
_REFUSED: Final = (
    ConnectionRefusedError,
    socket.gaierror,
    asyncpg.exceptions.CannotConnectNowError,
    asyncpg.exceptions.InsufficientResourcesError,
    asyncpg.exceptions.ReadOnlySQLTransactionError,
    asyncpg.exceptions.InvalidPasswordError,
    asyncpg.exceptions.QueryCanceledError,
    asyncpg.exceptions.PostgresSystemError,
)


def as_outage(error: BaseException) -> DatabaseUnavailable | OutcomeUnknown:
    """Told apart: refused before anything happened, or broken in the middle, when a commit may have gone through."""
    if isinstance(error, asyncpg.exceptions.LockNotAvailableError):
        return RowsLocked("somebody's transaction keeps rows locked in PostgreSQL")
    if isinstance(error, asyncpg.ClientConfigurationError):
        return DatabaseUnavailable(f"no connection to PostgreSQL: {error}")
    if isinstance(error, _UNDONE):
        return Deadlocked(f"PostgreSQL undid it: {type(error).__name__}")
    if isinstance(error, _REFUSED):
        return DatabaseUnavailable(f"PostgreSQL refuses: {type(error).__name__}")
    return OutcomeUnknown(f"PostgreSQL's answer is lost: {type(error).__name__}")


def is_data_error(error: BaseException) -> bool:
    """Whether one bad row made the batch fail (the coalescer then halves it)."""
    return isinstance(error, asyncpg.DataError | asyncpg.IntegrityConstraintViolationError)
