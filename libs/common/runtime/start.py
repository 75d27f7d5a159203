"""How a service's process begins."""

from __future__ import annotations

import sys
from typing import Final

from libs.common.domain.errors import WrongSetting
from libs.common.runtime import failpoints
from libs.common.runtime.logging import configure_logging
from libs.common.runtime.redaction import register_secret
from libs.common.settings import Settings, load_settings

_WRONG_SETTING: Final = 2


def report(wrong: WrongSetting) -> int:
    """Tell whoever started the process; returns its exit code."""
    for line in wrong.lines:
        printable = "".join(character if character.isprintable() else " " for character in line)
        sys.stderr.write(f"sluiceway: {printable}\n")
    return _WRONG_SETTING


def begin(role: str) -> Settings:
    """Read the settings, log and fail as they say; the process ends here with exit code 2 when one cannot be used."""
    try:
        settings = load_settings()
        for secret in settings.secrets():
            register_secret(secret)
        configure_logging(role, settings.log_level, settings.log_format)
        arm_failpoints(settings)
    except WrongSetting as wrong:
        sys.exit(report(wrong))
    return settings


def arm_failpoints(settings: Settings) -> None:
    """Fail where the settings say. Raises WrongSetting."""
    try:
        failpoints.arm(settings.failpoints)
    except ValueError as error:
        raise WrongSetting(f"SLUICEWAY_FAILPOINTS: {error}.") from error
