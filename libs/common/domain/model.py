"""A model: a tenant's named configuration of one model service."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import Any, Final

from libs.common.domain.errors import Invalid

HTTP_METHODS: Final = ("POST", "GET")
NAME_LIMIT: Final = 128
#: Clients and proxies take these out of a path, browsers even where they are written %2E: nobody could read the model.
_PARTS_OF_PATHS: Final = (".", "..")
ADDRESS_LIMIT: Final = 2_048
MAX_INT: Final = 2_147_483_647
PARTITIONS_LIMIT: Final = 8
DAY_SECONDS: Final = 86_400

#: Zero and negative numbers of these fields mean the default.
_POSITIVE: Final = (
    "max_concurrency", "queue_limit", "timeout_seconds", "auto_clean_seconds", "poll_seconds", "job_timeout_seconds",
)  # fmt: skip
#: Negative numbers of these mean 0, as they did for the old gateway, which compared and never refused them.
_NONE_BELOW_ZERO: Final = ("retry_times", "retry_queue_max_seconds", "expected_seconds", "price")
_CEILINGS: Final = {
    "timeout_seconds": DAY_SECONDS,
    "job_timeout_seconds": DAY_SECONDS,
    "poll_seconds": 3_600,
    "retry_times": 1_000,
}


@dataclass(frozen=True, slots=True)
class Model:
    """One model as it is stored; `bindings` is the sealed api_key, never clear text."""

    id: int
    lane: int
    tenant_id: int
    name: str
    base_url: str
    route: str = ""
    http_method: str = "POST"
    bindings: bytes | None = None
    enabled: bool = True
    max_concurrency: int = 10
    queue_limit: int = 1_000
    timeout_seconds: int = 60
    expected_seconds: int = 0
    retry_times: int = 0
    retry_queue_max_seconds: int = 0
    auto_clean_seconds: int = DAY_SECONDS
    adapter: str = "plain-http"
    adapter_config: str = "{}"
    poll_seconds: int = 3
    job_timeout_seconds: int = 3_600
    price: int = 0
    remark: str = ""
    partitions: int = 1
    version: int = 1
    deleted: bool = False

    @property
    def slot_ttl_ms(self) -> int:
        """How long a gate slot lives unrenewed: max(1 h, min(24 h, 10 x expected_seconds))."""
        return max(3_600, min(DAY_SECONDS, 10 * self.expected_seconds)) * 1_000


_DEFAULTS: Final[dict[str, Any]] = {field.name: field.default for field in dataclass_fields(Model)}


def window(max_concurrency: int) -> int:
    """How many of a lane's rows may be in flight: its calls plus a small prefetch, as far as can be counted."""
    return min(max_concurrency + min(max(max_concurrency, 2), 64), MAX_INT)


def partitions(max_concurrency: int, slots: int) -> int:
    """How many partitions a model's topic gets: one unless one executor's slots cannot carry it."""
    if max_concurrency <= slots:
        return 1
    return min(-(-max_concurrency // slots) * 2, PARTITIONS_LIMIT)


def normalised(fields: dict[str, Any]) -> dict[str, Any]:
    """The given fields with the rules for models applied; raises Invalid naming the field that breaks one."""
    clean = dict(fields)
    for name in _POSITIVE:
        if name in clean and clean[name] <= 0:
            clean[name] = _DEFAULTS[name]
    for name, ceiling in _CEILINGS.items():
        if clean.get(name, 0) > ceiling:
            raise Invalid("model_limit", f"{name} may be at most {ceiling}", field=f"/{name}")
    for name, value in clean.items():
        if isinstance(value, int) and not isinstance(value, bool) and not -MAX_INT <= value <= MAX_INT:
            raise Invalid("model_limit", f"{name} is out of range", field=f"/{name}")
    for name in _NONE_BELOW_ZERO:
        if clean.get(name, 0) < 0:
            clean[name] = 0
    if "http_method" in clean:
        clean["http_method"] = clean["http_method"].upper()
        if clean["http_method"] not in HTTP_METHODS:
            raise Invalid("model_method", "http_method must be GET or POST", field="/http_method")
    if "name" in clean:
        _check_name(clean["name"])
    return clean


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > NAME_LIMIT:
        raise Invalid("model_name", f"name must have 1 to {NAME_LIMIT} characters", field="/name")
    if any(ord(character) < 32 or 0xD800 <= ord(character) <= 0xDFFF for character in name):
        raise Invalid("model_name", "name has control characters", field="/name")
    if name in _PARTS_OF_PATHS:
        raise Invalid("model_name", f"name must not be {name}, which is no name in an address", field="/name")
