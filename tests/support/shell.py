"""`sluiceway` as a process of its own: no terminal, and of the settings only those that the test names."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.cli_schemas import assert_as_promised
from tests.support.nursery import run_command


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Shell:
    """Runs commands in an environment; what they print as JSON is held against its schema."""

    environment: Mapping[str, str]

    def having(self, **more: str) -> Shell:
        """The same with other settings."""
        return Shell({**self.environment, **more})

    async def ran(self, *arguments: str, given: str | None = None) -> Ran:
        """Whatever becomes of it."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("SLUICEWAY_")}
        code, out, err = await run_command(
            arguments,
            {**own, "USER": "ann", "LOGNAME": "ann", **self.environment},
            None if given is None else given.encode(),
        )
        assert b"Traceback" not in err, err.decode()
        assert_as_promised(arguments, out)
        return Ran(code, out.decode(), err.decode())

    async def run(self, *arguments: str, code: int = 0) -> str:
        """What it prints; what it complains of where it fails as expected."""
        done = await self.ran(*arguments)
        assert done.code == code, (done.out, done.err)
        return done.err if code else done.out

    async def json(self, *arguments: str) -> Any:
        """The document that it prints."""
        return json.loads(await self.run(*arguments, "--json"))
