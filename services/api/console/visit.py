"""One request to the console: who makes it, what they asked for, and what they may do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import urlencode
from uuid import UUID

from starlette.requests import Request

from libs.common.domain.errors import Invalid
from libs.common.ports_tasks import KeyOwner
from services.api.problems import Problem
from services.api.routes.context import task_id_of

SESSION_COOKIE: Final = "sluiceway_session"
THEME_COOKIE: Final = "sluiceway_theme"
THEMES: Final = ("auto", "light", "dark")
#: Who may cancel tasks.
CANCELING: Final = ("submit", "operate")
#: Who may replay and drop the dead: those of their own tenant, operators everybody's.
REPLAYING: Final = ("admin", "operate")


@dataclass(frozen=True, slots=True)
class Visit:
    """A request of somebody who is signed in."""

    request: Request
    viewer: KeyOwner
    cookie: str = field(repr=False)
    form: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def theme(self) -> str:
        """Which colours they chose."""
        return theme_of(self.request)

    @property
    def operates(self) -> bool:
        """Whether they look after all tenants."""
        return "operate" in self.viewer.scopes

    @property
    def reach(self) -> int | None:
        """The tenant that they may see, None for all."""
        return None if self.operates else self.viewer.tenant_id

    @property
    def caller(self) -> KeyOwner:
        """Inside which tenant they look: their own, or for operators the one that the address or the form names."""
        named = (self.form.get("tenant") or self.asked("tenant")) if self.operates else ""
        return replace(self.viewer, tenant_id=tenant_id_of(named)) if named else self.viewer

    @property
    def by(self) -> str:
        """Who does it, as records keep it."""
        return f"{self.viewer.name or f'key {self.viewer.id}'} of tenant {self.viewer.tenant_id}"

    def stay(self, path: str) -> str:
        """Another path with the parameters of this address."""
        query = self.request.url.query
        return f"{path}?{query}" if query else path

    def link(self, path: str, **parameters: object) -> str:
        """An address inside the tenant that they look at; an operator's names it, so that a colleague sees the same."""
        return address(path, tenant=self.caller.tenant_id if self.operates else None, **parameters)

    @property
    def may_cancel(self) -> bool:
        """Whether they may cancel tasks."""
        return bool(self.viewer.scopes.intersection(CANCELING))

    @property
    def may_replay(self) -> bool:
        """Whether they may replay and drop what they see of the dead."""
        return bool(self.viewer.scopes.intersection(REPLAYING))

    @property
    def here(self) -> str:
        """The address of this page."""
        return here(self.request)

    def asked(self, name: str) -> str:
        """A parameter of the address; empty when it is not there."""
        return self.request.query_params.get(name, "")

    def with_form(self, form: Mapping[str, str]) -> Visit:
        """The same with what was sent."""
        return replace(self, form=form)

    def task_id(self) -> UUID:
        """The task that the path names; raises NotFound."""
        return task_id_of(self.request.path_params["task_id"])


def tenant_id_of(text: str) -> int:
    """A tenant's number in an address; raises Invalid."""
    text = text.strip()
    if not re.fullmatch(r"-?[0-9]{1,19}", text) or not -(2**63) <= int(text) < 2**63:
        raise Invalid("invalid", "A tenant is named by its number.")
    return int(text)


def address(path: str, **parameters: object) -> str:
    """A path with those parameters that say something."""
    said = {name: value for name, value in parameters.items() if value not in (None, "")}
    return f"{path}?{urlencode(said)}" if said else path


def require_any(viewer: KeyOwner, scopes: tuple[str, ...]) -> None:
    """Raises Problem (403) unless the key has one of the scopes, or none is asked for."""
    if scopes and not viewer.scopes.intersection(scopes):
        raise Problem("forbidden", f"This needs an API key with the scope {' or '.join(scopes)}.")


def theme_of(request: Request) -> str:
    """The theme in a request's cookie; what the system says when there is none."""
    chosen = request.cookies.get(THEME_COOKIE, THEMES[0])
    return chosen if chosen in THEMES else THEMES[0]


def here(request: Request) -> str:
    """Path and query of a request."""
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")
