import time, asyncio
from contextlib import AsyncExitStack
from tests.support.executor_rig import open_rig
async def test_a(database_url, redis_url, kafka_bootstrap, broker_choice, topic_prefix):
    for _ in range(3):
        t=time.time()
        async with open_rig(database_url, redis_url, kafka_bootstrap, broker_choice.kind, topic_prefix) as rig:
            print("open", time.time()-t); t=time.time()
            m = await rig.make_model(); print("model", time.time()-t); t=time.time()
            r = await rig.executor(); print("executor", time.time()-t); t=time.time()
            ids = await rig.make_tasks(m); await rig.dispatch(m); await rig.ended(ids)
            print("task", time.time()-t); t=time.time()
            await r.stop(); print("stop", time.time()-t); t=time.time()
            await rig.closing.aclose(); print("closing", time.time()-t); t=time.time()
        print("rest", time.time()-t)
