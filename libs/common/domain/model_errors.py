"""How a model call, staging or an upload can fail.

OutputError
|-- ModelError               the call; `retryable` says whether the same call may do better later
|   |-- EgressRefused        its address is one that this deployment does not call
|   |-- NotHere              this process lacks what the call needs; another one may have it
|   |   |-- UnknownAdapter   its adapter
|   |   `-- SecretKeyMissing the key that opens what is added to its calls
|   |-- NoSocket             nobody could be called, for want of something here
|   |   |-- OutOfFiles       this process may open no more files: admit no work
|   |   `-- OutOfPorts       this host has no port left for that address: others can be called
|   |-- Busy                 the other side is full: nobody's fault, later
|   |-- JobGone              the provider does not know the job
|   `-- TooEarly             that there is no such job may not be believed yet
|-- StagingFull              staging takes nothing now: admit no work
|   `-- StagingShareFull     it takes nothing more of this tenant's
|-- StagedLost               the staged output is gone or is not what was written
`-- UploadFailed             storage did not take the output; `retryable` as above
    `-- UploadUnauthorized   neither the task's nor the service's credential is accepted
"""

from __future__ import annotations

from libs.common.domain.errors import SluicewayError


class OutputError(SluicewayError):
    """Something between the model and the result. `code` is stable, `message` free of secrets."""

    def __init__(self, code: str, message: str, *, retryable: bool, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.retry_after = retry_after


class ModelError(OutputError):
    """The model call failed.

    `sent` is False only when certainly no byte of a request left this process; `answered` is True only when the other
    side itself refused, so that what was asked for is certainly not done.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retryable: bool,
        retry_after: float | None = None,
        sent: bool = True,
        answered: bool = False,
    ) -> None:
        super().__init__(code, message, retryable=retryable, retry_after=retry_after)
        self.sent = sent
        self.answered = answered


class EgressRefused(ModelError):
    """The address is private, reserved or a cloud's metadata, and SLUICEWAY_EGRESS_ALLOW does not list it."""

    def __init__(self, message: str) -> None:
        super().__init__("egress_refused", message, retryable=False, sent=False)


class NotHere(ModelError):
    """This process lacks what the call needs, and another one may have it. Nobody was called."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message, retryable=True, sent=False)


class UnknownAdapter(NotHere):
    """The model's adapter is of a package that is not installed here (yet)."""

    def __init__(self, name: str) -> None:
        super().__init__("unknown_adapter", f"there is no adapter {name!r} here")


class SecretKeyMissing(NotHere):
    """The model's api_key was sealed by a key that SLUICEWAY_SECRET_KEYS of this process lacks (yet)."""

    def __init__(self, message: str) -> None:
        super().__init__("secret_key_missing", message)


class NoSocket(ModelError):
    """No connection could be made for want of something here. Nobody was called."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message, retryable=True, sent=False)


class OutOfFiles(NoSocket):
    """This process has as many files open as it may."""

    def __init__(self) -> None:
        super().__init__("out_of_files", "this process may open no more files")


class OutOfPorts(NoSocket):
    """This host has no port left from which to call that address, though others can be called."""

    def __init__(self) -> None:
        super().__init__("out_of_ports", "no port is left to call it from")


class Busy(ModelError):
    """The other side is full and did not take the call; it burns nothing and is made again after `retry_after`."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__("model_busy", message, retryable=True, retry_after=retry_after, answered=True)


class JobGone(ModelError):
    """The provider does not know the job (any more)."""

    def __init__(self, message: str) -> None:
        super().__init__("job_gone", message, retryable=False)


class TooEarly(ModelError):
    """There is no such job as far as is shown, which is to be believed after `retry_after` only: it says so of time,
    and nothing of the provider, so no try is used up by it."""

    def __init__(self, *, retry_after: float) -> None:
        message = "the submit may still be on its way"
        super().__init__("submit_unsettled", message, retryable=True, retry_after=retry_after)


class StagingFull(OutputError):
    """Staging takes nothing now."""

    def __init__(self, message: str) -> None:
        super().__init__("staging_full", message, retryable=True)


class StagingShareFull(StagingFull):
    """It takes nothing more of this tenant's; others find room."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = "staging_share"


class StagedLost(OutputError):
    """The staged output is gone, or is not what was written."""

    def __init__(self, message: str) -> None:
        super().__init__("staging_lost", message, retryable=False)


class UploadFailed(OutputError):
    """Storage did not take the output."""


class UploadUnauthorized(UploadFailed):
    """No credential is accepted any more."""

    def __init__(self, message: str) -> None:
        super().__init__("upload_unauthorized", message, retryable=False)
