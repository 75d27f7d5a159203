"""`sluiceway demo`: the whole road once, on real input, from REST to the completion event."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from services.cli.app import app
from services.cli.output import printable

_TASKS = 6  # of each tenant and model


@app.command()
def demo(
    tasks: Annotated[int, typer.Option("--tasks", min=1, max=200, help="Tasks of each tenant and model.")] = _TASKS,
    keep: Annotated[
        Path | None, typer.Option("--keep", file_okay=False, help="Keep results and logs in this folder.")
    ] = None,
) -> None:
    """Start everything, run real tasks of two tenants through it, show the results, stop everything.

    Exit code 0 says that every task succeeded, its file opens, and its event arrived.

    Example: sluiceway demo --tasks 3 --keep demo-results
    """
    import asyncio

    from libs.common.embedded.postgres_home import move_out
    from services.cli.demo_run import DemoFailed, Show, run_demo
    from services.cli.usable_settings import usable_settings

    usable_settings()  # what a service would refuse is said before anything starts
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    for end in (signal.SIGTERM, signal.SIGHUP):  # the stack is detached: it would go on without us
        signal.signal(end, lambda *_: signal.raise_signal(signal.SIGINT))
    folder = Path(tempfile.mkdtemp(prefix="sluiceway-demo-", dir=_roomy()))
    folder.chmod(0o711)
    try:
        asyncio.run(run_demo(folder, tasks, Show(sys.stdout)))
    except DemoFailed as failure:
        print(f"demo failed: {printable(str(failure))}", file=sys.stderr)
        logs = Path(tempfile.gettempdir()) / f"{folder.name}-logs"
        if (folder / "data" / "logs").is_dir():
            shutil.copytree(folder / "data" / "logs", logs, dirs_exist_ok=True)
            print(f"logs are in {logs}", file=sys.stderr)
        raise typer.Exit(1) from None
    finally:
        for part in ("objects", "logs"):
            if keep is not None and (folder / "data" / part).is_dir():
                shutil.copytree(folder / "data" / part, keep / part, dirs_exist_ok=True)
        move_out(folder / "data" / "postgres")  # a umask may have sent its files elsewhere
        shutil.rmtree(folder, ignore_errors=True)


def _roomy() -> str | None:
    """A place that PostgreSQL's own account may enter when root runs the demo."""
    return "/var/tmp" if Path("/var/tmp").is_dir() else None  # noqa: S108 - a fresh folder of ours is made below it
