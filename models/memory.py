"""What the wallets of a batch remember for their credit, laid out for loops over events: touches, paths, fees.

A journal is decoded when the first event asks for it, changed in place, and written once, however many events change
it. Compiled loops; a stored journal is laid out as `models.layout` says.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.compiled import compiled, leaf
from models.journeys import JOURNAL_VERSION
from models.layout import FEE_BYTES, FOREVER, H_ELIGIBLE, H_HI, H_LO, H_SIZE, H_TOUCHES, HEAD_BYTES, TOUCH_BYTES
from models.rows import FEES, SEGMENTS
from models.rules import HOUR_MS
from models.soundness import block_size, block_width, number_at

#: Columns of `Memory.touches`: epoch milliseconds, number of the campaign, where in `text` the event id begins, bytes.
AT, CODE, ID, SIZE = 0, 1, 2, 3
#: Columns of `Memory.wallets`: where in `text` its stored journal begins and ends; its first touch and how many, the
#: same of its spilled fees; whether the journal is decoded, has had a touch in this batch, is to be written; how many
#: fees there were; from RECENT on the newest four, at number % 4.
BEGIN, END, TOUCHES, MANY_TOUCHES, SPILLED, MANY_SPILLED, IS_DECODED, IS_TOUCHED, IS_CHANGED, MANY_FEES = range(10)
RECENT, WALLET_COLUMNS = 10, 10 + 2 * FEES
#: Rows of a path: numbers of the campaigns; weights of linear, time decay, position; the three sums of weights; then
#: room for the shares of an amount and those of a conversion, by five rules each, and for remainders.
CODES, LINEAR, DECAYED, POSITION, TOTALS, REVENUE, CONVERSIONS, REMAINDERS, PATH_ROWS = 0, 1, 2, 3, 4, 5, 10, 15, 16


class Limits(NamedTuple):
    """The rules of memory. Durations in milliseconds; most touches, most spilled fees, most touches of a path."""

    look_back_ms: int
    lateness_ms: int
    touches: int
    spilled: int
    eligible: int


class Memory(NamedTuple):
    """Every fee is (occurred_at x 65536 + segment, micro-USD).

    `text`: the journals as stored, end to end, then the ids of the new touches. `wallets`: (k, 18), see above.
    `touches`: (…, 4), room for each wallet's own and its new ones. `spilled`: (…, 2) fees, with room likewise.
    `decay`: weights of time decay by hours.
    """

    text: NDArray[np.uint8]
    wallets: NDArray[np.int64]
    touches: NDArray[np.int64]
    spilled: NDArray[np.int64]
    decay: NDArray[np.int64]


# ------------------------------------------------------------------ numbers in bytes, little-endian


@leaf
def put(text: NDArray[np.uint8], place: int, value: int, size: int) -> int:
    """Write an integer as `size` bytes; the place behind it."""
    for byte in range(size):
        text[place + byte] = (value >> (8 * byte)) & 255
    return place + size


# ------------------------------------------------------------------ opening


@compiled
def open_memory(
    text: NDArray[np.uint8], wallets: NDArray[np.int64], decay: NDArray[np.int64], new: NDArray[np.int64]
) -> Memory:
    """The memory of wallets with these journals, which fit (`models.soundness`).

    `new`: (k, 2) touches and fees that the batch brings each.
    """
    touches = spilled = 0
    for wallet in range(len(wallets)):
        begin, end = wallets[wallet, BEGIN], wallets[wallet, END]
        wallets[wallet, TOUCHES], wallets[wallet, SPILLED] = touches, spilled
        touches, spilled = touches + new[wallet, 0], spilled + new[wallet, 1]
        if end > begin:
            touches += number_at(text, begin + H_TOUCHES, 2)
            spilled += (end - begin - number_at(text, begin + H_SIZE, 4)) // FEE_BYTES
    return Memory(text, wallets, np.empty((touches, 4), np.int64), np.empty((spilled, 2), np.int64), decay)


@leaf
def decode(memory: Memory, wallet: int) -> None:
    """Touches and fees of a stored journal as numbers, unless they are already."""
    text, wallets, touches, spilled, _ = memory
    if wallets[wallet, IS_DECODED]:
        return
    wallets[wallet, IS_DECODED] = 1
    begin, end = wallets[wallet, BEGIN], wallets[wallet, END]
    if end == begin:
        return
    wallets[wallet, MANY_TOUCHES] = number_at(text, begin + H_TOUCHES, 2)
    place = begin + HEAD_BYTES + block_size(number_at(text, begin + H_ELIGIBLE, 2))
    for touch in range(wallets[wallet, TOUCHES], wallets[wallet, TOUCHES] + wallets[wallet, MANY_TOUCHES]):
        size = number_at(text, place + 12, 2)
        touches[touch, AT], touches[touch, CODE] = number_at(text, place, 8), number_at(text, place + 8, 4)
        touches[touch, ID], touches[touch, SIZE] = place + TOUCH_BYTES, size
        place += TOUCH_BYTES + size
    wallets[wallet, MANY_SPILLED] = (end - place) // FEE_BYTES
    for fee in range(wallets[wallet, SPILLED], wallets[wallet, SPILLED] + wallets[wallet, MANY_SPILLED]):
        spilled[fee, 0], spilled[fee, 1] = number_at(text, place, 8), number_at(text, place + 8, 8)
        place += FEE_BYTES


# ------------------------------------------------------------------ paths


@compiled
def room_for_paths(memory: Memory, limits: Limits) -> NDArray[np.int64]:
    """Room for any path of these wallets: (16, m), see above."""
    most = max(limits.eligible, 3)
    for wallet in range(len(memory.wallets)):
        begin = memory.wallets[wallet, BEGIN]
        if memory.wallets[wallet, END] > begin:
            most = max(most, number_at(memory.text, begin + H_ELIGIBLE, 2))
    return np.empty((PATH_ROWS, most), np.int64)


@leaf
def path_of(memory: Memory, wallet: int, at_ms: int, limits: Limits, path: NDArray[np.int64]) -> int:
    """Fill in the path of a transaction at `at_ms`; how many touches it has.

    A wallet without a touch in this batch has it ready, for all times its journal says.
    """
    text, wallets = memory.text, memory.wallets
    if not wallets[wallet, IS_TOUCHED]:
        begin = wallets[wallet, BEGIN]
        if wallets[wallet, END] == begin:
            return 0
        if number_at(text, begin + H_LO, 8) <= at_ms < number_at(text, begin + H_HI, 8):
            return stored_path(text, begin, path)
        decode(memory, wallet)
    return path_among(memory, wallet, at_ms, limits, path)


@leaf
def stored_path(text: NDArray[np.uint8], begin: int, path: NDArray[np.int64]) -> int:
    """The path that the journal at `begin` has ready; how many touches."""
    touches = number_at(text, begin + H_ELIGIBLE, 2)
    codes = begin + HEAD_BYTES
    decayed = codes + 16 * block_width(touches)
    for touch in range(touches):
        path[CODES, touch] = number_at(text, codes + 8 * touch, 8)
        path[DECAYED, touch] = number_at(text, decayed + 8 * touch, 8)
    weigh(path, touches)
    return touches


@leaf
def path_among(memory: Memory, wallet: int, at_ms: int, limits: Limits, path: NDArray[np.int64]) -> int:
    """The path of a transaction at `at_ms`, found among the wallet's decoded touches; how many it has."""
    touches, first = memory.touches, memory.wallets[wallet, TOUCHES]
    stop = first + memory.wallets[wallet, MANY_TOUCHES]
    while stop > first and touches[stop - 1, AT] > at_ms:
        stop -= 1
    start = stop
    while start > max(first, stop - limits.eligible) and touches[start - 1, AT] >= at_ms - limits.look_back_ms:
        start -= 1
    for touch in range(start, stop):
        path[CODES, touch - start] = touches[touch, CODE]
        path[DECAYED, touch - start] = memory.decay[(touches[stop - 1, AT] - touches[touch, AT]) // HOUR_MS]
    weigh(path, stop - start)
    return int(stop - start)


@leaf
def weigh(path: NDArray[np.int64], touches: int) -> None:
    """The weights that depend on the number of touches alone, and all sums. Time decay is there already."""
    decayed = 0
    for touch in range(touches):
        path[LINEAR, touch] = path[POSITION, touch] = 1
        decayed += path[DECAYED, touch]
    path[TOTALS, 0], path[TOTALS, 1], path[TOTALS, 2] = touches, decayed, touches
    if touches > 2:
        ends = 2 * (touches - 2)
        path[POSITION, 0] = path[POSITION, touches - 1] = ends
        path[TOTALS, 2] = 2 * ends + touches - 2


# ------------------------------------------------------------------ touches


@leaf
def is_before(text: NDArray[np.uint8], touches: NDArray[np.int64], one: int, other: int) -> bool:
    """Whether one touch comes before another: by time, then by the bytes of its event id, then by its campaign."""
    if touches[one, AT] != touches[other, AT]:
        return bool(touches[one, AT] < touches[other, AT])
    one_id, other_id = touches[one, ID], touches[other, ID]
    for byte in range(min(touches[one, SIZE], touches[other, SIZE])):
        if text[one_id + byte] != text[other_id + byte]:
            return bool(text[one_id + byte] < text[other_id + byte])
    if touches[one, SIZE] != touches[other, SIZE]:
        return bool(touches[one, SIZE] < touches[other, SIZE])
    return bool(touches[one, CODE] < touches[other, CODE])


@leaf
def remember_touch(memory: Memory, wallet: int, touch: tuple[int, int, int, int], clock_ms: int, limits: Limits) -> int:
    """Put a touch in its place among the wallet's; how many touches the bound dropped. `touch`: as in `touches`.

    Touches older than the look-back and the lateness are of no more use and are not counted as dropped.
    """
    decode(memory, wallet)
    of, touches = memory.wallets[wallet], memory.touches
    of[IS_TOUCHED] = of[IS_CHANGED] = 1
    first = of[TOUCHES]
    place = end = first + of[MANY_TOUCHES]
    touches[place, AT], touches[place, CODE], touches[place, ID], touches[place, SIZE] = touch
    while place > first and is_before(memory.text, touches, place, place - 1):
        for column in range(4):
            before = touches[place - 1, column]
            touches[place - 1, column] = touches[place, column]
            touches[place, column] = before
        place -= 1
    while first <= end and touches[first, AT] < clock_ms - limits.look_back_ms - limits.lateness_ms:
        first += 1
    dropped = max(0, end + 1 - first - limits.touches)
    of[TOUCHES], of[MANY_TOUCHES] = first + dropped, end + 1 - first - dropped
    return int(dropped)


# ------------------------------------------------------------------ fees


@leaf
def remember_fee(memory: Memory, wallet: int, fee: tuple[int, int], clock_ms: int, limits: Limits) -> int:
    """The newest 4 fees stay in the row; one pushed out while a late touch may need it spills. How many were lost."""
    wallets, oldest, lost = memory.wallets, SEGMENTS * (clock_ms - limits.lateness_ms), 0
    place = RECENT + 2 * (wallets[wallet, MANY_FEES] % FEES)
    leaving = wallets[wallet, place], wallets[wallet, place + 1]
    if leaving[0] >= oldest and leaving[0] > 0:
        lost = spill(memory, wallet, leaving, oldest, limits.spilled)
    wallets[wallet, place], wallets[wallet, place + 1] = fee
    wallets[wallet, MANY_FEES] += 1
    return int(lost)


@leaf
def spill(memory: Memory, wallet: int, fee: tuple[int, int], oldest: int, most: int) -> int:
    """Keep a fee in the journal; those at the front that are older than `oldest` leave. How many the bound dropped."""
    decode(memory, wallet)
    of, spilled = memory.wallets[wallet], memory.spilled
    of[IS_CHANGED] = 1
    first, end = of[SPILLED], of[SPILLED] + of[MANY_SPILLED] + 1
    spilled[end - 1, 0], spilled[end - 1, 1] = fee
    while spilled[first, 0] < oldest:
        first += 1
    lost = max(0, end - first - most)
    of[SPILLED], of[MANY_SPILLED] = first + lost, end - first - lost
    return int(lost)


@leaf
def remembered_fee(memory: Memory, wallet: int, number: int) -> tuple[int, int]:
    """A fee of a decoded wallet by its number among those remembered, oldest arrival first."""
    of, spilled = memory.wallets[wallet], memory.spilled
    if number < of[MANY_SPILLED]:
        fee = of[SPILLED] + number
        return spilled[fee, 0], spilled[fee, 1]
    place = RECENT + 2 * ((max(0, of[MANY_FEES] - FEES) + number - of[MANY_SPILLED]) % FEES)
    return of[place], of[place + 1]


# ------------------------------------------------------------------ writing


@compiled
def write_journals(
    memory: Memory, limits: Limits, path: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The changed journals as stored, end to end, and where they begin and end (k + 1,); others take no place."""
    wallets, size = memory.wallets, 0
    for wallet in range(len(wallets)):
        if wallets[wallet, IS_CHANGED]:
            size += journal_size(memory, wallet, limits)
    out, ends = np.empty(size, np.uint8), np.zeros(len(wallets) + 1, np.int64)
    for wallet in range(len(wallets)):
        ends[wallet + 1] = ends[wallet]
        if wallets[wallet, IS_CHANGED]:
            ends[wallet + 1] = write_journal(out, ends[wallet], memory, wallet, limits, path)
    return out, ends


@leaf
def journal_size(memory: Memory, wallet: int, limits: Limits) -> int:
    """Bytes that the wallet's journal takes at most."""
    of = memory.wallets[wallet]
    size = of[END] - of[BEGIN] + HEAD_BYTES + FEE_BYTES * of[MANY_SPILLED]
    if of[IS_TOUCHED]:
        size += block_size(min(of[MANY_TOUCHES], limits.eligible)) + TOUCH_BYTES * of[MANY_TOUCHES]
        for touch in range(of[TOUCHES], of[TOUCHES] + of[MANY_TOUCHES]):
            size += memory.touches[touch, SIZE]
    return int(size)


@leaf
def write_journal(
    out: NDArray[np.uint8], place: int, memory: Memory, wallet: int, limits: Limits, path: NDArray[np.int64]
) -> int:
    """Write the journal of a wallet; the place behind it. Without a new touch only its fees are others."""
    of, spilled = memory.wallets[wallet], memory.spilled
    if of[IS_TOUCHED] or of[BEGIN] == of[END]:
        place = write_touches(out, place, memory, wallet, limits, path)
    else:
        place = copy(memory.text, of[BEGIN], number_at(memory.text, of[BEGIN] + H_SIZE, 4), out, place)
    for fee in range(of[SPILLED], of[SPILLED] + of[MANY_SPILLED]):
        place = put(out, put(out, place, spilled[fee, 0], 8), spilled[fee, 1], 8)
    return place


@leaf
def write_touches(
    out: NDArray[np.uint8], head: int, memory: Memory, wallet: int, limits: Limits, path: NDArray[np.int64]
) -> int:
    """Write everything before the fees of a wallet from `head` on; the place behind it."""
    touches, of = memory.touches, memory.wallets[wallet]
    first, end = of[TOUCHES], of[TOUCHES] + of[MANY_TOUCHES]
    lo, hi, eligible = -FOREVER, FOREVER, 0
    if end > first:
        eligible = path_among(memory, wallet, touches[end - 1, AT], limits, path)
        lo, hi = validity(touches, first, end, limits.look_back_ms)
    place = put(out, put(out, head, JOURNAL_VERSION, 1) + 4, end - first, 2)
    place = put(out, put(out, put(out, place, eligible, 2), lo, 8), hi, 8)
    place = write_path(out, place, path, eligible)
    for touch in range(first, end):
        size = touches[touch, SIZE]
        place = put(out, place, touches[touch, AT], 8)
        place = put(out, put(out, place, touches[touch, CODE], 4), size, 2)
        place = copy(memory.text, touches[touch, ID], size, out, place)
    put(out, head + H_SIZE, place - head, 4)
    return place


@leaf
def validity(touches: NDArray[np.int64], first: int, end: int, look_back_ms: int) -> tuple[int, int]:
    """From when and before when the path of a transaction at the newest touch is that of other times too."""
    newest, start = touches[end - 1, AT], first
    while touches[start, AT] < newest - look_back_ms:
        start += 1
    lo = newest if start == first else max(newest, touches[start - 1, AT] + look_back_ms + 1)
    return lo, touches[start, AT] + look_back_ms + 1


@leaf
def write_path(out: NDArray[np.uint8], place: int, path: NDArray[np.int64], touches: int) -> int:
    """Write the block of a path: rows of codes and weights, padded with 0, then sums and touches."""
    if touches == 0:
        return place
    for row in range(TOTALS):
        for touch in range(block_width(touches)):
            place = put(out, place, path[row, touch] if touch < touches else 0, 8)
    for rule in range(3):
        place = put(out, place, path[TOTALS, rule], 8)
    return put(out, place, touches, 8)


@leaf
def copy(text: NDArray[np.uint8], begin: int, size: int, out: NDArray[np.uint8], place: int) -> int:
    """Copy bytes; the place behind them."""
    for byte in range(size):
        out[place + byte] = text[begin + byte]
    return place + size
