"""The ports of one data folder's stack: chosen once, the same after every restart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from libs.common.embedded.child import ChildFailed
from libs.common.embedded.files import write_whole
from libs.common.embedded.ports import free_port


class Addresses:
    """Ports by name, kept in `stack.json`. Raises ChildFailed when that is damaged."""

    def __init__(self, file: Path, wanted: Mapping[str, int | None] | None = None) -> None:
        self._file = file
        self._ports = _kept_in(file) if file.exists() else {}
        chosen = {name: port for name, port in (wanted or {}).items() if port is not None}
        if chosen:
            self._ports |= chosen
            self._save()

    def port(self, name: str) -> int:
        """The port of that name; a free one the first time."""
        if name not in self._ports:
            self._ports[name] = free_port()
            self._save()
        return self._ports[name]

    def _save(self) -> None:
        write_whole(self._file, json.dumps({"ports": self._ports}, indent=2))


def _kept_in(file: Path) -> dict[str, int]:
    try:
        ports: dict[str, int] = json.loads(file.read_text())["ports"]
    except (ValueError, KeyError, TypeError) as error:
        raise ChildFailed(f"{file} is damaged ({error}): delete it, and other ports are chosen") from error
    return ports
