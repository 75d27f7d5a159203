"""`sluiceway`, the operators' command line; also `python -m services.cli`."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

import services.cli
from services.cli.app import app


def main() -> None:
    """Run the command that the arguments name."""
    for module in iter_modules(services.cli.__path__):
        if module.name != "__main__":
            import_module(f"services.cli.{module.name}")
    app(prog_name="sluiceway")


if __name__ == "__main__":
    main()
