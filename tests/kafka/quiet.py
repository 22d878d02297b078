"""A real worker that dies quietly once it is ready: `python -m tests.kafka.quiet ended | silent | loop`.

- `ended`: the task that fetches from Kafka ends. Nothing else notices: the group is kept, the process lives.
- `silent`: the task is there and fetches nothing any more.
- `loop`: something holds the event loop for a while.

What takes a minute or two in earnest takes seconds here.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from streams import cli, health, worker

SECONDS = 4.0


def die(app: Any, way: str) -> None:
    """End as quietly as it goes."""
    if way == "loop":
        time.sleep(4 * SECONDS)
        return
    thread = app.consumer._thread
    fetcher = thread._consumer._fetcher
    thread.thread_loop.call_soon_threadsafe(fetcher._fetch_task.cancel)
    if way == "silent":
        fetcher._fetch_task = asyncio.Future(loop=thread.thread_loop)


def main() -> None:
    """Work, and die."""
    way = sys.argv[1]
    health.LOOP_S = SECONDS
    for name in ("ended", "silent"):
        health.KINDS[name] = health.KINDS[name]._replace(dead_s=SECONDS)
    until_the_end: Any = worker.Worker._until_the_end

    async def dying(self: worker.Worker, *rest: Any) -> Any:
        async def later() -> None:
            while not self.lookout.ready().good:  # noqa: ASYNC110 -- nothing tells of it
                await asyncio.sleep(0.2)
            await asyncio.sleep(1)
            die(self.app, way)

        task = asyncio.create_task(later())
        try:
            return await until_the_end(self, *rest)
        finally:
            task.cancel()

    worker.Worker._until_the_end = dying  # type: ignore[method-assign, assignment]  # that is what this program is for
    sys.argv[1:] = ["work"]
    cli.main()


if __name__ == "__main__":
    main()
