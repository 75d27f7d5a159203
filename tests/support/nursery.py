"""Services and commands forked from a process that has loaded them all: to load their modules costs up to two seconds
of CPU each.

Otherwise they are what `python -m services.<role>` is: a process of its own, with its own environment, session and
files. The tests of starting itself, of `sluiceway up` and of the demo start them as users do.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import gc
import json
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Final, cast

import services.cli
from libs.common.embedded.child import Command, spawn
from libs.common.embedded.ports import until_free
from libs.common.embedded.service import ServiceProcess
from libs.common.runtime.loading import loading
from libs.common.settings import PREFIX

ROLES: Final = ("api", "dispatcher", "executor", "janitor")
_PR_SET_PDEATHSIG: Final = 1
_START_SECONDS: Final = 60.0
_COMMAND_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.01


class NurseryService(ServiceProcess):
    """A service that the nursery starts."""

    async def launch(self) -> None:
        """Start without waiting until it serves; as usual where the kernel has no process descriptors, and with an
        environment that modules would have seen when they were loaded (aiohttp reads SSL_CERT_FILE then).
        """
        command = self.command()
        environment = command.environment or {}
        if sys.platform != "linux" or _seen_by_modules(environment) != _nursery().environment:
            await super().launch()
            return
        await until_free(self.port, seconds=5)
        log = str(command.log_path)
        forked = _nursery().fork((f"services.{self.role}",), environment, (os.devnull, log, log))
        self._process = cast("subprocess.Popen[bytes]", forked)  # all that is asked of one


class Forked:
    """What a Popen is to who started a process, as far as ServerProcess asks."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self.pid = pid
        self._nursery = nursery

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._nursery.exit_code(self.pid)

    @property
    def returncode(self) -> int | None:
        """The same."""
        return self.poll()

    def send_signal(self, wish: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, wish)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The way to the process that forks."""

    def __init__(self) -> None:
        self.environment = _seen_by_modules(os.environ)
        self._folder = tempfile.TemporaryDirectory(prefix="nursery")
        path = Path(self._folder.name, "socket")
        command = Command((sys.executable, "-m", "tests.support.nursery", str(path)), path.with_name("log"))
        self._process = spawn(command)
        self._socket = socket.socket(socket.AF_UNIX)
        self._codes: dict[int, int] = {}
        deadline = time.monotonic() + _START_SECONDS
        while self._socket.connect_ex(str(path)):
            assert self._process.poll() is None, path.with_name("log").read_text()
            assert time.monotonic() < deadline, "the nursery does not start"
            time.sleep(0.02)
        self._lines = b""

    def fork(self, command: Sequence[str], environment: Mapping[str, str], files: tuple[str, str, str]) -> Forked:
        """Start a module with its arguments; the files are its input, and where its output and errors are appended."""
        asked = {"command": list(command), "environment": dict(environment), "files": files}
        self._socket.sendall(json.dumps(asked).encode() + b"\n")
        while (pid := self._hear()) is None:
            pass
        self._codes.pop(pid, None)  # of an earlier process with this number
        return Forked(self, pid)

    def exit_code(self, pid: int) -> int | None:
        """How a process of ours ended, if it has."""
        while self._readable():
            self._hear()
        return self._codes.get(pid)

    def close(self) -> None:
        """End the nursery; what it forked ends with it."""
        self._socket.close()
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def _readable(self) -> bool:
        if b"\n" in self._lines:
            return True
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            return bool(selector.select(0))

    def _hear(self) -> int | None:
        """Wait for one line: the number of a process that was started; of one that ended the code is noted."""
        while b"\n" not in self._lines:
            piece = self._socket.recv(65_536)
            assert piece, "the nursery is gone"
            self._lines += piece
        line, self._lines = self._lines.split(b"\n", 1)
        told: dict[str, int] = json.loads(line)
        if "code" in told:
            self._codes[told["pid"]] = told["code"]
            return None
        return told["pid"]


def _seen_by_modules(environment: Mapping[str, str]) -> dict[str, str]:
    """Ours is read when a service begins, who it is when somebody asks; and pytest names the test that runs."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(PREFIX) and name not in ("PYTEST_CURRENT_TEST", "USER", "LOGNAME")
    }


async def run_command(
    arguments: Sequence[str], environment: Mapping[str, str], given: bytes | None = None
) -> tuple[int, bytes, bytes]:
    """`python -m services.cli` without a terminal; returns its exit code, and what it wrote. At most a minute."""
    if sys.platform != "linux" or _seen_by_modules(environment) != _nursery().environment:
        return await _run_command_anew(arguments, environment, given)
    with tempfile.TemporaryDirectory(prefix="command") as folder:
        files = (os.devnull if given is None else f"{folder}/in", f"{folder}/out", f"{folder}/err")
        if given is not None:
            Path(files[0]).write_bytes(given)
        forked = _nursery().fork(("services.cli", *arguments), environment, files)
        try:
            async with asyncio.timeout(_COMMAND_SECONDS):
                while (code := forked.poll()) is None:
                    await asyncio.sleep(_LOOK_SECONDS)
        finally:
            forked.kill()
        return code, Path(files[1]).read_bytes(), Path(files[2]).read_bytes()


async def _run_command_anew(
    arguments: Sequence[str], environment: Mapping[str, str], given: bytes | None
) -> tuple[int, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli", *arguments, env=environment,
        stdin=asyncio.subprocess.DEVNULL if given is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(_COMMAND_SECONDS):
        out, err = await process.communicate(given)
    assert process.returncode is not None
    return process.returncode, out, err


@cache
def _nursery() -> Nursery:
    nursery = Nursery()
    atexit.register(nursery.close)
    return nursery


def _serve(path: str) -> None:
    """Fork what is asked for and tell of ends, until nobody asks any more."""
    with loading():
        for role in ROLES:
            import_module(f"services.{role}.wiring")
            import_module(f"services.{role}.__main__")
        for module in iter_modules(services.cli.__path__, "services.cli."):
            import_module(module.name)
        import_module("libs.client")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        tests, _ = listening.accept()
    watching = selectors.DefaultSelector()
    watching.register(tests, selectors.EVENT_READ)
    asked = b""
    while True:
        for key, _ in watching.select():
            if key.fileobj is tests:
                piece = tests.recv(65_536)
                if not piece:
                    return
                asked += piece
                while b"\n" in asked:
                    line, asked = asked.split(b"\n", 1)
                    pid = os.fork()
                    if pid == 0:
                        _become(json.loads(line), (tests.fileno(), *watching.get_map()))
                    watching.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
                    tests.sendall(json.dumps({"pid": pid}).encode() + b"\n")
            else:
                watching.unregister(key.fd)
                os.close(key.fd)
                _, status = os.waitpid(key.data, 0)
                told = {"pid": key.data, "code": os.waitstatus_to_exitcode(status)}
                tests.sendall(json.dumps(told).encode() + b"\n")


def _become(asked: dict[str, Any], inherited: tuple[int, ...]) -> None:
    """In the child: be the service, and end as it ends."""
    code: object = 1
    try:
        parent = os.getppid()
        os.setsid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:
            os._exit(1)
        for descriptor in set(inherited):
            os.close(descriptor)
        for number, file in enumerate(asked["files"]):
            opened = os.open(file, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(opened, number)
            os.close(opened)
        module, *sys.argv[1:] = asked["command"]
        os.environ.clear()
        os.environ.update(asked["environment"])
        random.seed()  # or all of them would draw the same numbers
        gc.enable()
        code = import_module(f"{module}.__main__").main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    _serve(sys.argv[1])
