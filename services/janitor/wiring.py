"""What the janitor is made of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from random import Random
from typing import Final

from libs.common.adapters.postgres.database import open_database
from libs.common.adapters.postgres.sweeps import PostgresOpenTasks, PostgresSweeps
from libs.common.adapters.redis.connection import open_redis
from libs.common.adapters.redis.hints import open_hints
from libs.common.adapters.redis.permits import RedisPermits
from libs.common.adapters.redis.queue_gate import RedisQueueGate
from libs.common.adapters.redis.rebuild import open_rebuilder
from libs.common.runtime.health import Health
from libs.common.runtime.periodic import Periodic
from libs.common.settings import Settings
from services.janitor.beats import BeatWatch
from services.janitor.endings import Endings
from services.janitor.maintenance import Maintenance
from services.janitor.returns import Returns
from services.janitor.sweeps.expiry import Expiry
from services.janitor.sweeps.figures import Figures
from services.janitor.sweeps.leaks import Leaks, permits, slots
from services.janitor.sweeps.overdue import Overdue
from services.janitor.sweeps.promote import Promote
from services.janitor.sweeps.prune import Prune
from services.janitor.sweeps.renewal import PermitRenewal, SlotRenewal
from services.janitor.sweeps.republish import Republish
from services.janitor.sweeps.rescue import Rescue
from services.janitor.sweeps.retries import Retries
from services.janitor.sweeps.statistics import Statistics
from services.janitor.sweeps.waits import Cancels, ClosedLanes, TooLong
from services.janitor.wake import Wake

_EVERY_SECOND: Final = timedelta(seconds=1)


@asynccontextmanager
async def open_janitor(settings: Settings, health: Health) -> AsyncIterator[Maintenance]:
    """A janitor over real servers. None of them need be there yet: each is waited for."""
    database_url = settings.database_url.get_secret_value()
    async with (
        open_database(database_url, hot_connections=4) as database,
        # The rescue has connections of its own: no other sweep may make it late.
        open_database(database_url, hot_connections=2) as rescue_database,
        open_redis(settings.redis_url.get_secret_value()) as redis,
        open_hints(redis) as hints,
        open_rebuilder(redis, PostgresOpenTasks(database)) as rebuilder,
    ):
        sweeps, source = PostgresSweeps(database), PostgresOpenTasks(database)
        gate, semaphore = RedisQueueGate(redis, rebuilder), RedisPermits(redis, rebuilder)
        returns, wake, watch = Returns(gate, semaphore), Wake(hints), BeatWatch()
        endings = Endings(sweeps, returns, wake)
        rng = Random()  # noqa: S311 - spreads retries
        rescue = Rescue(PostgresSweeps(rescue_database), returns, wake, watch)
        republish = Republish(sweeps, wake, watch)
        every_second = [
            # Without jitter: the lease's promise (10 s and one look) counts on it.
            Periodic("rescue", _EVERY_SECOND, rescue.look, jitter=0),
            Periodic("promote", _EVERY_SECOND, Promote(sweeps, wake).sweep),
            Periodic("retries", _EVERY_SECOND, Retries(sweeps, gate, returns, wake, rng).sweep),
            Periodic("cancels", _EVERY_SECOND, Cancels(sweeps, endings).sweep),
        ]
        upload_seconds = settings.upload_max_seconds
        days = {"unfetched_days": settings.unfetched_days, "dead_days": settings.dead_days}
        expiry = Expiry(sweeps, **days)
        seconds = settings.janitor_interval
        actions = {
            "heal": republish.heal_leases,
            "republish": republish.republish_lost,
            "overdue": Overdue(sweeps, returns, wake, rng, upload_seconds=upload_seconds).sweep,
            "waited-too-long": TooLong(sweeps, endings, max_wait_seconds=settings.max_wait_seconds).sweep,
            "model-deleted": ClosedLanes(sweeps, endings).sweep,
            "slot-renewal": SlotRenewal(sweeps, gate, interval_seconds=seconds).sweep,
            "permit-renewal": PermitRenewal(sweeps, semaphore, source).sweep,
            "slot-leaks": Leaks(sweeps, slots(sweeps, gate)).sweep,
            "permit-leaks": Leaks(sweeps, permits(sweeps, semaphore)).sweep,
            "expired": expiry.fetched,
            "unfetched": expiry.unfetched,
            "dead": expiry.dead,
            "statistics": Statistics(sweeps).sweep,
            "prune": Prune(sweeps, dead_days=settings.dead_days).sweep,
            "figures": Figures(sweeps, gate, semaphore).sweep,
        }
        interval = timedelta(seconds=seconds)
        health.need("postgres", lambda: database.fetch("database_now"))
        health.need("redis", redis.ping)
        yield Maintenance(every_second + [Periodic(name, interval, action) for name, action in actions.items()])
