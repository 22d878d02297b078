"""What the loops over a batch read of its events: numbers, a record for each event, in order of arrival."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import NDArray

from models.countries import Country
from models.hashing import bucket
from models.rows import ASSET_BUCKETS

if TYPE_CHECKING:
    from models.columns import Events

STABLE_ASSETS = frozenset(
    {"USDC", "USDT", "DAI", "TUSD", "FDUSD", "USDE", "USDS", "PYUSD", "BUSD", "USDP", "GUSD", "LUSD", "FRAX", "USDD"}
    | {"UST", "USTC", "EURC", "EURS"}
)
#: A jurisdiction as the number that its two letters are in a wallet's row, 0 where none was stated; and back.
CODE_OF: dict[str | None, int] = {None: 0} | {
    each: int.from_bytes(each.encode(), "little") for each in get_args(Country)
}
JURISDICTION = {code: jurisdiction for jurisdiction, code in CODE_OF.items()}


#: An event as the loops read it. `wallet`: index of its row. `part`: index of its partition. `usd`: NaN where absent.
#: `asset`: bucket, 0 to 7, and 8 more for a stable asset. `jurisdiction`: code, 0 not stated. Money in micro-USD.
EVENT = np.dtype(
    [
        ("wallet", "i8"),
        ("part", "i8"),
        ("at_ms", "i8"),
        ("usd", "f8"),
        ("leverage", "f8"),
        ("product", "i8"),
        ("asset", "i8"),
        ("fee_micros", "i8"),
        ("cost_micros", "i8"),
        ("jurisdiction", "u2"),
        ("is_touch", "?"),
        ("is_sell", "?"),
    ]
)


def arrivals_of(events: Events, wallet: NDArray[np.int64], part: NDArray[np.int64]) -> NDArray[np.void]:
    """Events in order of arrival as records of `EVENT`, (n,); `wallet` and `part` of each, (n,)."""
    arrivals = np.empty(len(events), EVENT)
    arrivals["wallet"], arrivals["part"], arrivals["at_ms"] = wallet, part, events.occurred_at_ms
    for name in ("usd", "leverage", "product", "fee_micros", "cost_micros", "is_touch", "is_sell"):
        arrivals[name] = getattr(events, name)
    arrivals["asset"] = np.fromiter(map(asset_of, events.assets), np.int64, len(events))
    arrivals["jurisdiction"] = np.fromiter(map(CODE_OF.__getitem__, events.jurisdictions), np.uint16, len(events))
    return arrivals


@lru_cache(maxsize=50_000)
def asset_of(asset: str) -> int:
    """The bucket of an asset, plus their number if it is a stable one."""
    return bucket(asset, ASSET_BUCKETS) + ASSET_BUCKETS * (asset in STABLE_ASSETS)
