"""`sluiceway api`, `dispatcher`, `executor` and `janitor`: one service in this process, told by the environment."""

from __future__ import annotations

from importlib import import_module

import typer

from services.cli.app import app


def _run(role: str) -> None:
    # `python -m services.<role>` does the same; its main() may end the process with a code of its own
    raise typer.Exit(import_module(f"services.{role}.__main__").main() or 0)


@app.command()
def api() -> None:
    """Run the REST face."""
    _run("api")


@app.command()
def dispatcher() -> None:
    """Run a dispatcher: publishes due tasks and events."""
    _run("dispatcher")


executor = typer.Typer(
    help="Run an executor (calls models and stores results); or list, drain, undrain those that run.",
    invoke_without_command=True,
)
app.add_typer(executor, name="executor")


@executor.callback()
def run_executor(context: typer.Context) -> None:
    """Without a command: run one. Its commands go to the stores, as other operators' commands do."""
    from services.cli.here import adopt_stack

    if context.invoked_subcommand is None:
        _run("executor")
    adopt_stack()


@app.command()
def janitor() -> None:
    """Run a janitor: retries, rescues, expiry, repairs."""
    _run("janitor")
