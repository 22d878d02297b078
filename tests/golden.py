"""A small story whose stored rows and journals are kept in tests/golden/, one file for each layout there has been.

`python -m tests.golden` writes the file of the present one: give it the next number when a layout has changed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.arrivals import JURISDICTION
from models.features import row_features
from models.journeys import fees_of, touches_of, unpack_journal, with_fees
from models.layout import FEE
from models.rows import FEATURES, FEES, HAS_FEES, SEGMENTS, SINCE_LOOK, unpack_rows
from models.rules import DAY_MS
from models.segments import Catalogue, Segment
from models.state import TOUCHES, TRANSACTIONS
from tests.partition import NOON_MS, Arrival, Partition, encoded, numbered, touch, transaction

FOLDER = Path(__file__).parent / "golden"
#: Number of each file -> the version of its rows; the last is of today.
FILES = {1: 1, 2: 2, 3: 3, 4: 3, 5: 4, 6: 5}
LATEST = max(FILES)
MINUTE_MS = 60_000
#: Eleven fees within an hour: four stay in the row, the others wait for late touches.
BUSY = ("spot-1", "perp-1", "mover")
#: The largest number of a segment that the first layout could hold.
LARGE = 8191


def catalogue(large: int = LARGE) -> Catalogue:
    """Two segments, told apart by what their wallets trade; `large` is the number of the second."""
    centres = np.zeros((2, len(FEATURES)))
    centres[0, FEATURES.index("spot")] = centres[1, FEATURES.index("derivatives")] = 1
    variances = np.full((2, len(FEATURES)), 100.0)
    variances[:, [FEATURES.index("spot"), FEATURES.index("derivatives")]] = 0.05
    return Catalogue(
        version=7,
        mean=np.zeros(len(FEATURES)),
        sd=np.ones(len(FEATURES)),
        centres=centres,
        variances=variances,
        shares=np.array([0.5, 0.5]),
        segments=(Segment(1, 3, "spot traders", 0.5, 1), Segment(large, 11, "derivatives traders", 0.5, 6)),
        whale_at=float(np.log1p(1e6)),
    )


def story() -> tuple[list[Arrival], list[Arrival]]:
    """What is stored, and what comes after it: late touches that take credit back and give it again."""
    end = NOON_MS + 40 * DAY_MS
    before = [*_habits(end), *_busy_hour(end)]
    after = []
    for number, wallet in enumerate((*BUSY, "beginner")):
        late = touch(f"late-{wallet}", wallet, end - 50 * MINUTE_MS, campaign_id="late", cost_usd="0.25")
        after.append(encoded(TOUCHES, late, end + number))
        trade = transaction(f"after-{wallet}", wallet, end + MINUTE_MS, fee_usd="3.000001", usd_value="50")
        after.append(encoded(TRANSACTIONS, trade, end + MINUTE_MS))
    arrivals = numbered([*before, *after])
    return arrivals[: len(before)], arrivals[len(before) :]


def _habits(end: int) -> list[Arrival]:
    """Forty days: three kinds of wallets, one that changes, one that only looks, one with two trades."""
    out = []
    for day in range(40):
        at_ms = end - (40 - day) * DAY_MS
        for wallet in (*BUSY, "whale"):
            perp = wallet == "perp-1" or (wallet == "mover" and day >= 12)
            size = "1500000" if wallet == "whale" else f"{20 + day}.5"
            more: dict[str, Any] = {"usd_value": size, "fee_usd": f"0.{100 + day}", "asset": ("BTC", "ETH")[day % 2]}
            if perp:
                more |= {"product": "derivatives", "leverage": 5, "side": "sell"}
            out.append(encoded(TRANSACTIONS, transaction(f"{wallet}-{day}", wallet, at_ms, **more)))
        if day in {20, 30}:
            for wallet in (*BUSY, "looker"):
                seen = touch(f"touch-{wallet}-{day}", wallet, at_ms + MINUTE_MS, campaign_id=f"c{day}", cost_usd="0.5")
                out.append(encoded(TOUCHES, seen))
    for number in range(2):
        trade = transaction(f"begin-{number}", "beginner", end - 2 * DAY_MS, fee_usd="1.25", jurisdiction="DE")
        out.append(encoded(TRANSACTIONS, trade))
    return out


def _busy_hour(end: int) -> list[Arrival]:
    """Fees within the allowed lateness, rebates among them."""
    out = []
    for number in range(11):
        for wallet in BUSY:
            fee = f"{'-' if number % 4 == 3 else ''}{number + 1}.000007"
            trade = transaction(f"busy-{wallet}-{number}", wallet, end - (44 - 4 * number) * MINUTE_MS, fee_usd=fee)
            out.append(encoded(TRANSACTIONS, trade))
    return out


@dataclass(frozen=True, slots=True)
class Golden:
    """One file: what a partition has stored in a version of the layout, what it means, and what comes after."""

    content: dict[str, Any]

    @classmethod
    def read(cls, number: int) -> Golden:
        return cls(json.loads((FOLDER / f"wallets-{number}.json").read_text()))

    @property
    def wallets(self) -> dict[str, dict[str, Any]]:
        return dict(self.content["wallets"])

    def partition(self) -> Partition:
        """A partition that goes on from what is stored."""
        found = Partition(catalogue())
        found.rows = {name.encode(): bytes.fromhex(one["row"]) for name, one in self.wallets.items()}
        found.journals = {
            name.encode(): bytes.fromhex(one["journal"]) for name, one in self.wallets.items() if one["journal"]
        }
        found.fees = {name.encode(): beside for name, one in self.wallets.items() if (beside := fees_beside(one))}
        for name in ("cells", "codes"):
            setattr(found, name, {key.encode(): value.encode() for key, value in self.content[name].items()})
        found.totals, found.clock_ms = self.content["totals"].encode(), self.content["clock_ms"]
        found.restart()
        return found


def fees_beside(one: dict[str, Any]) -> bytes:
    """Of a wallet in a file, the fees beside its journal: all that have spilled, or in version 4 those of its page."""
    return bytes.fromhex(one.get("spilled", one.get("page", "")))


def meaning(row: bytes, journal: bytes | None, beside: bytes | None) -> dict[str, Any]:
    """What a stored wallet says, whatever its layout. `beside`: its fees that are not in its journal."""
    unpacked = unpack_rows([row])
    kept = unpack_journal(journal) if journal else None
    if unpacked["flags"][0] & HAS_FEES:
        kept = with_fees(kept, beside or b"")
    spilled = list(FEE.iter_unpack(fees_of(kept))) if kept else []
    newest = unpacked["recent_fees"][0]
    fees = int(unpacked["fees"][0])
    recent = [tuple(newest[number % FEES].tolist()) for number in range(max(0, fees - FEES), fees)]
    return {
        "features": row_features(unpacked)[0].tolist(),
        "segment": int(unpacked["segment"][0]),
        "sequence": int(unpacked["sequence"][0]),
        "flags": int(unpacked["flags"][0]) & ~(SINCE_LOOK | HAS_FEES),
        "jurisdiction": JURISDICTION[int(unpacked["jurisdiction"][0])] or "",
        "fees": [[packed // SEGMENTS, fee, packed % SEGMENTS] for packed, fee in [*spilled, *recent]],
        "touches": [[each.occurred_at_ms, each.event_id.decode(), each.code] for each in touches_of(kept)]
        if kept
        else [],
    }


def counted(told: Partition) -> dict[str, Any]:
    """The integers of a partition: they must be the same whatever the layout."""
    cells = {name.decode(): cell.decode() for name, cell in sorted(told.cells.items())}
    return {"totals": (told.totals or b"").decode(), "cells": cells}


def main() -> None:
    """Write the golden file of the present layout."""
    before, after = story()
    told = Partition(catalogue()).take(before, 50)
    content = {
        "clock_ms": told.clock_ms,
        **counted(told),
        "codes": {name.decode(): code.decode() for name, code in sorted(told.codes.items())},
        "wallets": {
            name.decode(): {
                "row": row.hex(),
                "journal": told.journals[name].hex() if name in told.journals else "",
                "spilled": told.fees[name].hex() if name in told.fees else "",
                **meaning(row, told.journals.get(name), told.fees.get(name)),
            }
            for name, row in sorted(told.rows.items())
        },
    }
    content["after"] = counted(told.take(after))
    file = FOLDER / f"wallets-{LATEST}.json"
    file.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{len(content['wallets'])} wallets written to {file}")


if __name__ == "__main__":
    main()
