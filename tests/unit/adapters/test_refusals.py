"""What errors of the client mean; those of real connections are in tests/integration/test_plain_http.py."""

from __future__ import annotations

import errno
import socket
import ssl
from unittest.mock import Mock

import aiohttp
import pytest

from libs.common.adapters.models.provider_answers import refusal
from libs.common.adapters.models.refusals import connection_error
from libs.common.domain.model_errors import OutOfFiles
from libs.common.ports_jobs import JobAnswer, JobCall

_KEY = Mock()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (aiohttp.ClientConnectorError(_KEY, OSError(111, "Connect call failed (10.0.0.1)")), "", "connection refused"),
        (aiohttp.ClientConnectorError(_KEY, socket.gaierror(-2, "10.0.0.1")), "", "no connection"),
        (aiohttp.ClientConnectorError(_KEY, OSError("Multiple exceptions: 10.0.0.1")), "", "no connection"),
        (aiohttp.ClientConnectorDNSError(_KEY, OSError(-2, "x")), "", "its name cannot be resolved"),
        (aiohttp.ClientConnectorSSLError(_KEY, OSError(1, "x")), "", "no TLS could be agreed on"),
        (
            aiohttp.ClientConnectorCertificateError(_KEY, ssl.CertificateError("expired")),
            "",
            "its certificate is not valid for it",
        ),
        (aiohttp.ConnectionTimeoutError("x"), "", "no connection in time"),
        (aiohttp.ServerDisconnectedError("secret"), "", "the connection broke before it answered"),
        (aiohttp.ClientOSError(104, "secret"), "", "the connection broke before it answered"),
        (aiohttp.ClientPayloadError("secret"), "", "the connection broke in the middle of its answer"),
        (aiohttp.InvalidURL("http://secret"), "bad_address", "the model's address cannot be called"),
        (aiohttp.ClientResponseError(Mock(), ()), "bad_answer", "the answer is not proper HTTP"),
    ],
)
def test_every_error_of_the_client_has_words_of_ours(error: Exception, code: str, message: str) -> None:
    found = connection_error("http://model", error)
    assert (found.code, found.retryable) == (code or "model_unreachable", not code)
    assert found.message in (f"http://model: {message}", message)


def test_who_may_open_no_more_files_has_called_nobody() -> None:
    found = connection_error("http://model", aiohttp.ClientConnectorError(_KEY, OSError(errno.EMFILE, "x")))
    assert isinstance(found, OutOfFiles)
    assert not found.sent


@pytest.mark.parametrize(
    ("status", "answered"),
    [(400, True), (401, True), (404, True), (409, True), (429, True), (499, True)]
    + [(status, False) for status in (302, 408, 500, 502, 503, 504, 520, 524, 599)],
)
def test_only_a_refusal_of_the_provider_itself_says_that_nothing_was_done(status: int, answered: bool) -> None:
    call = JobCall(intent_key="k", base_url="http://x", route="", config={}, payload=b"")
    assert refusal(call, JobAnswer(status, {}, b"no")).answered is answered
