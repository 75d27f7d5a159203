"""Settings that every service can start with."""

from __future__ import annotations

from libs.common.domain.errors import WrongSetting
from libs.common.settings import Settings, load_settings


def usable_settings() -> Settings:
    """The settings of this process; raises WrongSetting also for what only a service would refuse, as it starts."""
    from libs.common.adapters.egress import EgressGuard
    from libs.common.adapters.object_storage.file_service import upload_address
    from services.api.identity import TrustedPeers, default_identity, names_of, tenants_of
    from services.api.push.face import Origins

    settings = load_settings()
    lines: list[str] = []
    for read in (
        lambda: settings.oss_url and upload_address(settings.oss_url, settings.oss_path),
        lambda: EgressGuard.from_setting(settings.egress_allow),
        lambda: TrustedPeers(settings.trusted_peers, ""),
        lambda: default_identity(settings.default_identity),
        lambda: names_of("SLUICEWAY_USER_INFO_TENANT", settings.user_info_tenant),
        lambda: names_of("SLUICEWAY_USER_INFO_USER", settings.user_info_user),
        lambda: tenants_of("SLUICEWAY_STAT_READERS", settings.stat_readers),
        lambda: Origins(settings.push_origins),
    ):
        try:
            read()
        except WrongSetting as wrong:
            lines += wrong.lines
    if lines:
        raise WrongSetting(*lines)
    return settings
