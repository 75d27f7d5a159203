"""A stand-in for a service, and an `up` that starts stand-ins: `python -m tests.support.stand_in <data folder>`.

A stand-in answers every request with 200 and notes its end in SLUICEWAY_STAND_IN_NOTES. One whose role is named in
SLUICEWAY_STAND_IN_BROKEN ends at once with code 7.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from libs.common.embedded.data_folder import DataFolder
from services.cli.stack import stay


def stand_in_arguments(role: str) -> list[str]:
    return [sys.executable, "-m", "tests.support.stand_in", "--role", role]


async def serve(role: str) -> None:
    if os.environ.get("SLUICEWAY_STAND_IN_BROKEN") == role:
        sys.stderr.write("SLUICEWAY_STAND_IN_BROKEN names it\n")
        sys.exit(7)
    end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
    port = os.environ["SLUICEWAY_API_PORT" if role == "api" else "SLUICEWAY_HEALTH_PORT"]
    async with await asyncio.start_server(_answer, "127.0.0.1", int(port)):
        await end.wait()
    with Path(os.environ["SLUICEWAY_STAND_IN_NOTES"]).open("a") as notes:
        notes.write(f"{role}\n")


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
    writer.close()


def main() -> int:
    if sys.argv[1] == "--role":
        asyncio.run(serve(sys.argv[2]))
        return 0
    folder = DataFolder(Path(sys.argv[1]))
    folder.furnish()
    return stay(folder.path, {}, as_json=True, service_arguments=stand_in_arguments)


if __name__ == "__main__":
    sys.exit(main())
