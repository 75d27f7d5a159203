"""How many calls this process can carry, and whether it should be given more."""

from __future__ import annotations

from typing import Final

#: A full executor reads again when this share of its slots is free: less, and it would come and go with every call.
_ROOM_SHARE: Final = 0.05


class Slots:
    """A slot is taken before a start is asked for, and goes back when the attempt ends or was not ours."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self._full = False

    @property
    def free(self) -> int:
        return self.total - self.used

    def take(self, count: int) -> None:
        """Take `count`, which must be free."""
        self.used += count

    def give_back(self, count: int = 1) -> None:
        """Give back as many."""
        self.used -= count

    @property
    def full(self) -> bool:
        """Whether others should read in our place; it stays so until there is some room."""
        if self.free <= 0:
            self._full = True
        elif self._full and self.free >= max(1, int(self.total * _ROOM_SHARE)):
            self._full = False
        return self._full
