"""How `sluiceway models dry-run` reads what it is given and shows what came of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from services.cli.output import as_json_text, cell, note


def show_dry_run(fields: Mapping[str, Any], payload: str, answers: Sequence[Path], *, as_json: bool) -> None:
    """Exit code 1 where a step would fail before anything is sent, 2 for a model that could not be saved."""
    from libs.common.domain.errors import Invalid
    from libs.common.domain.model_errors import ModelError
    from libs.common.operations.dry_run import DryModel, dry_run

    given = _text(Path(payload[1:]), "--payload") if payload.startswith("@") else payload
    laid_down = [_json(_text(path, "--answer"), f"{path} is not JSON", "--answer") for path in answers]
    _json(given, "it is not JSON", "--payload")
    try:
        shown = asyncio.run(dry_run(DryModel.of(fields), given.encode(), laid_down))
    except (Invalid, ModelError) as error:
        place = f"{error.field}: " if isinstance(error, Invalid) and error.field else ""
        note(f"{place}{error}")
        raise typer.Exit(2) from None
    if as_json:
        print(as_json_text(shown))
    else:
        _show(shown)
    if any(step.get("error", {}).get("sent") is False for step in shown["steps"]):
        raise typer.Exit(1)


def _show(shown: Mapping[str, Any]) -> None:
    if "headers_missing" in shown:
        note(f"not shown: {shown['headers_missing']}")
    for step in shown["steps"]:
        print(f"== {step['step']}")
        for exchange in step["exchanges"]:
            request = exchange["request"]
            print(cell(f"{request['method']} {request['url']}"))
            for name, value in request["headers"].items():
                print(f"  {cell(f'{name}: {value}')}")
            if "body" in request:
                print(f"  {_compact(request['body'])}")
            if "answer" in exchange:
                print(f"  -> {exchange['answer']['http_status']} {_compact(exchange['answer']['body'])}")
        if not step["exchanges"]:
            print("nothing is sent")
        for name in ("means", "error", "not_offered"):
            if step.get(name):
                print(f"{name.replace('_', ' ')}: {_compact(step[name])}")
        print()


def _compact(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return cell(text) if text else text


def _text(path: Path, option: str) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise typer.BadParameter(f"cannot read {path}: {reason}", param_hint=option) from None


def _json(text: str, complaint: str, option: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise typer.BadParameter(complaint, param_hint=option) from None


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")  # Python alone reads NaN and Infinity
