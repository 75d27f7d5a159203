"""When the garbage collector looks, in a process of its own: how it collects is a matter of the whole process."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

_PROGRAM: Final = """
import asyncio, os, resource, weakref
from libs.common.runtime import collector

class Kept:  # as an error is by a function of its own traceback
    def __init__(self):
        self.body, self.itself = b"x" * 2**20, self

async def main():
    collector.relieve()
    watching = asyncio.create_task(collector.watch())
    await asyncio.sleep(0)
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (os.dup(0), usual[1]))  # no more files can be opened
    await asyncio.sleep(2.5)
    resource.setrlimit(resource.RLIMIT_NOFILE, usual)
    kept = [weakref.ref(Kept()) for _ in range(200)]
    assert kept[-1]() is not None, "nothing else frees it"
    async with asyncio.timeout(20):
        while any(one() is not None for one in kept):
            await asyncio.sleep(0.1)
    watching.cancel()

asyncio.run(main())
"""


def test_few_cycles_that_weigh_much_are_collected_soon() -> None:
    """600 of a megabyte each stayed until there were 100,000 objects, for good after a moment without free files."""
    subprocess.run([sys.executable, "-c", _PROGRAM], check=True, timeout=60)
