"""The fast tier of the contract: one pass over the bytes of a batch, compiled.

What it reads is plain: `models.events.judge` would accept it and give these very values. Whatever is doubtful it leaves
to `judge`, and says only where. Nothing is made for a record but its event.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.compiled import compiled, inlined
from models.decimals import Number, double, is_below, is_exact, micros, number, shortened
from models.eights import SIZE, hash_of, packed, upper
from models.events import EARLIEST_MS, LATEST_MS
from models.forms import (
    AMOUNT,
    ASSET,
    CAMPAIGN,
    CHANNEL,
    COST,
    EVENT_ID,
    FEE,
    FIELDS,
    FIELDS_MOST,
    JURISDICTION,
    LEVERAGE,
    LONGEST,
    NAMES,
    PRODUCT,
    REQUIRED,
    SENT,
    SIDE,
    STABLE,
    TEXT,
    TIME,
    USD,
    WALLET_ID,
    WORD,
    is_named,
    looked_up,
    number_under,
)
from models.jsontext import (
    CLOSE_OBJECT,
    COMMA,
    OPEN_OBJECT,
    QUOTE,
    is_at,
    is_null_at,
    run,
    skip_colon,
    skip_space,
    skip_value,
)
from models.moments import moment
from models.records import NULL, Records
from models.rows import ASSET_BUCKETS
from models.rules import LARGEST_VALUE

#: Confluent's framing, which `models.events.payload` reads over: its first byte, and how many there are.
FRAMED, FRAME_BYTES = 0, 5


class Scanned(NamedTuple):
    """What a scan leaves to others.

    `odd`: int64 (o,), places of records that are not plain: `judge` decides. `hard`: int64 (h, 3): place, begin and end
    in the text: values in USD of accepted records that have more digits than one division makes a double of; they are
    still to be read.
    """

    odd: NDArray[np.int64]
    hard: NDArray[np.int64]


#: What the scan of a batch remembers. `follows`: by lane and number of a field from 1 on, the field that came after it
#: last time, from 0 on; 0: at the beginning. `end`: of the value. `late`, `late_end`: where a hard amount lies, -1
#: none so far. One record, as a compiled function is handed each array in seven parts.
PAGE = np.dtype(
    [
        ("follows", "i8", (len(FIELDS), FIELDS_MOST + 1)),
        ("end", "i8"),
        ("late", "i8"),
        ("late_end", "i8"),
    ]
)
#: Before the first record: fields come in the contract's order.
BLANK_PAGE = np.zeros(1, PAGE)
BLANK_PAGE["follows"][0, :, :-1] = np.where(FIELDS["size"] > 0, np.arange(FIELDS_MOST), 0)


def scan(records: Records, lanes: bytes, events: NDArray[np.void]) -> Scanned:
    """Read the values of records (n,) into `events` (n,), zeros of `EVENT`; those of odd records are left half done.

    `lanes`: of each record its lane. Fills all but `wallet` and `part`.
    """
    odd, hard = np.empty(len(records), np.int64), np.empty((len(records), 3), np.int64)
    text, lane_of = np.frombuffer(records.text, np.uint8), np.frombuffer(lanes, np.uint8)
    many_odd, many_hard = scan_all(text, records.rows, lane_of, events, (odd, hard))
    return Scanned(odd[:many_odd], hard[:many_hard])


@compiled
def scan_all(
    text: NDArray[np.uint8],
    rows: NDArray[np.void],
    lanes: NDArray[np.uint8],
    events: NDArray[np.void],
    left: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> tuple[int, int]:
    """Fill `events` (n,), and `left`: the arrays of `Scanned` with room for n; how many of each there are."""
    odd, hard = left
    page = BLANK_PAGE.copy()[0]
    many_odd = many_hard = 0
    for place in range(len(rows)):
        begin, end, lane, event = rows[place]["value"], rows[place]["value_end"], lanes[place], events[place]
        event["place"], event["usd"], event["leverage"], event["is_touch"] = place, np.nan, 1.0, lane == 1
        page["end"], page["late"] = end, -1
        if end == NULL or end - begin > LARGEST_VALUE or not is_plain(text, page, begin, lane, event):
            odd[many_odd], many_odd = place, many_odd + 1
        elif page["late"] >= 0:
            hard[many_hard, 0], hard[many_hard, 1], hard[many_hard, 2] = place, page["late"], page["late_end"]
            many_hard += 1
    return many_odd, many_hard


@inlined
def is_plain(text: NDArray[np.uint8], page: np.void, begin: int, lane: int, event: np.void) -> bool:
    """Read a value, one object and nothing else."""
    at, end, seen, last = begin, page["end"], 0, 0
    if is_at(text, at, end, FRAMED):
        at += FRAME_BYTES
    at = skip_space(text, at, end)
    if not is_at(text, at, end, OPEN_OBJECT):
        return False
    while True:
        place, at = name_at(text, page, skip_space(text, at + 1, end), lane, last)
        if at >= 0:
            at = skip_colon(text, at, end)
        if at < 0 or (place >= 0 and seen >> place & 1):
            return False
        if place < 0:
            at = skip_value(text, at, end)
        else:
            seen, last = seen | 1 << place, place + 1
            at = value_at(text, page, at, FIELDS[lane, place], event)
        if at < 0:
            return False
        at = skip_space(text, at, end)
        if not is_at(text, at, end, COMMA):
            break
    if not is_at(text, at, end, CLOSE_OBJECT) or skip_space(text, at + 1, end) != end:
        return False
    return bool(seen & REQUIRED[lane] == REQUIRED[lane])


@inlined
def name_at(text: NDArray[np.uint8], page: np.void, at: int, lane: int, last: int) -> tuple[int, int]:
    """The number of the field whose name this is, -1 unknown; the place behind the name, -1 if it is odd.

    `last`: the number from 1 on of the known field before this one, 0 none.
    """
    end = page["end"]
    if not is_at(text, at, end, QUOTE):
        return -1, -1
    guess = page["follows"][lane, last]
    if is_named(text, at + 1, end, FIELDS[lane, guess]):
        return guess, at + FIELDS[lane, guess]["size"] + 2
    close, _ = run(text, at + 1, end)
    if not is_at(text, close, end, QUOTE):  # an escape could make it any name
        return -1, -1
    place = looked_up(text, at + 1, close, NAMES + lane)
    if place >= 0:
        page["follows"][lane, last] = place
    return place, close + 1


@inlined
def value_at(text: NDArray[np.uint8], page: np.void, at: int, field: np.void, event: np.void) -> int:
    """Read the value of a field; the place behind it, -1 if it is odd."""
    end = page["end"]
    if is_null_at(text, at, end):
        return -1 if field["is_required"] else at + 4
    if field["form"] == AMOUNT:
        return amount_at(text, page, at, field, event)
    if is_at(text, at, end, QUOTE):
        return string_at(text, page, at + 1, field, event)
    read = number(text, at, end, False)
    if field["form"] == TIME:
        is_right = read.is_whole and not read.is_negative and is_time(event, read.mantissa)
        return read.end if is_right else -1
    return leverage_at(read, field, event) if field["use"] == LEVERAGE else -1


@inlined
def string_at(text: NDArray[np.uint8], page: np.void, at: int, field: np.void, event: np.void) -> int:
    """Read a field that is a text, a word, or a time as text; `at` is behind its opening quote."""
    end = page["end"]
    close, extra = run(text, at, end)
    if not is_at(text, close, end, QUOTE):
        return -1
    if field["form"] == TEXT:
        is_right = field["least"] <= close - at - extra <= field["most"] and not (field["is_cased"] and extra)
        if is_right:
            keep_text(text, at, close, field["use"], event)
    elif field["form"] == WORD:
        meant = looked_up(text, at, close, field["words"])
        is_right = meant >= 0
        if is_right:
            keep_word(meant, field["use"], event)
    else:
        is_right = field["form"] == TIME and is_time(event, moment(text, at, close))
    return close + 1 if is_right else -1


@inlined
def keep_text(text: NDArray[np.uint8], at: int, end: int, use: int, event: np.void) -> None:
    """Where a text lies, and its hash or the number of an asset."""
    if use == EVENT_ID:
        event["event_id"], event["event_id_end"], event["id_hash"] = at, end, hash_of(text, at, end, False)
    elif use == WALLET_ID:
        event["wallet_id"], event["wallet_id_end"] = at, end
    elif use == ASSET:
        event["asset"] = asset_at(text, at, end)
    elif use == CAMPAIGN:
        event["campaign"], event["campaign_end"] = at, end
    elif use == CHANNEL:
        event["channel"], event["channel_end"] = at, end


@inlined
def asset_at(text: NDArray[np.uint8], at: int, end: int) -> int:
    """What `models.arrivals.asset_of` gives for an asset of ASCII in upper case."""
    bucket = np.int64(hash_of(text, at, end, True) % np.uint64(ASSET_BUCKETS))
    if end - at > LONGEST:
        return int(bucket)
    is_stable = number_under(upper(packed(text, at, end)), upper(packed(text, at + SIZE, end)), STABLE) >= 0
    return int(bucket + ASSET_BUCKETS * is_stable)


@inlined
def keep_word(meant: int, use: int, event: np.void) -> None:
    """What a word stands for."""
    if use == PRODUCT:
        event["product"] = meant
    elif use == JURISDICTION:
        event["jurisdiction"] = meant
    elif use == SIDE:
        event["is_sell"] = meant == 1
    elif use == SENT:
        event["is_sent"] = meant == 1


@inlined
def is_time(event: np.void, at_ms: int) -> bool:
    """Whether an event may have occurred then."""
    event["at_ms"] = at_ms
    return EARLIEST_MS <= at_ms <= LATEST_MS


@inlined
def leverage_at(read: Number, field: np.void, event: np.void) -> int:
    """The place behind a leverage, -1 if it is odd."""
    if read.end < 0 or read.is_negative or not is_exact(read):
        return -1
    leverage = double(read)
    event["leverage"] = max(leverage, 1.0)
    return read.end if field["least"] <= leverage <= field["most"] else -1


@inlined
def amount_at(text: NDArray[np.uint8], page: np.void, at: int, field: np.void, event: np.void) -> int:
    """The place behind an amount, a number or a text, -1 if it is odd."""
    end = page["end"]
    is_text = is_at(text, at, end, QUOTE)
    read = number(text, at + is_text, end, is_text)
    if read.end < 0 or (is_text and not is_at(text, read.end, end, QUOTE)):
        return -1
    if (read.is_negative and not field["is_signed"]) or (field["most"] >= 0 and not is_below(read, field["most"])):
        return -1
    if field["use"] == USD:
        keep_usd(page, at + is_text, shortened(read), event)
    elif field["use"] == FEE:
        event["fee_micros"] = micros(read)
    elif field["use"] == COST:
        event["cost_micros"] = micros(read)
    return read.end + is_text


@inlined
def keep_usd(page: np.void, at: int, read: Number, event: np.void) -> None:
    """A volume as double, or where it lies if that takes more than one rounding."""
    if is_exact(read):
        event["usd"] = double(read)
    else:
        page["late"], page["late_end"] = at, read.end
