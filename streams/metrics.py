"""What a worker counts, as Prometheus reads it: the only file that knows prometheus_client.

Nothing is kept here: a page is made of the tally and of what the loop saw last, so a partition that leaves this worker
leaves its pages too, and a batch costs nothing more.
"""

from __future__ import annotations

import time
from itertools import accumulate, product
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from streams.endpoint import Page
from streams.tally import OUTCOMES, PHASES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from streams.health import Pulse, Vitals
    from streams.tally import Spread, Tally

#: Every series there can be is there from the start: an increase from "absent" to 1 is none to Prometheus.
REASONS = (
    "null_value", "too_large", "not_utf8", "not_json", "not_an_object", "too_deep", "missing_field", "wrong_type",
    "unknown_value", "out_of_range", "key_missing", "key_mismatch", "wrong_partition", "from_the_future",
)  # fmt: skip
MOVES = tuple(product(("entered", "moved", "left"), ("live", "sweep", "recalibration")))


class Facts(NamedTuple):
    """What a page is made of. `inputs`: topics in the order of the lanes. `is_ready`: as /ready says."""

    inputs: tuple[str, str]
    tally: Tally
    vitals: Callable[[], Vitals]
    is_ready: Callable[[], bool]


class Exposition(Collector):
    """The metrics of one worker."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def page(self) -> Page:
        return Page(200, CONTENT_TYPE_PLAIN_0_0_4, generate_latest(self._registry))

    def collect(self) -> Iterator[Metric]:
        facts, vitals = self._facts, self._facts.vitals()
        yield from _counted(facts.inputs, facts.tally)
        yield from _spread(facts.tally)
        yield from _positions(vitals.pulses, time.time_ns() // 1_000_000)
        yield CounterMetricFamily(
            "tidemark_rebalances", "Rebalances this worker took part in, its first one included.", vitals.rebalances
        )
        yield GaugeMetricFamily(
            "tidemark_catalogue_version", "Catalogue that wallets are placed with, 0 none.", vitals.catalogue
        )
        yield GaugeMetricFamily("tidemark_ready", "1 while /ready answers 200.", float(facts.is_ready()))


def _counted(inputs: tuple[str, str], tally: Tally) -> Iterator[Metric]:
    events = CounterMetricFamily("tidemark_events", "Records committed.", labels=("topic", "outcome"))
    for (lane, topic), outcome in product(enumerate(inputs), OUTCOMES):
        events.add_metric((topic, outcome), tally.events[lane, outcome])
    yield events
    yield _by(
        ("reason",), "tidemark_rejected", "Records rejected.", (((each,), tally.reasons[each]) for each in REASONS)
    )
    yield _by(
        ("status", "origin"), "tidemark_segment_changes", "Segment changes committed.",
        ((move, tally.moves[move]) for move in MOVES),
    )  # fmt: skip
    yield CounterMetricFamily(
        "tidemark_beyond_memory", "Touches and fees dropped by the bounds of a wallet's memory.", tally.beyond_memory
    )
    yield CounterMetricFamily(
        "tidemark_wallet_cache_hits", "Wallets of batches that were in memory.", tally.found_wallets
    )
    yield CounterMetricFamily(
        "tidemark_wallet_cache_misses", "Wallets of batches that were not in memory.", tally.missed_wallets
    )
    yield CounterMetricFamily("tidemark_overview_waits", "Waits for the model that were given up.", tally.waits)
    spent = (((phase.removesuffix("_s"),), getattr(tally, phase)) for phase in PHASES)
    yield _by(("phase",), "tidemark_phase_seconds", "Time batches spent in each phase.", spent)


def _by(labels: tuple[str, ...], name: str, meaning: str, values: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    family = CounterMetricFamily(name, meaning, labels=labels)
    for given, value in values:
        family.add_metric(given, value)
    return family


def _spread(tally: Tally) -> Iterator[Metric]:
    yield _histogram("tidemark_commit_duration_seconds", "Commits, waits for Redis included.", tally.commits)
    yield _histogram("tidemark_batch_records", "Records of a batch.", tally.sizes)


def _histogram(name: str, meaning: str, spread: Spread) -> Metric:
    family = HistogramMetricFamily(name, meaning)
    bounds = [*map(str, spread.bounds), "+Inf"]
    family.add_metric((), list(zip(bounds, accumulate(spread.counts), strict=True)), spread.sum)
    return family


def _positions(pulses: Iterable[Pulse], now_ms: int) -> Iterator[Metric]:
    records = GaugeMetricFamily(
        "tidemark_consumer_lag_records", "Records not committed yet.", labels=("topic", "partition")
    )
    times = GaugeMetricFamily(
        "tidemark_event_time_lag_seconds", "Wall clock minus event time, 0 without lag.", labels=("partition",)
    )
    for pulse in pulses:
        number = pulse.name if isinstance(pulse.name, int) else 0
        for lane in pulse.lanes:
            if lane.lag is not None:
                records.add_metric((lane.topic, str(number)), lane.lag)
        behind_s = pulse.event_time_lag_s(now_ms)
        if isinstance(pulse.name, int) and behind_s is not None:
            times.add_metric((str(number),), behind_s)
    yield records
    yield times
