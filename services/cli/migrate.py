"""`sluiceway migrate`: the tables of this version."""

from __future__ import annotations

import json

from services.cli.app import app
from services.cli.output import OneObjectOption
from services.cli.wiring import complete


@app.command()
def migrate(as_json: OneObjectOption = False) -> None:
    """Create or upgrade the tables; safe to run from many places at once.

    Example: sluiceway migrate
    """
    from libs.common.adapters.postgres.migrate import upgrade
    from libs.common.settings import load_settings

    revision = complete(upgrade(load_settings().database_url.get_secret_value()))
    print(json.dumps({"revision": revision}) if as_json else f"the database is at revision {revision}")
