"""ROI counters: a cell per segment, campaign and channel, eleven integers each, exact at any size.

A step asks for additions; the shell reads the cells it does not know yet, adds, and writes absolute values. Nothing
that is stored is ever added to by Redis.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

#: The attribution rules, in the order in which they are stored.
RULES = ("first", "last", "linear", "time_decay", "position")
#: A cell: cost, the revenue of each rule, the conversions of each rule (in millionths).
COST, REVENUE, CONVERSIONS = 0, slice(1, 6), slice(6, 11)
NUMBERS = 11
Cell: TypeAlias = tuple[int, ...]
EMPTY_CELL: Cell = (0,) * NUMBERS


@dataclass(frozen=True, slots=True)
class CellDeltas:
    """What a batch adds. `names`: fields, `segment|campaign|channel`; `deltas`: (m, 11) integers, same order."""

    names: list[bytes]
    deltas: NDArray[np.int64]


def encode_cell(cell: Cell) -> bytes:
    """Eleven decimal integers, readable in redis-cli."""
    return b"%d %d %d %d %d %d %d %d %d %d %d" % cell


def decode_cell(stored: bytes | None) -> Cell:
    """A cell as stored; all zeros where nothing is. Raises `ValueError` for what is no cell."""
    if stored is None:
        return EMPTY_CELL
    cell = tuple(map(int, stored.split()))
    if len(cell) != NUMBERS:
        raise ValueError(f"this is no cell of the ROI: {stored[:80]!r}")
    return cell


# ------------------------------------------------------------------ names of cells


def escape(text: str) -> str:
    """Keep `|` for the separator."""
    return text.replace("%", "%25").replace("|", "%7C")


def unescape(text: str) -> str:
    """What `escape` was given."""
    return text.replace("%7C", "|").replace("%25", "%")


def campaign_field(campaign_id: str, channel: str) -> bytes:
    """The name of a campaign in one channel: `campaign|channel`."""
    return f"{escape(campaign_id)}|{escape(channel)}".encode()


def cell_field(segment: str, campaign: bytes) -> bytes:
    """`segment|campaign|channel`; without a campaign `segment||`."""
    return segment.encode() + b"|" + campaign


def split_field(field: bytes) -> tuple[str, str | None, str | None]:
    """The segment id, campaign and channel of a cell; None, None for revenue without an eligible touch."""
    segment, campaign, channel = field.decode().split("|")
    return segment, unescape(campaign) or None, unescape(channel) or None


NO_CAMPAIGN = b"|"


class Codes:
    """Small numbers for the campaigns of a partition, 1 and up in order of appearance; 0 is no campaign.

    Never changed: `with_names` gives a new value. A number, once stored in a wallet's journal, keeps its meaning.
    """

    __slots__ = ("names", "numbers")

    def __init__(self, names: Iterable[bytes] = ()) -> None:
        self.names = [NO_CAMPAIGN, *names]
        self.numbers = {name: number for number, name in enumerate(self.names)}

    @classmethod
    def of(cls, stored: Mapping[bytes, bytes]) -> Codes:
        """Codes as stored: field -> decimal number. Raises `ValueError` if a number is missing."""
        codes = cls(sorted(stored, key=lambda name: int(stored[name])))
        if any(codes.numbers[name] != int(number) for name, number in stored.items()):
            raise ValueError("the numbers of the campaigns have a gap")
        return codes

    def with_names(self, names: Iterable[bytes]) -> Codes:
        return Codes([*self.names[1:], *names])
