"""A process with a wrong wall clock: this folder on PYTHONPATH, and CLOCK_AHEAD seconds (negative: behind).

`time.monotonic` stays right, as it does on a machine whose wall clock is wrong.
"""

import datetime
import os
import time

_ahead = float(os.environ["CLOCK_AHEAD"])
_right_datetime, _right_time, _right_time_ns = datetime.datetime, time.time, time.time_ns


class _Alike(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _right_datetime)


class _WrongDatetime(_right_datetime, metaclass=_Alike):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
        return _right_datetime.fromtimestamp(time.time(), tz)


time.time = lambda: _right_time() + _ahead
time.time_ns = lambda: _right_time_ns() + int(_ahead * 1_000_000_000)
datetime.datetime = _WrongDatetime  # type: ignore[misc]
