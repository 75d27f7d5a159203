"""`sluiceway`, the operators' command line; also `python -m services.cli`."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

import services.cli
from services.cli.app import app

_NO_COMMANDS = ("app", "wiring")


def main() -> None:
    """Run the command that the arguments name."""
    for module in iter_modules(services.cli.__path__):
        if "_" not in module.name and module.name not in _NO_COMMANDS:
            import_module(f"services.cli.{module.name}")
    app(prog_name="sluiceway")


if __name__ == "__main__":
    main()
