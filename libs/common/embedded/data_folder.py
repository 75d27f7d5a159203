"""The folder that everything of an embedded stack lies in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from libs.common.domain.errors import WrongSetting
from libs.common.embedded.files import write_whole

_LARGEST_LOG_BYTES = 20 * 2**20


@dataclass(frozen=True, slots=True)
class DataFolder:
    """Where each part keeps what it keeps."""

    path: Path

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def objects(self) -> Path:
        return self.path / "objects"

    @property
    def staging(self) -> Path:
        return self.path / "staging"

    @property
    def secrets(self) -> Path:
        """The key ring that secrets at rest are encrypted with."""
        return self.path / "secrets"

    @property
    def addresses(self) -> Path:
        return self.path / "stack.json"

    def furnish(self) -> None:
        """Make what is missing; a log that has grown large makes room for a new one."""
        # Root's PostgreSQL runs as another account, which has to pass through. Listing stays ours alone.
        self.path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        for folder in (self.logs, self.objects, self.staging):
            folder.mkdir(mode=0o700, exist_ok=True)
        if not self.secrets.exists():
            from libs.common.adapters.secrets import new_key  # slow to import, needed once

            write_whole(self.secrets, new_key() + "\n")
        for log in self.logs.glob("*.log"):
            if log.stat().st_size > _LARGEST_LOG_BYTES:
                log.replace(log.with_suffix(".log.1"))


def chosen_folder(wanted: Path | None, environment: Mapping[str, str] = os.environ) -> DataFolder:
    """The folder that was asked for, else SLUICEWAY_DATA, else the account's own.

    Root's lies in /var/lib: its home cannot be entered by the account that PostgreSQL runs as. Raises WrongSetting
    where an account has no home, as in many containers, or is not there.
    """
    given = wanted or environment.get("SLUICEWAY_DATA")
    if not given and os.geteuid() == 0:
        return DataFolder(Path("/var/lib/sluiceway"))
    home = environment.get("XDG_DATA_HOME") or "~/.local/share"
    try:
        return DataFolder(Path(given or f"{home}/sluiceway").expanduser().resolve())
    except RuntimeError as error:
        raise WrongSetting(f"SLUICEWAY_DATA: {error} Set it to the whole path of a folder.") from error
