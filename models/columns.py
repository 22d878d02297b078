"""A batch of records as columns of events, in order of arrival: what the contract accepts, laid out for vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.events import (
    DEEPEST,
    EARLIEST_MS,
    FAST,
    LATEST_MS,
    MONEY,
    PRODUCTS,
    NotAccepted,
    Rejected,
    judge,
    payload,
    to_micros,
    to_ms,
)
from models.hashing import hash64
from models.rules import LARGEST_VALUE
from models.state import TRANSACTIONS, RecordLike

#: The fields a column is made of, by lane.
COLUMNS = (
    itemgetter("event_id", "wallet_id", "occurred_at", "usd_value", "fee_usd", "asset", "product", "side", "leverage",
               "jurisdiction"),
    itemgetter("event_id", "wallet_id", "occurred_at", "cost_usd", "touch", "campaign_id", "channel"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Events:
    """The events of a batch in order of arrival; every array (n,), every list n long.

    `at`: index in the batch. `usd`: NaN where absent. `assets`: "" for a touch. `campaigns`: (campaign, channel) of a
    touch, None for a transaction. `id_hashes`: of the event ids, what a wallet remembers of them. `fee_micros`,
    `cost_micros`: integer micro-USD, 0 where there is none.
    """

    at: NDArray[np.int64]
    occurred_at_ms: NDArray[np.int64]
    is_touch: NDArray[np.bool_]
    event_ids: list[str]
    id_hashes: NDArray[np.uint64]
    wallet_ids: list[str]
    usd: NDArray[np.float64]
    leverage: NDArray[np.float64]
    is_sell: NDArray[np.bool_]
    product: NDArray[np.int64]
    fee_micros: NDArray[np.int64]
    cost_micros: NDArray[np.int64]
    is_sent: NDArray[np.bool_]
    assets: list[str]
    campaigns: list[tuple[str, str] | None]
    jurisdictions: list[str | None]

    def __len__(self) -> int:
        return len(self.at)

    def pick(self, keep: NDArray[np.int64]) -> Events:
        """The events at these places, in this order."""
        places = keep.tolist()
        columns: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        for name, column in columns.items():
            columns[name] = column[keep] if isinstance(column, np.ndarray) else [column[place] for place in places]
        return Events(**columns)


def read(records: Sequence[RecordLike], lanes: bytes) -> tuple[Events, dict[int, Rejected]]:
    """A batch of records -> its events, and for each other record, by its index, why it is none."""
    rejected: dict[int, Rejected] = {}
    values = [record.value for record in records]
    lane_of = np.frombuffer(lanes, np.uint8)
    parts = [read_lane(lane, values, np.flatnonzero(lane_of == lane).tolist(), rejected) for lane in (0, 1)]
    events = join(*parts)
    no_time = (events.occurred_at_ms < EARLIEST_MS) | (events.occurred_at_ms > LATEST_MS)
    for place in events.at[no_time].tolist():  # a well-formed text that is no date, or one too early
        verdict = judge(lanes[place], values[place])
        rejected[place] = verdict if isinstance(verdict, Rejected) else Rejected("out_of_range", "occurred_at")
    order = np.argsort(events.at, kind="stable")
    return events.pick(order[~no_time[order]] if no_time.any() else order), rejected


@dataclass(frozen=True, slots=True)
class Lane:
    """The accepted records of one lane: index in the batch, columns as pydantic gave them, exact amounts."""

    at: list[int]
    columns: list[tuple[Any, ...]]
    amount: NDArray[np.float64]
    micros: NDArray[np.int64]


def read_lane(lane: int, values: list[bytes | None], here: list[int], rejected: dict[int, Rejected]) -> Lane:
    """One lane of a batch; `here`: its places in the batch. `rejected` gets what is no event."""
    at, rows = accept(lane, values, here, rejected)
    columns = list(zip(*map(COLUMNS[lane], rows), strict=True)) or [()] * (10 if lane == TRANSACTIONS else 7)
    money = columns[4 if lane == TRANSACTIONS else 3]
    amount = np.array(money, np.float64)
    name = MONEY[lane][-1]

    def exactly(place: int) -> int:
        event = judge(lane, values[at[place]])
        # a text that looks like a time and is none is rejected by `read`, with its amount
        return 0 if isinstance(event, Rejected) else to_micros(event["exact"][name])

    return Lane(at, columns, amount, micros(np.where(np.isnan(amount), 0.0, amount), exactly))


def accept(
    lane: int, values: list[bytes | None], here: list[int], rejected: dict[int, Rejected]
) -> tuple[list[int], list[dict[str, Any]]]:
    """Places and fields of the records that are events; `rejected` gets the others."""
    rows: list[dict[str, Any]] = []
    dropped: set[int] = set()
    todo = plain(values, here)
    while True:
        try:
            rows.extend(map(FAST[lane], todo))  # stops exactly at the first record that is not accepted
            break
        except NotAccepted:
            place = here[len(rows) + len(dropped)]
            verdict = judge(lane, values[place])
            if isinstance(verdict, Rejected):
                rejected[place] = verdict
                dropped.add(place)
            else:
                rows.append(verdict)
    at = [place for place in here if place not in dropped] if dropped else here
    return second_look(lane, values, at, rows, rejected)


def plain(values: list[bytes | None], here: list[int]) -> Iterator[bytes]:
    """What the fast tier is given: never null, framed or too large, which it would refuse or misread."""
    for place in here:
        value = values[place]
        if value is None or len(value) > LARGEST_VALUE:
            yield b""
        else:
            yield value if value[:1] != b"\0" else payload(value)


def second_look(
    lane: int, values: list[bytes | None], at: list[int], rows: list[dict[str, Any]], rejected: dict[int, Rejected]
) -> tuple[list[int], list[dict[str, Any]]]:
    """Take back what only the fast tier accepts: `true` for a number, an amount just below 0, deep nesting."""
    suspects = nested([values[place] or b"" for place in at])
    for name in MONEY[lane]:
        column = np.array([row[name] for row in rows], np.float64)
        odd = (column == 0) | (column == 1)
        suspects.update(
            i for i in np.flatnonzero(odd).tolist() if np.signbit(column[i]) or has_boolean(values[at[i]] or b"")
        )
    if not suspects:
        return at, rows
    keep = [True] * len(at)
    for i in sorted(suspects):
        verdict = judge(lane, values[at[i]])
        if isinstance(verdict, Rejected):
            rejected[at[i]] = verdict
            keep[i] = False
    return list(compress(at, keep)), list(compress(rows, keep))


def nested(values: list[bytes]) -> set[int]:
    """The values that could be nested too deeply: those with more opening brackets than levels allowed."""
    together = b"".join(values)  # every value has one at least, so the sum shows that none has too many
    if together.count(b"{") + together.count(b"[") < len(values) + DEEPEST:
        return set()
    return {i for i, value in enumerate(values) if value.count(b"{") + value.count(b"[") > DEEPEST}


def has_boolean(value: bytes) -> bool:
    """Whether a value could hold a boolean, which the fast tier takes for a number."""
    return b"true" in value or b"false" in value


def micros(amount: NDArray[np.float64], exactly: Callable[[int], int]) -> NDArray[np.int64]:
    """float64 USD (n,) -> integer micro-USD (n,), exact.

    The double lies within |y| 2^-51 of the decimal times 10^6, so rounding it is right unless y is that near a
    half; those few, and what is too large for a double to tell, are read again as decimals by `exactly(place)`.
    """
    scaled = amount * 1e6
    rounded = np.rint(scaled)
    out = rounded.astype(np.int64)
    doubtful = np.abs(np.abs(scaled - rounded) - 0.5) <= np.abs(scaled) * 2.0**-51
    for place in np.flatnonzero(doubtful | (np.abs(scaled) >= 2.0**50)).tolist():
        out[place] = exactly(place)
    return out


def join(transactions: Lane, touches: Lane) -> Events:
    """Both lanes as one set of columns, transactions first."""
    tx, to = transactions.columns, touches.columns
    many, few = len(transactions.at), len(touches.at)

    def with_touches(column: NDArray[Any], blank: Any) -> NDArray[Any]:
        return np.concatenate([column, np.full(few, blank, column.dtype)])

    return Events(
        at=np.array(transactions.at + touches.at, np.int64),
        occurred_at_ms=times(tx[2] + to[2]),
        is_touch=np.arange(many + few) >= many,
        event_ids=[*tx[0], *to[0]],
        id_hashes=hash64([event_id.encode() for event_id in (*tx[0], *to[0])]),
        wallet_ids=[*tx[1], *to[1]],
        usd=with_touches(np.array(tx[3], np.float64), np.nan),
        leverage=with_touches(np.fmax(np.array(tx[8], np.float64), 1.0), 1.0),
        is_sell=with_touches(np.array([side == "sell" for side in tx[7]], np.bool_), False),
        product=with_touches(np.fromiter(map(PRODUCTS.__getitem__, tx[6]), np.int64, many), 0),
        fee_micros=with_touches(transactions.micros, 0),
        cost_micros=np.concatenate([np.zeros(many, np.int64), touches.micros]),
        is_sent=np.concatenate([np.zeros(many, np.bool_), np.array([kind == "sent" for kind in to[4]], np.bool_)]),
        assets=[*tx[5], *[""] * few],
        campaigns=[*[None] * many, *zip(to[5], to[6], strict=True)],
        jurisdictions=[*tx[9], *[None] * few],
    )


def times(found: tuple[int | str, ...]) -> NDArray[np.int64]:
    """Epoch milliseconds (n,); -1 where the text is no time."""
    try:
        return np.array(found, np.int64)
    except (ValueError, TypeError):
        return np.array([-1 if (at_ms := to_ms(when)) is None else at_ms for when in found], np.int64)
