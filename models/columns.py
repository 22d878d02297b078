"""A batch of records as its events, in order of arrival: what the contract accepts, laid out for the loops.

The fast tier (`models.scanner`) reads what is plain. `judge` decides the rest one by one; what it accepts is laid out
the same way, its texts after those of the records.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.arrivals import CODE_OF, EVENT, asset_of
from models.events import EARLIEST_MS, LATEST_MS, MONEY, PRODUCTS, Rejected, judge, to_micros, to_ms
from models.hashing import hash64
from models.records import Records
from models.scanner import scan
from models.state import TOUCHES

#: A row as it is moved: NumPy copies a structured one field by field.
_BYTES = np.dtype((np.void, EVENT.itemsize))
#: The amount that moves money, and its column, by lane.
PAYMENT = tuple(names[-1] for names in MONEY)
MICROS = ("fee_micros", "cost_micros")


@dataclass(frozen=True, slots=True)
class Events:
    """Events in order of arrival. `text`: what their places are in; begins with that of the records.

    `rows`: of `EVENT`, (n,). Which wallet and partition they are of is not known before `models.admission`.
    """

    text: bytes
    rows: NDArray[np.void]

    def __len__(self) -> int:
        return len(self.rows)

    def pick(self, keep: NDArray[np.int64]) -> Events:
        """The events at these places, in this order."""
        return Events(self.text, self.rows.view(_BYTES)[keep].view(EVENT))

    def texts(self, name: str, places: NDArray[np.int64]) -> list[bytes]:
        """What the events at these places have in `name`: event_id, wallet_id, campaign or channel."""
        text, rows = self.text, self.rows
        begins, ends = rows[name][places].tolist(), rows[f"{name}_end"][places].tolist()
        return [text[begin:end] for begin, end in zip(begins, ends, strict=True)]


def read(records: Records, lanes: bytes) -> tuple[Events, dict[int, Rejected]]:
    """A batch of records -> its events, and for each other record, by its index, why it is none."""
    rows = np.zeros(len(records), EVENT)
    found = scan(records, lanes, rows)
    read_hard(records.text, rows, found.hard)
    if not len(found.odd):
        return Events(records.text, rows), {}
    rejected: dict[int, Rejected] = {}
    tail: list[bytes] = []
    end = len(records.text)
    for place in found.odd.tolist():
        verdict = judge(lanes[place], records[place].value)
        if isinstance(verdict, Rejected):
            rejected[place] = verdict
            continue
        written = write_down(rows[place], lanes[place], verdict, end)
        end += len(written)
        tail.append(written)
    events = Events(b"".join([records.text, *tail]) if tail else records.text, rows)
    return (events.pick(np.delete(np.arange(len(rows)), list(rejected))) if rejected else events), rejected


def read_hard(text: bytes, rows: NDArray[np.void], hard: NDArray[np.int64]) -> None:
    """Read the values in USD that have more digits than one division makes a double of; they are within their bounds.

    Money needs no double: it is exact already.
    """
    for place, begin, end in hard.tolist():
        rows["usd"][place] = float(text[begin:end])


def write_down(row: np.void, lane: int, found: dict[str, Any], end: int) -> bytes:
    """Lay out an event that was judged; its texts, which will begin at `end`."""
    at_ms = to_ms(found["occurred_at"])
    if at_ms is None or not EARLIEST_MS <= at_ms <= LATEST_MS:
        raise AssertionError(f"judged to be an event without a time: {found}")
    exact, is_touch = found["exact"], lane == TOUCHES
    row["at_ms"], row["is_touch"] = at_ms, is_touch
    row["usd"] = float(exact["usd_value"]) if "usd_value" in exact else np.nan
    row["leverage"] = found.get("leverage") or 1.0
    row["fee_micros"] = row["cost_micros"] = row["product"] = row["asset"] = 0
    row[MICROS[lane]] = to_micros(exact.get(PAYMENT[lane], Decimal(0)))
    row["jurisdiction"] = CODE_OF[found.get("jurisdiction")]
    row["is_sell"], row["is_sent"] = found.get("side") == "sell", found.get("touch") == "sent"
    if not is_touch:
        row["product"], row["asset"] = PRODUCTS[found["product"]], asset_of(found["asset"])
    texts = {"event_id": found["event_id"], "wallet_id": found["wallet_id"]}
    if is_touch:
        texts |= {"campaign": found["campaign_id"], "channel": found["channel"]}
    written = {name: text.encode() for name, text in texts.items()}
    row["id_hash"] = hash64([written["event_id"]])[0]
    for name, text in written.items():
        row[name], row[f"{name}_end"] = end, end + len(text)
        end += len(text)
    return b"".join(written.values())
