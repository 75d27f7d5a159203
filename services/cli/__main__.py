"""`sluiceway`, the operators' command line; also `python -m services.cli`.

Exit codes: 0 done; 1 the answer is no (a task without success, a check that found something, nothing to be had);
2 the command line or a setting cannot be used; 3 nothing answers (the API, a store, the embedded stack); 4 the API
refused.
"""

from __future__ import annotations

import codecs
import json
import os
import sys
from importlib import import_module
from io import BufferedWriter, RawIOBase, TextIOWrapper
from pkgutil import iter_modules
from typing import Final, TextIO

import services.cli
from libs.common.domain.errors import WrongSetting
from libs.common.runtime.loading import loading
from services.cli.app import app
from services.cli.output import note

_NO_COMMANDS: Final = ("app", "here", "options", "output", "remote", "wiring")
#: As the shell reports a process that SIGPIPE has ended, and one that SIGINT has.
_CLOSED_PIPE: Final = 141
_INTERRUPTED: Final = 130
#: An error handler of codecs.
_ESCAPED: Final = "sluiceway.escaped"


def main() -> None:
    """Run the command that the arguments name."""
    _open_streams()
    if any(_is_no_text(argument) for argument in sys.argv):
        note("an argument is no text in this machine's encoding (UTF-8, as a rule)")
        sys.exit(2)
    stdout = sys.stdout
    try:
        with loading():
            load_commands()
        _run()
    except KeyboardInterrupt:  # before typer is there to say it
        sys.exit(_INTERRUPTED)
    except WrongSetting as wrong:
        from libs.common.runtime.start import report

        sys.exit(report(wrong))
    except BrokenPipeError:
        _let_go_of(stdout)
        sys.exit(_CLOSED_PIPE)
    except OSError as error:  # of a file, or of the output; what stores and the API raise has been told by now
        _let_go_of(stdout)
        note(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        sys.exit(1)
    except Exception as error:
        code = _told(error)
        if code is None:
            raise
        sys.exit(code)


def _run() -> None:
    """Run the command; raises BrokenPipeError also where the reader left before the last of it was written."""
    stdout = sys.stdout
    try:
        app(prog_name="sluiceway")
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # typer and rich make exit code 1 of it
            raise BrokenPipeError from None
        stdout.flush()
        raise


def _open_streams() -> None:
    """What the shell has closed (`>&-`) is empty instead: Python has None there, and the next socket its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  for as long as the process lives
    codecs.register_error(_ESCAPED, _escaped)
    if isinstance(sys.stdout, TextIOWrapper):
        if isinstance(
            sys.stdout.buffer, RawIOBase
        ):  # `python -u`: what a pipe did not take at once would be lost unsaid
            buffer = BufferedWriter(sys.stdout.buffer)
            sys.stdout = TextIOWrapper(buffer, encoding=sys.stdout.encoding, line_buffering=True)
        sys.stdout.reconfigure(errors=_ESCAPED)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """What the output's encoding does not have, as JSON would escape it, so that JSON stays JSON."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def _is_no_text(argument: str) -> bool:
    """Bytes that cannot be decoded; no store and no JSON takes what Python makes of them."""
    return any("\ud800" <= character <= "\udfff" for character in argument)


def _let_go_of(stdout: TextIO) -> None:
    """What is still buffered and nobody takes is given up: or the interpreter's last flush complains of it."""
    try:
        stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())


def load_commands() -> None:
    """Let every module of commands register its own."""
    for module in iter_modules(services.cli.__path__):
        if "_" not in module.name and module.name not in _NO_COMMANDS:
            import_module(f"services.cli.{module.name}")


def _told(error: Exception) -> int | None:
    """Say what the client's errors mean and what to do next; None for an error that is not one of them."""
    if "libs.client" not in sys.modules:
        return None
    from libs.client import ApiError, NotReachable, NotSendable

    told = str(error).rstrip(".")
    match error:
        case NotReachable():
            note(f"{told}. Is the API up, and SLUICEWAY_URL right? `sluiceway status` and `sluiceway doctor` look.")
            return 3
        case NotSendable():
            note(str(error))
            return 2
        case ApiError(status=401):
            note(f"{told}. Check SLUICEWAY_API_KEY; `sluiceway keys list --tenant N` shows which keys are valid.")
        case ApiError(status=403):
            note(f"{told}. `sluiceway keys create --tenant N --scopes ...` makes a key that may.")
        case ApiError():
            again = f" Try again in {error.retry_after:.0f} s." if error.retry_after else ""
            note(f"{told}.{again}")
        case _:
            return None
    return 4


if __name__ == "__main__":
    main()
