"""TLS in front of a plain server."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.secure_kafka import self_signed
from tests.support.slow_proxy import SlowProxy


@asynccontextmanager
async def tls_front(url: str, ca_file: Path) -> AsyncIterator[str]:
    """Its https URL, for clients that trust the authority in `ca_file`, which is written here."""
    certificate, key = self_signed()
    ca_file.write_bytes(certificate)
    pair = ca_file.with_suffix(".server")
    pair.write_bytes(key + certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair)
    server = urlsplit(url)
    assert server.port is not None
    passing = SlowProxy("127.0.0.1", server.port)
    listener = await asyncio.start_server(passing.serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()
        await passing.close()
