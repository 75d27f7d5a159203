"""adapter_config, read strictly: a name that an adapter does not know is a mistake, not a wish."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from libs.common.domain.endpoint import InvalidEndpoint, request_endpoint
from libs.common.domain.errors import Invalid
from libs.common.domain.model_errors import ModelError
from libs.common.ports_jobs import JobCall

CODE: Final = "model_adapter_config"


class Config(BaseModel):
    """The base of every adapter's configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


_Read = TypeVar("_Read", bound=Config)


def checked(kind: type[_Read], config: Mapping[str, Any]) -> _Read:
    """The configuration as its own kind. Raises Invalid that points at the first mistake and shows no value."""
    try:
        return kind.model_validate(dict(config))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        raise Invalid(CODE, first["msg"], field=pointer(*first["loc"])) from None


def config_of(kind: type[_Read], call: JobCall) -> _Read:
    """The configuration of a call, checked when it was saved, perhaps by an older version. Raises ModelError."""
    try:
        return checked(kind, call.config)
    except Invalid as error:
        raise bad_config(f"{error.field}: {error.message}") from None


def check_base(base_url: str) -> None:
    """Raise Invalid for a base_url behind which no path can be put."""
    if "?" in base_url:
        message = "base_url has a query, but this adapter puts paths behind it"
        raise Invalid("endpoint_query", message, field="/base_url")


def check_path(base_url: str, path: str, *at: str) -> None:
    """Raise Invalid, at a place of adapter_config, where no request with such a path could go."""
    try:
        request_endpoint(base_url, path)
    except InvalidEndpoint as error:
        raise Invalid(CODE, f"no request can go there: {error.message}", field=pointer(*at)) from None


def bad_config(message: str) -> ModelError:
    """A model whose configuration cannot be used."""
    return ModelError("bad_config", message, retryable=False, sent=False)


def pointer(*names: str | int) -> str:
    """A JSON pointer below /adapter_config."""
    return "".join(f"/{str(name).replace('~', '~0').replace('/', '~1')}" for name in ("adapter_config", *names))
