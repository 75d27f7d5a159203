"""The JSON Schemas under schemas/, made from the contracts: `python -m libs.common.contracts.schemas` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from libs.common.contracts.completion_event import SCHEMA_URI, TaskEvent

FOLDER: Final = Path(__file__).parents[3] / "schemas"


def task_event_schema() -> dict[str, Any]:
    """What the data of every completion event satisfies."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_URI,
        **TaskEvent.model_json_schema(),
    }


def documents() -> dict[str, str]:
    """The text of each file, by its path under schemas/."""
    return {"events/task-event.v1.json": json.dumps(task_event_schema(), indent=2) + "\n"}


def main() -> None:
    """Write them all."""
    for name, text in documents().items():
        file = FOLDER / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


if __name__ == "__main__":
    main()
