"""`sluiceway`, the operators' command line; also `python -m services.cli`."""

from __future__ import annotations

import sys
from importlib import import_module
from pkgutil import iter_modules

import services.cli
from libs.common.domain.errors import WrongSetting
from services.cli.app import app

_NO_COMMANDS = ("app", "wiring")


def main() -> None:
    """Run the command that the arguments name; exit code 2 when a setting cannot be used."""
    for module in iter_modules(services.cli.__path__):
        if "_" not in module.name and module.name not in _NO_COMMANDS:
            import_module(f"services.cli.{module.name}")
    try:
        app(prog_name="sluiceway")
    except WrongSetting as wrong:
        from libs.common.runtime.start import report

        sys.exit(report(wrong))


if __name__ == "__main__":
    main()
