"""The closed list of what a step may ask for. Nothing here has happened yet."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from models.journeys import fees_of, without_fees
from models.rows import HAS_FEES, HAS_JOURNAL

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy as np
    from numpy.typing import NDArray

    from models.counters import CellDeltas
    from models.records import Record
    from models.state import Wallets


@dataclass(frozen=True, slots=True)
class Announcement:
    """One segment change, ready for Kafka: a CloudEvent in binary mode. `status`, `origin`: as in its value."""

    status: str
    origin: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A record that is no event, with the reason; it goes on as it came, byte for byte."""

    lane: int
    record: Record
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Effects:
    """What one batch asks for, to be committed as a whole.

    `rows`: structured (k,) of `ROW`, the wallets in `keys` to be saved. `journals`: wallet -> its touches as they are
    stored. `fees`: wallet -> all its spilled fees, where old ones were cut off; `spilled`: wallet -> where behind those
    that are stored its new ones go, and these; nobody is in both.
    `codes`: new campaigns, field -> number. `cells`: what is added to the ROI counters.
    `learning`: float32 (m, 16), feature rows for the overview. `late`: accepted events that were late, by lane.
    `flow`: float64 (h, 4), what was done in each hour, in the columns of `models.regime.CELL`. `due`: wallet -> when it
    is to be swept, epoch seconds, 0 no more; only those whose time has changed. `taken`: records folded; the one after
    them moves the clock to `State.until_ms`, if there is one.
    """

    keys: list[bytes]
    rows: NDArray[np.void]
    journals: dict[bytes, bytes]
    codes: dict[bytes, int]
    cells: CellDeltas
    changes: list[Announcement]
    rejected: list[Quarantined]
    learning: NDArray[np.float32]
    late: tuple[int, int]
    flow: NDArray[np.float64]
    due: dict[bytes, int] = field(default_factory=dict)
    taken: int = 0
    fees: dict[bytes, bytes] = field(default_factory=dict)
    spilled: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)


def with_whole(effects: Effects, wallets: Wallets, keys: Collection[bytes]) -> Effects:
    """The same, but all that is stored of these wallets, of those to be saved, is written: touches and fees anew.

    `wallets`: as they will be.
    """
    journals, fees, spilled = dict(effects.journals), dict(effects.fees), dict(effects.spilled)
    flags = dict(zip(effects.keys, effects.rows["flags"].tolist(), strict=True))
    for key, journal in zip(wallets.keys, wallets.journals, strict=True):
        if key not in keys:
            continue
        spilled.pop(key, None)
        if flags[key] & HAS_JOURNAL:
            journals[key] = without_fees(journal)
        if flags[key] & HAS_FEES:
            fees[key] = fees_of(journal)
    return replace(effects, journals=journals, fees=fees, spilled=spilled)
