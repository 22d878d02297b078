"""A real worker on whom each rebalance comes in the middle of a poll: `python -m tests.kafka.dawdling`.

On a machine with much to do, a poll may begin before a rebalance and end after the new positions are sought, when the
flow of records is still stopped: Faust drops what it has brought. Here polls take their time, and so does the end of a
seek, so this happens at nearly every rebalance.
"""

from __future__ import annotations

import asyncio
import sys
from itertools import cycle
from typing import Any

from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread

from streams import cli
from streams.transport import BatchConsumerThread

#: A poll begins this much before it takes what there is, in turn; a seek ends so much after it.
POLL_S = cycle((0.0, 0.05, 0.1, 0.2, 0.3))
SEEK_S = 0.25


def main() -> None:
    """`tidemark work`, dawdling."""
    seek: Any = BatchConsumerThread.seek_wait

    async def fetch(self: Any, consumer: Any, active: Any, timeout: Any, max_records: Any) -> Any:  # noqa: ASYNC109 - Faust's signature
        if not self.consumer.flow_active:
            return {}
        await asyncio.sleep(next(POLL_S))
        with consumer._fetcher._subscriptions.fetch_context():
            return await consumer._fetcher.fetched_records(active, timeout=timeout, max_records=max_records)

    async def seek_wait(self: Any, partitions: Any) -> None:
        await seek(self, partitions)
        await asyncio.sleep(SEEK_S)

    AIOKafkaConsumerThread._fetch_records = fetch  # type: ignore[method-assign, assignment]  # what this program is for
    BatchConsumerThread.seek_wait = seek_wait  # type: ignore[method-assign]  # what this program is for
    sys.argv = ["tidemark", "work"]
    cli.main()


if __name__ == "__main__":
    main()
