"""A batch of records as columns of events, in order of arrival: what the contract accepts, laid out for vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import compress
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.events import (
    DEEPEST,
    EARLIEST_MS,
    LATEST_MS,
    MONEY,
    PRODUCTS,
    Rejected,
    judge,
    payload,
    to_micros,
    to_ms,
    written_amount,
)
from models.hashing import hash64
from models.parser import PARSE, NotAccepted, fields
from models.rules import LARGEST_VALUE
from models.state import Record

#: At least this and less than that: the bounds of an amount in USD.
BOUNDS = {
    "quantity": (0.0, np.inf),
    "usd_value": (0.0, 1e12),
    "fee_usd": (np.nextafter(-1e9, 0), 1e9),
    "cost_usd": (0.0, 1e9),
}
NUMERIC = b"0123456789+-.eE"


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
        columns: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        places = keep.tolist()
        # itemgetter picks three times as fast as a loop; of a single place it gives no tuple
        picked = itemgetter(*places) if len(places) > 1 else lambda column: [column[place] for place in places]
        for name, column in columns.items():
            columns[name] = column[keep] if isinstance(column, np.ndarray) else list(picked(column))
        return Events(**columns)


def read(records: Sequence[Record], lanes: bytes) -> tuple[Events, dict[int, Rejected]]:
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
    """The accepted records of one lane: index in the batch, columns as they were parsed, amounts in USD and exact.

    `amounts`: float64, by name, NaN where absent. `micros`: of the last amount, which is money of the platform.
    """

    at: list[int]
    columns: list[list[Any]]
    amounts: dict[str, NDArray[np.float64]]
    micros: NDArray[np.int64]


def read_lane(lane: int, values: list[bytes | None], here: list[int], rejected: dict[int, Rejected]) -> Lane:
    """One lane of a batch; `here`: its places in the batch. `rejected` gets what is no event."""
    at, rows = accept(lane, values, here, rejected)
    columns = UNZIP[lane](rows)
    amounts, suspects = amounts_of(lane, columns)
    accepted = [values[place] or b"" for place in at]
    together = b"".join(accepted)
    suspects |= nested(accepted, together) | unreadable(accepted, together)
    if suspects:
        at, rows = judge_again(lane, values, (at, rows, suspects), rejected)
        columns = UNZIP[lane](rows)
        amounts, _ = amounts_of(lane, columns)
    name = MONEY[lane][-1]
    money = amounts[name]

    def exactly(place: int) -> int:
        written = columns[-1][place]
        return to_micros(Decimal(written) if type(written) is str else written_amount(values[at[place]], name))

    return Lane(at, columns, amounts, micros(np.where(np.isnan(money), 0.0, money), exactly))


def accept(
    lane: int, values: list[bytes | None], here: list[int], rejected: dict[int, Rejected]
) -> tuple[list[int], list[Any]]:
    """Places and fields of the records that may be events; `rejected` gets the others."""
    rows: list[Any] = []
    dropped: set[int] = set()
    todo = iter(plain(values, here))
    while True:
        try:
            rows.extend(map(PARSE[lane], todo))  # stops exactly at the first record that is not accepted
            break
        except NotAccepted:
            place = here[len(rows) + len(dropped)]
            verdict = judge(lane, values[place])
            if isinstance(verdict, Rejected):
                rejected[place] = verdict
                dropped.add(place)
            else:
                rows.append(fields(lane, verdict))
    return [place for place in here if place not in dropped] if dropped else here, rows


def plain(values: list[bytes | None], here: list[int]) -> list[bytes]:
    """What the fast tier is given: never null, framed or too large, which it would refuse or misread."""
    found = [values[place] for place in here]
    if None not in found and b"\0" not in b"".join(found) and max(map(len, found), default=0) <= LARGEST_VALUE:  # type: ignore[arg-type]  # none is None
        return found  # type: ignore[return-value]  # none is None
    return [b"" if value is None or len(value) > LARGEST_VALUE else payload(value) for value in found]


def transaction_columns(rows: list[Any]) -> list[list[Any]]:
    """The fields of transactions by column, the amounts as in `MONEY` last. Written out: half the cost of a loop."""
    return [
        [row.event_id for row in rows],
        [row.wallet_id for row in rows],
        [row.occurred_at for row in rows],
        [row.asset for row in rows],
        [row.product for row in rows],
        [row.side for row in rows],
        [row.leverage for row in rows],
        [row.jurisdiction for row in rows],
        [row.quantity for row in rows],
        [row.usd_value for row in rows],
        [row.fee_usd for row in rows],
    ]


def touch_columns(rows: list[Any]) -> list[list[Any]]:
    """The fields of touches by column, the amount last."""
    return [
        [row.event_id for row in rows],
        [row.wallet_id for row in rows],
        [row.occurred_at for row in rows],
        [row.campaign_id for row in rows],
        [row.channel for row in rows],
        [row.touch for row in rows],
        [row.cost_usd for row in rows],
    ]


#: Rows -> columns, by lane.
UNZIP = (transaction_columns, touch_columns)


def amounts_of(lane: int, columns: list[list[Any]]) -> tuple[dict[str, NDArray[np.float64]], set[int]]:
    """The amounts of a lane by name, float64 (n,), and the rows where one may not be what the contract allows."""
    out: dict[str, NDArray[np.float64]] = {}
    suspects: set[int] = set()
    for name, found in zip(MONEY[lane], columns[-len(MONEY[lane]) :], strict=True):
        odd = not_numeric(found)
        plainly = [None if place in odd else each for place, each in enumerate(found)] if odd else found
        column, (low, high) = np.array(plainly, np.float64), BOUNDS[name]
        beyond = (column < low) | (column >= high) | ((column == 0) & np.signbit(column))  # an amount just below 0
        suspects.update(odd, np.flatnonzero(beyond).tolist())
        out[name] = column
    return out, suspects


def not_numeric(found: Sequence[float | str | None]) -> list[int]:
    """The places of texts that are not plainly a number; Python would read "nan", "1_000" and digits of any script."""
    if str not in set(map(type, found)):
        return []
    texts = [each for each in found if type(each) is str]
    if all_numeric(texts):
        return []
    return [place for place, each in enumerate(found) if type(each) is str and not all_numeric([each])]


def all_numeric(texts: list[str]) -> bool:
    """Whether every text is a decimal number and nothing else."""
    try:
        list(map(float, texts))
    except ValueError:
        return False
    return not "".join(texts).encode().translate(None, NUMERIC)


def judge_again(
    lane: int, values: list[bytes | None], read: tuple[list[int], list[Any], set[int]], rejected: dict[int, Rejected]
) -> tuple[list[int], list[Any]]:
    """Places and rows, with the suspects among them decided one by one; `rejected` gets those that are no events."""
    at, rows, suspects = read
    keep = [True] * len(at)
    for i in sorted(suspects):
        verdict = judge(lane, values[at[i]])
        if isinstance(verdict, Rejected):
            rejected[at[i]] = verdict
            keep[i] = False
        else:
            rows[i] = fields(lane, verdict)
    return list(compress(at, keep)), list(compress(rows, keep))


def unreadable(values: list[bytes], together: bytes) -> set[int]:
    """The values that are not UTF-8; the fast tier does not look into fields that the contract does not name."""
    if together.isascii():
        return set()
    return {place for place, value in enumerate(values) if not is_utf8(value)}


def is_utf8(value: bytes) -> bool:
    """Whether bytes are UTF-8."""
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def nested(values: list[bytes], together: bytes) -> set[int]:
    """The values that could be nested too deeply: those with more opening brackets than levels allowed."""
    # Every value has one at least, so the sum shows that none has too many.
    if together.count(b"{") + together.count(b"[") < len(values) + DEEPEST:
        return set()
    return {i for i, value in enumerate(values) if value.count(b"{") + value.count(b"[") > DEEPEST}


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

    event_ids = [*tx[0], *to[0]]
    return Events(
        at=np.array(transactions.at + touches.at, np.int64),
        occurred_at_ms=times(tx[2] + to[2]),
        is_touch=np.arange(many + few) >= many,
        event_ids=event_ids,
        id_hashes=hash64([event_id.encode() for event_id in event_ids]),
        wallet_ids=[*tx[1], *to[1]],
        usd=with_touches(transactions.amounts["usd_value"], np.nan),
        leverage=with_touches(np.fmax(np.array(tx[6], np.float64), 1.0), 1.0),
        is_sell=with_touches(np.array([side == "sell" for side in tx[5]], np.bool_), False),
        product=with_touches(np.fromiter(map(PRODUCTS.__getitem__, tx[4]), np.int64, many), 0),
        fee_micros=with_touches(transactions.micros, 0),
        cost_micros=np.concatenate([np.zeros(many, np.int64), touches.micros]),
        is_sent=np.concatenate([np.zeros(many, np.bool_), np.array([kind == "sent" for kind in to[5]], np.bool_)]),
        assets=[*map(str.upper, tx[3]), *[""] * few],
        campaigns=[*[None] * many, *zip(to[3], map(str.lower, to[4]), strict=True)],
        jurisdictions=[*tx[7], *[None] * few],
    )


def times(found: list[int | str]) -> NDArray[np.int64]:
    """Epoch milliseconds (n,); -1 where the text is no time."""
    try:
        return np.array(found, np.int64)
    except (ValueError, TypeError):
        return np.array([-1 if (at_ms := to_ms(when)) is None else at_ms for when in found], np.int64)
