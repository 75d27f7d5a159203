"""How many calls this process can carry, whose they are, and who may have one more."""

from __future__ import annotations

from collections import Counter
from typing import Final

#: A tenant may have so many slots for each free one. Alone it leaves a twentieth free, and with it another tenant.
_FOR_EACH_FREE_ONE: Final = 19
#: Twice of what a tenant alone leaves free is room enough to read for: less, and it would come and go with every call.
_ENOUGH_SHARE: Final = 0.1


class Slots:
    """A slot is taken before a start is asked for, and goes back when the attempt ends or was not ours.

    However much one tenant has to run, the next one that comes finds a slot; the fewer are free, the fewer a tenant may
    have. Executors of fewer than twenty slots keep none: there a tenant alone may use them all.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self.enough = max(1, int(total * _ENOUGH_SHARE))  #: so many free ones are worth reading for
        self._used_by: Counter[int] = Counter()

    @property
    def free(self) -> int:
        return self.total - self.used

    @property
    def scarce(self) -> bool:
        """Whether there are hardly more than what is kept for who comes next."""
        return self.free < self.enough

    def open_to(self, tenant: int) -> bool:
        """Whether a tenant may have one more."""
        return self._used_by[tenant] < self.free * _FOR_EACH_FREE_ONE

    def take(self, tenant: int) -> bool:
        """Take one for a tenant, if it may have it."""
        if not self.open_to(tenant):
            return False
        self.used += 1
        self._used_by[tenant] += 1
        return True

    def give_back(self, tenant: int) -> None:
        """Give back one that was taken for this tenant."""
        self.used -= 1
        self._used_by[tenant] -= 1
        if not self._used_by[tenant]:
            del self._used_by[tenant]
