"""The doctor: what is wrong with an installation, and what to do next.

Looks at settings and servers from where it runs, changes nothing but a probe file, and never shows a secret.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

_CHECK_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has to say. A problem keeps the product from working; advice is for a quieter night."""

    level: Literal["ok", "advice", "problem"]
    what: str
    do: str = ""


def fine(what: str) -> Finding:
    """Nothing to do."""
    return Finding("ok", what)


def advice(what: str, do: str) -> Finding:
    """It works, but it should not stay so."""
    return Finding("advice", what, do)


def problem(what: str, do: str) -> Finding:
    """It does not work."""
    return Finding("problem", what, do)


Examination: TypeAlias = Callable[[], Awaitable[list[Finding]]]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings by what was looked at."""

    findings: Mapping[str, list[Finding]] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        return not any(finding.level == "problem" for found in self.findings.values() for finding in found)

    def as_dict(self) -> dict[str, Any]:
        """Problems and advice with what to do about them, and what is in order."""

        def of(level: str) -> list[dict[str, str]]:
            return [
                {"check": name, "what": finding.what, "do": finding.do}
                for name, found in self.findings.items()
                for finding in found
                if finding.level == level
            ]

        in_order = [{"check": entry["check"], "what": entry["what"]} for entry in of("ok")]
        return {"healthy": self.healthy, "problems": of("problem"), "advice": of("advice"), "ok": in_order}


async def examine(examinations: Mapping[str, Examination]) -> Diagnosis:
    """Run all examinations side by side; one that fails or hangs is a problem of its own."""
    found = await asyncio.gather(*(_run(name, look) for name, look in examinations.items()))
    return Diagnosis(dict(zip(examinations, found, strict=True)))


async def _run(name: str, look: Examination) -> list[Finding]:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            return await look()
    except TimeoutError:
        return [problem(f"no answer within {_CHECK_SECONDS:.0f} s", f"look at the log of {name}, and at the network")]
    except Exception as error:  # whatever it is, the operator should hear of it, and of the other stores
        text = f"{type(error).__name__}: {error}".rstrip(": ")[:300]
        return [problem(f"the examination failed: {text}", "this is a defect: please report it")]
