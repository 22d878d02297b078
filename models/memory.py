"""What the wallets of a batch remember for their credit, laid out for loops over events: touches, paths, fees.

The touches of a journal, and its fees, are decoded when the first event asks for them, changed in place, and written
once, however many events change them. A fee that spills asks for none of them: it is written behind the others, and
with every sixteenth what is of no more use at the front is cut off. Compiled loops; a journal is laid out as
`models.layout` says.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.compiled import compiled, leaf
from models.journeys import JOURNAL_VERSION
from models.layout import FEE_BYTES, H_SIZE, H_TOUCHES, HEAD_BYTES, TOUCH_BYTES
from models.octets import copy, put
from models.rows import FEES, LOOK_EVERY, SEGMENTS
from models.rules import HOUR_MS
from models.soundness import number_at

#: Columns of `Memory.touches`: epoch milliseconds, number of the campaign, where in `text` the event id begins, bytes.
AT, CODE, ID, SIZE = 0, 1, 2, 3
#: Columns of `Memory.wallets`: where in `text` its journal begins and ends; its first touch and how many, the same of
#: its spilled fees; whether these touches and fees are decoded, whether in this batch it has had a touch, and old fees
#: were cut off; how many fees have spilled in this batch, how many since the oldest were looked at; how many fees there
#: were; from RECENT on the newest four, at number % 4.
BEGIN, END, TOUCHES, MANY_TOUCHES, SPILLED, MANY_SPILLED, KNOWS_TOUCHES, KNOWS_FEES = range(8)
IS_TOUCHED, IS_CUT, NEWLY_SPILLED, MANY_SINCE_LOOK, MANY_FEES, RECENT = range(8, 14)
WALLET_COLUMNS = RECENT + 2 * FEES
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

    `text`: the journals, end to end, then the ids of the new touches. `wallets`: (k, 21), see above.
    `touches`: (…, 4), room for each wallet's own and its new ones. `spilled`: (…, 2) fees, with room likewise.
    `decay`: weights of time decay by hours.
    """

    text: NDArray[np.uint8]
    wallets: NDArray[np.int64]
    touches: NDArray[np.int64]
    spilled: NDArray[np.int64]
    decay: NDArray[np.int64]


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
            wallets[wallet, MANY_SPILLED] = (end - begin - number_at(text, begin + H_SIZE, 4)) // FEE_BYTES
            spilled += wallets[wallet, MANY_SPILLED]
    return Memory(text, wallets, np.empty((touches, 4), np.int64), np.empty((spilled, 2), np.int64), decay)


@leaf
def decode(memory: Memory, wallet: int) -> None:
    """Touches and fees of a stored journal as numbers, unless they are already."""
    decode_touches(memory, wallet)
    decode_fees(memory, wallet)


@leaf
def asks_first(of: NDArray[np.int64], knows: int) -> bool:
    """Whether a part of a wallet's journal is to be decoded: there is one, and nobody has asked for that part before.

    `knows`: KNOWS_TOUCHES or KNOWS_FEES, which is set from now on.
    """
    if of[knows]:
        return False
    of[knows] = 1
    return bool(of[END] > of[BEGIN])


@leaf
def decode_touches(memory: Memory, wallet: int) -> None:
    """The touches of a stored journal as numbers, unless they are already."""
    text, of, touches = memory.text, memory.wallets[wallet], memory.touches
    if not asks_first(of, KNOWS_TOUCHES):
        return
    of[MANY_TOUCHES] = number_at(text, of[BEGIN] + H_TOUCHES, 2)
    place = of[BEGIN] + HEAD_BYTES
    for touch in range(of[TOUCHES], of[TOUCHES] + of[MANY_TOUCHES]):
        size = number_at(text, place + 12, 2)
        touches[touch, AT], touches[touch, CODE] = number_at(text, place, 8), number_at(text, place + 8, 4)
        touches[touch, ID], touches[touch, SIZE] = place + TOUCH_BYTES, size
        place += TOUCH_BYTES + size


