"""The stack of `sluiceway up` on this machine, for commands that go to the stores themselves."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

from services.cli.output import note

#: Commands that make such a stack, or a service of some stack: told by their environment alone.
OWN_SETTINGS = ("up", "down", "status", "demo", "api", "dispatcher", "executor", "janitor")


def offer_stack(environment: Mapping[str, str] = os.environ) -> None:
    """Say how to get stores, where none are named and no stack runs here whose stores would have been adopted."""
    if not (environment.get("SLUICEWAY_DATABASE_URL") or environment.get("SLUICEWAY_DATABASE_URL_FILE")):
        note("no stack runs here: `sluiceway up` starts one.")


def adopt_stack(environment: MutableMapping[str, str] = os.environ) -> None:
    """Where no database is named, or that of the stack running here: take this stack's settings where none are given.

    So that after `sluiceway up`, `audit` looks at all of its stores and topics, whatever prefix they were given, and
    `dead show` can open what is sealed.
    """
    from libs.common.domain.errors import WrongSetting
    from libs.common.embedded import running
    from libs.common.embedded.data_folder import chosen_folder

    try:
        folder = chosen_folder(None, environment)
        report = running.current_report(folder.path)
    except (WrongSetting, OSError):  # there is none, or it is somebody else's
        return
    if report is None or report["pid"] is None or environment.get("SLUICEWAY_DATABASE_URL_FILE"):
        return
    if environment.get("SLUICEWAY_DATABASE_URL") not in (None, "", report["database"]):
        return
    found = {
        "SLUICEWAY_DATABASE_URL": report["database"],
        "SLUICEWAY_REDIS_URL": report["redis"],
        "SLUICEWAY_KAFKA_BOOTSTRAP": report["kafka"],
        "SLUICEWAY_BROKER": report.get("broker_kind", ""),
        "SLUICEWAY_STORAGE_URL": report["object_store"],
        **report.get("settings", {}),
    }
    for name, value in found.items():
        plain = name.removesuffix("_FILE")
        if value and not environment.get(plain) and not environment.get(f"{plain}_FILE"):
            environment[name] = value
