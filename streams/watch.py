"""Follows the segment changes as workers announce them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from streams.topics import reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streams.settings import Settings


def follow(
    settings: Settings, *, from_start: bool = False, should_stop: Callable[[], bool] = lambda: False
) -> Iterator[dict[str, Any]]:
    """Every segment change from now on, as it was announced; with `from_start` those that are there already, too.

    In the order of each wallet. A change may come again after a worker's crash: the same `wallet_id` and `sequence`.
    Ends when `should_stop`, asked every half second, says so.
    """
    with reading(settings, settings.changes_topic, fetch_max_wait_ms=100) as consumer:
        if from_start:
            consumer.seek_to_beginning()
        else:
            consumer.seek_to_end()
        while not should_stop():
            for records in consumer.poll(timeout_ms=500).values():
                yield from (json.loads(record.value) for record in records if record.value)