@leaf
def decode_fees(memory: Memory, wallet: int) -> None:
    """The fees of a stored journal as numbers, unless they are already."""
    text, of, spilled = memory.text, memory.wallets[wallet], memory.spilled
    if not asks_first(of, KNOWS_FEES):
        return
    place = of[BEGIN] + number_at(text, of[BEGIN] + H_SIZE, 4)
    for fee in range(of[SPILLED], of[SPILLED] + (of[END] - place) // FEE_BYTES):
        spilled[fee, 0], spilled[fee, 1] = number_at(text, place, 8), number_at(text, place + 8, 8)
        place += FEE_BYTES


# ------------------------------------------------------------------ paths


@compiled
def room_for_paths(limits: Limits) -> NDArray[np.int64]:
    """Room for any path: (16, m), see above."""
    return np.empty((PATH_ROWS, max(limits.eligible, 3)), np.int64)


@leaf
def path_of(memory: Memory, wallet: int, at_ms: int, limits: Limits, path: NDArray[np.int64]) -> int:
    """Fill in the path of a transaction at `at_ms`: the touches it is credited to; how many they are."""
    decode_touches(memory, wallet)
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
    """The weights that depend on the number of touches alone, and all sums. Those of time decay are there already."""
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
    decode_touches(memory, wallet)
    of, touches = memory.wallets[wallet], memory.touches
    of[IS_TOUCHED] = 1
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
    """Keep a fee behind those that have spilled before. Returns how many the bound dropped: 1 or 0.

    Of the fees here the newest `most` count, without those before the first that is no older than `oldest`. So the one
    that this fee pushes out is lost if it is not too old: all before it have left already.
    """
    of, spilled = memory.wallets[wallet], memory.spilled
    many, end = of[MANY_SPILLED], of[SPILLED] + of[MANY_SPILLED]
    spilled[end, 0], spilled[end, 1] = fee
    lost = many >= most and spilled_at(memory, wallet, many - most) >= oldest
    of[MANY_SPILLED], of[NEWLY_SPILLED], of[MANY_SINCE_LOOK] = many + 1, of[NEWLY_SPILLED] + 1, of[MANY_SINCE_LOOK] + 1
    if of[MANY_SINCE_LOOK] == LOOK_EVERY:
        look_at_oldest(memory, wallet, oldest, most)
    return int(lost)


@leaf
def spilled_at(memory: Memory, wallet: int, number: int) -> int:
    """Time and segment of a spilled fee, decoded or not."""
    text, of = memory.text, memory.wallets[wallet]
    if not of[KNOWS_FEES] and of[END] > of[BEGIN]:
        place = of[BEGIN] + number_at(text, of[BEGIN] + H_SIZE, 4) + FEE_BYTES * number
        if place < of[END]:
            return number_at(text, place, 8)
    return int(memory.spilled[of[SPILLED] + number, 0])


@leaf
def look_at_oldest(memory: Memory, wallet: int, oldest: int, most: int) -> None:
    """Cut off the fees at the front that do not count any more; where all count nothing is to be written anew."""
    of = memory.wallets[wallet]
    of[MANY_SINCE_LOOK], first = 0, first_remembered(memory, wallet, most)
    while spilled_at(memory, wallet, first) < oldest:  # the last is not older
        first += 1
    if first > 0:
        decode_fees(memory, wallet)
        of[SPILLED], of[MANY_SPILLED], of[IS_CUT] = of[SPILLED] + first, of[MANY_SPILLED] - first, 1


@leaf
def first_remembered(memory: Memory, wallet: int, most: int) -> int:
    """Number of the first spilled fee that counts: those that more than `most` others came after do not."""
    return int(max(0, memory.wallets[wallet, MANY_SPILLED] - most))


@leaf
def remembered_fee(memory: Memory, wallet: int, number: int) -> tuple[int, int]:
    """A fee of a wallet whose fees are decoded, by its number among those here, oldest arrival first."""
    of, spilled = memory.wallets[wallet], memory.spilled
    if number < of[MANY_SPILLED]:
        fee = of[SPILLED] + number
        return spilled[fee, 0], spilled[fee, 1]
    place = RECENT + 2 * ((max(0, of[MANY_FEES] - FEES) + number - of[MANY_SPILLED]) % FEES)
    return of[place], of[place + 1]


# ------------------------------------------------------------------ writing


@compiled
def write_journals(memory: Memory) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """What is new of the journals, end to end, and where each begins and ends (k + 1,).

    Of one that IS_TOUCHED or IS_CUT it is all of it, of others the fees that have spilled.
    """
    wallets, size = memory.wallets, 0
    for wallet in range(len(wallets)):
        if is_new(wallets[wallet]):
            size += journal_size(memory, wallet)
        else:
            size += FEE_BYTES * wallets[wallet, NEWLY_SPILLED]
    out, ends = np.empty(size, np.uint8), np.zeros(len(wallets) + 1, np.int64)
    for wallet in range(len(wallets)):
        place = ends[wallet]
        if is_new(wallets[wallet]):
            ends[wallet + 1] = write_journal(out, place, memory, wallet)
        else:
            ends[wallet + 1] = write_fees(out, place, memory, wallet, wallets[wallet, NEWLY_SPILLED])
    return out, ends


@leaf
def is_new(of: NDArray[np.int64]) -> bool:
    """Whether a wallet's journal has more changed than fees behind its end."""
    return bool(of[IS_TOUCHED] or of[IS_CUT])


@leaf
def journal_size(memory: Memory, wallet: int) -> int:
    """Bytes that the wallet's journal takes at most."""
    of = memory.wallets[wallet]
    size = of[END] - of[BEGIN] + HEAD_BYTES + FEE_BYTES * of[MANY_SPILLED]
    if of[IS_TOUCHED]:
        size += TOUCH_BYTES * of[MANY_TOUCHES]
        for touch in range(of[TOUCHES], of[TOUCHES] + of[MANY_TOUCHES]):
            size += memory.touches[touch, SIZE]
    return int(size)


@leaf
def write_journal(out: NDArray[np.uint8], place: int, memory: Memory, wallet: int) -> int:
    """Write the journal of a wallet; the place behind it. Without a new touch only its fees are others."""
    decode_fees(memory, wallet)
    of = memory.wallets[wallet]
    if of[IS_TOUCHED] or of[BEGIN] == of[END]:
        place = write_touches(out, place, memory, wallet)
    else:
        place = copy(memory.text, of[BEGIN], number_at(memory.text, of[BEGIN] + H_SIZE, 4), out, place)
    return write_fees(out, place, memory, wallet, of[MANY_SPILLED])


@leaf
def write_fees(out: NDArray[np.uint8], place: int, memory: Memory, wallet: int, fees: int) -> int:
    """Write the last so many spilled fees of a wallet; the place behind them."""
    spilled, end = memory.spilled, memory.wallets[wallet, SPILLED] + memory.wallets[wallet, MANY_SPILLED]
    for fee in range(end - fees, end):
        place = put(out, put(out, place, spilled[fee, 0], 8), spilled[fee, 1], 8)
    return place


@leaf
def write_touches(out: NDArray[np.uint8], head: int, memory: Memory, wallet: int) -> int:
    """Write everything before the fees of a wallet from `head` on; the place behind it."""
    touches, of = memory.touches, memory.wallets[wallet]
    place = put(out, put(out, head, JOURNAL_VERSION, 1) + 4, of[MANY_TOUCHES], 2)
    for touch in range(of[TOUCHES], of[TOUCHES] + of[MANY_TOUCHES]):
        size = touches[touch, SIZE]
        place = put(out, place, touches[touch, AT], 8)
        place = put(out, put(out, place, touches[touch, CODE], 4), size, 2)
        place = copy(memory.text, touches[touch, ID], size, out, place)
    put(out, head + H_SIZE, place - head, 4)
    return place
