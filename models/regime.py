"""Whether the market is in a flash crash: far more wallets act within an hour than its hour of the week explains.

The logarithm of the number of active wallets is compared with what is usual: a level that follows the stream within
days, factors of the hour of day and of the day of week, and an exponentially weighted variance. Wallets are counted
and not records, so one busy robot is one. A ramp to a deadline grows by less in an hour than the level follows.
Prices are no input, so realised volatility is not looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from models.rules import DAY_MS, HOUR_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: Standard deviations above the usual from which an hour is an alarm, and the wallets it must have at least.
ALARM, FEWEST = 6.0, 30
#: Where few wallets act no single hour is sure, but several are: an hour this far above the usual is an alarm, too, if
#: the exponentially weighted mean of the last hours (Roberts 1959), of which it is `NEWEST`, is as improbable.
SUSPECT, NEWEST = 3.0, 0.3
TOGETHER = ALARM * (NEWEST / (2 - NEWEST)) ** 0.5
#: A crash is over this long after the last hour that was an alarm: until the fast scale has forgotten half of it.
LASTS_MS = 3 * DAY_MS
#: Hours that must have been seen before one can be unusual.
KNOWN_AFTER = 72
#: How much of a surprise is learned: by the level, the hour of day, the day of week, and the variance.
LEVEL, HOUR, WEEKDAY, VARIANCE = 0.03, 0.15, 0.02, 0.02
#: A surprise beyond this many standard deviations is learned as if it were this large.
CUT_OFF = 3.0
#: Logarithms vary by this much at least, beside what counting so many wallets brings.
LEAST_SD = 0.05
#: An hour closes when all partitions are past it, or when the first is this far past: some are idle.
CLOSES_MS = 2 * DAY_MS
#: Hours of which a partition keeps running totals: late events belong to hours past.
KEPT_HOURS = 48
#: Columns of flow cells: epoch hour, then running totals of the hour: transactions, wallets that acted, USD.
CELL = ("hour", "transactions", "wallets", "usd")
NO_FLOW: Floats = np.zeros((0, len(CELL)))
#: 1970-01-01 was a Thursday.
_THURSDAY = 3


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """What is usual, and which hours are still open.

    `usual`: float64 (35,), level, variance, hours closed, 24 by hour of day, 7 by day of week, all of log wallets; and
    the weighted mean of the last hours' surprises in standard deviations.
    `cells`: float64 (c, 5), partition and `CELL`, of open hours, in order. `closed_until`: epoch hour before which no
    cell is taken any more. `from_ms`, `until_ms`: the newest crash, 0 for none so far.
    """

    usual: Floats
    cells: Floats
    closed_until: int = 0
    from_ms: int = 0
    until_ms: int = 0

    @classmethod
    def unknown(cls) -> Flow:
        return cls(np.zeros(3 + 24 + 7 + 1), np.zeros((0, 1 + len(CELL))))

    def regime_at(self, at_ms: int) -> str:
        return "crash" if self.from_ms <= at_ms < self.until_ms else "normal"


def note(flow: Flow, partition: int, cells: Floats) -> Flow:
    """The flow with a partition's running totals (h, 4), in the columns of `CELL`.

    Totals of an hour never shrink: a repeat changes nothing, and a partition that begins anew does not take back.
    """
    known = {(int(cell[0]), int(cell[1])): cell for cell in flow.cells}
    usable = cells[np.isfinite(cells).all(axis=1) & (cells[:, 0] >= flow.closed_until)]
    for cell in usable:
        key = partition, int(cell[0])
        here = np.concatenate(([float(partition)], cell))
        known[key] = np.maximum(known[key], here) if key in known else here
    ordered = [known[key] for key in sorted(known, key=lambda key: (key[1], key[0]))]
    return replace(flow, cells=np.array(ordered).reshape(len(ordered), 1 + len(CELL)))


def judge(flow: Flow, slowest_ms: int, fastest_ms: int) -> Flow:
    """Look at every open hour, and learn from those that are over. Clocks: of the last and of the first partition."""
    closing = max(slowest_ms, fastest_ms - CLOSES_MS) // HOUR_MS
    hours, place = np.unique(flow.cells[:, 1].astype(np.int64), return_inverse=True)
    wallets = np.bincount(place, flow.cells[:, 3], len(hours))
    for hour, active in zip(hours.tolist(), wallets.tolist(), strict=True):
        if active >= FEWEST and is_alarm(flow.usual, surprise(flow.usual, hour, active)[0]):
            flow = _alarm(flow, hour)
        if hour < closing:
            flow = replace(flow, usual=_learned(flow.usual, hour, active))
    still = flow.cells[:, 1] >= closing
    return replace(flow, cells=flow.cells[still], closed_until=max(flow.closed_until, int(closing)))


def is_alarm(usual: Floats, deviations: float) -> bool:
    """Whether an hour so many standard deviations above the usual is a crash, after the hours before it."""
    return deviations > ALARM or (deviations > SUSPECT and _lately(usual, deviations) > TOGETHER)


def _lately(usual: Floats, deviations: float) -> float:
    return float((1 - NEWEST) * usual[-1] + NEWEST * min(deviations, ALARM))


def surprise(usual: Floats, hour: int, active: float) -> tuple[float, float]:
    """How many standard deviations an hour is above the usual, and by how much in logarithms; 0 at the beginning."""
    if usual[2] < KNOWN_AFTER:
        return 0.0, 0.0
    return _surprise(usual, hour, active)


def _surprise(usual: Floats, hour: int, active: float) -> tuple[float, float]:
    expected = usual[0] + usual[_hour(hour)] + usual[_weekday(hour)]
    apart = float(np.log(active + 0.5) - expected)
    counted = 1.0 / (np.exp(expected) + 1.0)
    return apart / float(np.sqrt(max(usual[1], counted + LEAST_SD**2))), apart


def _learned(usual: Floats, hour: int, active: float) -> Floats:
    """What is usual after an hour with so many active wallets."""
    usual, seen = usual.copy(), usual[2]
    usual[2] += 1
    if seen == 0:
        usual[0] = np.log(active + 0.5)
        return usual
    deviations, apart = _surprise(usual, hour, active)
    if seen >= KNOWN_AFTER:
        usual[-1] = _lately(usual, deviations)
    if seen >= KNOWN_AFTER and abs(deviations) > CUT_OFF:
        apart *= CUT_OFF / abs(deviations)
    days = seen // 24  # a factor seen for the second time is learned faster than one seen for the hundredth
    usual[_hour(hour)] += apart * max(HOUR, 1 / (days + 2))
    usual[_weekday(hour)] += apart * WEEKDAY
    usual[0] += apart * max(LEVEL, 1 / (seen + 1))
    usual[1] += (apart**2 - usual[1]) * max(VARIANCE, 1 / (seen + 1))
    return usual


def _alarm(flow: Flow, hour: int) -> Flow:
    begins_ms, until_ms = hour * HOUR_MS, (hour + 1) * HOUR_MS + LASTS_MS
    goes_on = flow.from_ms <= begins_ms < flow.until_ms
    return replace(
        flow, from_ms=flow.from_ms if goes_on else begins_ms, until_ms=max(flow.until_ms if goes_on else 0, until_ms)
    )


def _hour(hour: int) -> int:
    return 3 + hour % 24


def _weekday(hour: int) -> int:
    return 3 + 24 + (hour // 24 + _THURSDAY) % 7


def count_hours(
    at_ms: NDArray[np.int64], previous_at_ms: NDArray[np.int64], usd: Floats, sizes: Sequence[int]
) -> list[Floats]:
    """Flow cells (h, 4) of each partition's transactions, hours in order, to be added up.

    Transactions (n,): those of one partition after those of another, so many of each as `sizes` says. `previous_at_ms`:
    the wallet's newest transaction before each, 0 for none: a wallet acts in an hour when its first transaction of that
    hour comes. `usd`: NaN where unknown.
    """
    hour = at_ms // HOUR_MS
    fresh, usd = hour > previous_at_ms // HOUR_MS, np.where(np.isnan(usd), 0.0, usd)
    out, begin = [], 0
    for size in sizes:
        its = slice(begin, begin + size)
        out.append(_cells_of(hour[its], fresh[its], usd[its]))
        begin += size
    return out


def _cells_of(hour: NDArray[np.int64], fresh: NDArray[np.bool_], usd: Floats) -> Floats:
    """Flow cells of one partition. `fresh`: where a wallet acts."""
    if len(set(hour.tolist())) == 1:  # live traffic, nearly always
        return np.array([[hour[0], len(hour), np.count_nonzero(fresh), np.add.reduce(usd)]], np.float64)
    hours, place = np.unique(hour, return_inverse=True)
    columns = (np.bincount(place, weights, len(hours)) for weights in (None, fresh, usd))
    return np.stack([hours.astype(np.float64), *columns], axis=1)


def add_hours(totals: Floats, added: Floats, kept: int) -> Floats:
    """Running totals (h, 4) with more cells added, in any order, the newest `kept` hours."""
    if len(added) == 1 and len(totals) and added[0, 0] == totals[-1, 0]:  # live traffic, nearly always
        together = totals.copy()
        together[-1, 1:] += added[0, 1:]
        return together
    both = np.concatenate((totals, added))
    hours, place = np.unique(both[:, 0], return_inverse=True)
    columns = (np.bincount(place, both[:, column], len(hours)) for column in range(1, len(CELL)))
    return np.stack([hours, *columns], axis=1)[-kept:]


class HourlyTotals(NamedTuple):
    """Running totals of a partition's newest hours, and which of them it has to tell.

    `cells`: float64 (h, 4), at most `KEPT_HOURS`. `untold`: the first hour that is not told as it is, inf none.
    """

    cells: Floats = NO_FLOW
    untold: float = math.inf

    def plus(self, flow: Floats) -> HourlyTotals:
        """With what was added to the hours: `flow`, float64 (h, 4), in any order."""
        if not len(flow):
            return self
        return HourlyTotals(add_hours(self.cells, flow, KEPT_HOURS), min(self.untold, float(flow[:, 0].min())))

    def to_tell(self) -> Floats:
        """The hours (h, 4) from the first that is untold."""
        return self.cells[self.cells[:, 0] >= self.untold]

    def all_told(self) -> HourlyTotals:
        return self._replace(untold=math.inf)
