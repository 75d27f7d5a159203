"""Every key that we use in Redis. The lane is the hash tag, so that a script stays inside one cluster slot."""

from __future__ import annotations


def gate(lane: int) -> str:
    """Slots: public id of the task -> end of the slot in ms."""
    return f"sw:{{{lane}}}:gate"


def permits(lane: int) -> str:
    """Permits: token of the attempt -> end of the permit in ms."""
    return f"sw:{{{lane}}}:permits"


def waiting(lane: int) -> str:
    """Set while somebody was refused a permit and nobody has been woken since."""
    return f"sw:{{{lane}}}:waiting"


def known(lane: int) -> str:
    """Set while gate and permits are complete; whoever loses Redis's memory loses it too. Tells when that was."""
    return f"sw:{{{lane}}}:known"


def listeners() -> str:
    """Tenants that somebody listens to -> until when, in seconds, unless it is said again."""
    return "sw:listeners"


def lock(lane: int) -> str:
    """Held by the process that rebuilds the lane."""
    return f"sw:{{{lane}}}:lock"
