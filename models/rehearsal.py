"""A rehearsal of the step: what it is made of is compiled, or read from disk, before the first event is there."""

from __future__ import annotations

import json
import math

import numpy as np

from models.cells import add_cells, encode_cells
from models.counters import NUMBERS, Codes
from models.features import row_features
from models.journeys import unpack_journals
from models.lifecycle import horizon
from models.merging import weave, woven
from models.patches import store, words_of
from models.records import NULL, RECORD, Record, distinct_keys, records_of, together
from models.rows import FEATURES, blank_rows, unpack_rows
from models.rules import HOUR_MS, Rules
from models.segments import Catalogue, Segment
from models.state import TOUCHES, TRANSACTIONS, Batch, State, Totals, Wallets
from models.step import step
from models.sweep import sweep
from models.wire import headers_of, packed_headers, unpack

NOON_MS = 1_775_001_600_000
KEY = b"w"


def rehearse() -> None:
    """Run two batches and a sweep through all that is compiled; some 40 s after the code has changed, else 0.7 s."""
    arrive()
    catalogue = two_segments()
    state = State(0, 1, 0, Totals(), Codes(), Wallets([KEY], blank_rows(1), [None]))
    for number in range(2):
        records, lanes = a_batch(number)
        state, _ = step(
            state,
            Batch(records_of(records), lanes, np.zeros(len(records), np.int64)),
            Rules(partitioner="off"),
            catalogue,
        )
    unpack_journals([journal for journal in state.wallets.journals if journal])
    stored = state.wallets.rows.tobytes()
    name = np.frombuffer(KEY, np.uint8)
    words, ends = words_of(state.wallets.rows), np.array([len(KEY)])
    store((name, name, ends), words, words, np.zeros(1, np.int64))
    unpack_rows([stored + bytes(-(-words.shape[1] // 8))])
    due_ms = int(state.wallets.rows["due_s"][0]) * 1000
    sweep(state, horizon(state.clock_ms, due_ms), (TRANSACTIONS, a_batch(2)[0][0]), Rules(), catalogue)
    catalogue.place(row_features(state.wallets.rows))
    cells = np.zeros((1, NUMBERS), np.int64)
    add_cells(cells, np.zeros(1, np.int64), cells.copy())
    encode_cells(cells)


def arrive() -> None:
    """The way of records from a broker's answer to a batch."""
    octets, order = np.frombuffer(packed_headers([("name", b"")]), np.uint8), np.empty(14, np.uint8)
    unpack(octets, 0, len(octets), (0, 0, 0, NULL), np.empty(1, RECORD))
    logs = [records_of(a_batch(number)[0]) for number in range(2)]
    weave(logs[0].rows, logs[1].rows, math.inf, (len(order), 1 << 20), order)
    woven(logs[:1], logs[1:], np.repeat(np.array([0, 1], np.uint8), 7))
    distinct_keys(together(logs), len(KEY))
    headers_of(bytes(octets))


def two_segments() -> Catalogue:
    """A catalogue."""
    centres = np.zeros((2, len(FEATURES)))
    centres[1] = 1
    return Catalogue(
        version=1,
        mean=np.zeros(len(FEATURES)),
        sd=np.ones(len(FEATURES)),
        centres=centres,
        variances=np.ones_like(centres),
        shares=np.array([0.5, 0.5]),
        segments=(Segment(1, 0, "low", 0.5, 1), Segment(2, 1, "high", 0.5, 1)),
        whale_at=10.0,
    )


def a_batch(number: int) -> tuple[list[Record], bytes]:
    """Six transactions, and a touch that comes after them and was before."""
    at_ms = NOON_MS + number * HOUR_MS
    trade = {"wallet_id": "w", "kind": "trade", "product": "spot", "asset": "BTC", "usd_value": "5", "fee_usd": "1"}
    values = [trade | {"event_id": f"{number}/{place}", "occurred_at": at_ms + place} for place in range(6)]
    visit = {"wallet_id": "w", "campaign_id": "c", "channel": "email", "cost_usd": "1"}
    values.append(visit | {"event_id": f"{number}/touch", "occurred_at": at_ms - 1})
    records = [Record(place, at_ms + 10, KEY, json.dumps(value).encode()) for place, value in enumerate(values)]
    return records, bytes([TRANSACTIONS] * 6 + [TOUCHES])
