"""Rows a second of the clusterer and the catalogue alone, on one core."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median

import numpy as np
from numpy.typing import NDArray

from models.microclusters import MicroClusters
from models.rows import FEATURES
from models.segments import Catalogue, Segment

#: As in the goals: batches of a thousand rows, 16 features, 8 segments.
BATCH, SEGMENTS = 1_000, 8
#: Rows of one measurement, between two fits (a day of so many wallets), and how often everything is measured.
ROWS, BETWEEN_FITS, TIMES = 200_000, 100_000, 3

Rows = NDArray[np.float64]


def speeds(rows: int = ROWS) -> dict[str, float]:
    """Rows a CPU-second: learning and predicting in turn, on a stream that stays and on one that drifts; placing."""
    learning = median(learn_and_predict(list(stream(rows, drift=0.0))) for _ in range(TIMES))
    drifting = median(learn_and_predict(list(stream(rows, drift=1.0))) for _ in range(TIMES))
    return {
        "learn_predict_rows_per_second": round(learning),
        "learn_predict_drifting_rows_per_second": round(drifting),
        "place_rows_per_second": round(median(place() for _ in range(TIMES))),
    }


def stream(rows: int, *, drift: float) -> Iterator[Rows]:
    """Batches around eight centres, which move by `drift` of their spread on the way."""
    chance = np.random.default_rng(5)
    centres, ways = chance.normal(0, 3, (2, SEGMENTS, len(FEATURES)))
    spreads = np.exp(chance.normal(-0.5, 0.5, (SEGMENTS, len(FEATURES))))
    for start in range(0, rows, BATCH):
        who = chance.integers(SEGMENTS, size=BATCH)
        moved = centres + drift * (start / rows) * ways
        yield moved[who] + chance.normal(size=(BATCH, len(FEATURES))) * spreads[who]


def learn_and_predict(batches: list[Rows]) -> float:
    """Rows a second once the clusters are there, fits included."""
    model = MicroClusters(fewest=SEGMENTS, most=SEGMENTS, refit_every=BETWEEN_FITS)
    for batch in batches[:10]:
        model.learn_many(batch)
    model.refit()
    began = time.process_time()
    for batch in batches[10:]:
        model.learn_many(batch)
        model.predict_many(batch)
    return len(batches[10:]) * BATCH / (time.process_time() - began)


def place(times: int = 300) -> float:
    """Rows a second that a catalogue scores for every segment."""
    chance = np.random.default_rng(6)
    catalogue = Catalogue(
        mean=chance.normal(size=len(FEATURES)),
        sd=np.ones(len(FEATURES)),
        centres=chance.normal(size=(SEGMENTS, len(FEATURES))),
        variances=np.ones((SEGMENTS, len(FEATURES))),
        shares=np.full(SEGMENTS, 1 / SEGMENTS),
        version=1,
        segments=tuple(Segment(n + 1, n, f"segment {n}", 1 / SEGMENTS, 1) for n in range(SEGMENTS)),
    )
    rows = chance.normal(size=(BATCH, len(FEATURES)))
    work: Callable[[Rows], Rows] = catalogue.place
    work(rows)
    began = time.process_time()
    for _ in range(times):
        work(rows)
    return times * BATCH / (time.process_time() - began)
