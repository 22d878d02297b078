"""The rules a step obeys: frozen, read once from the settings, handed over as a value."""

from __future__ import annotations

from dataclasses import dataclass

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

#: Who learns the segments: our own clusterer, or one of River's in its place.
OWN_CLUSTERER = "tidemark"
CLUSTERERS = (
    OWN_CLUSTERER,
    "river.KMeans",
    "river.STREAMKMeans",
    "river.DBSTREAM",
    "river.DenStream",
    "river.CluStream",
)

#: The largest value of an input record, in bytes; more is `too_large`.
LARGEST_VALUE = 1 << 20
#: Scaled features are cut off at this many standard deviations: one absurd amount must not decide everything.
WINSOR = 4.0


@dataclass(frozen=True, slots=True)
class Rules:
    """Every number a decision depends on. Durations are milliseconds of event time.

    Workers of one group must agree on all of them: they decide what is written.
    """

    #: An event older than the clock minus this is late: still counted, no longer sure to be re-credited.
    lateness_ms: int = HOUR_MS
    #: An event later than its record's timestamp plus this is rejected as `from_the_future`.
    future_ms: int = 10 * 60_000
    #: One event moves the clock of a partition by at most this.
    clock_step_ms: int = DAY_MS
    #: A touch earns credit for transactions up to this much later.
    look_back_ms: int = 30 * DAY_MS
    #: Touches of a wallet kept for credit.
    touches_kept: int = 128
    #: Transactions with a fee of a wallet kept for re-credit, at least 5.
    fees_kept: int = 256
    #: The newest touches that share one transaction.
    eligible_touches: int = 64
    #: Transactions a wallet needs before it is given a segment.
    evidence: int = 5
    #: Which partitioner the producers use: murmur2, crc32, or off (not checked).
    partitioner: str = "murmur2"
    #: Score (nats, leaky) another segment must gain over the wallet's own before the wallet moves.
    switch_at: float = 10.0
    #: Bounds of the number of segments the overview may choose.
    fewest_segments: int = 3
    most_segments: int = 12
    #: Which of `CLUSTERERS` learns, and its parameters as canonical JSON.
    clusterer: str = OWN_CLUSTERER
    clusterer_params: str = "{}"
    #: Names of the input topics, as they appear in events (`source.topic`).
    transactions_topic: str = "wallet.transactions"
    touches_topic: str = "campaign.touches"
    #: `ce_source` of announced events, the group part; the shell adds the topic id.
    source: str = "/tidemark/tidemark"
