"""An event as the loops over a batch read it: numbers, and where its texts lie."""

from __future__ import annotations

from functools import lru_cache
from typing import get_args

import numpy as np

from models.countries import Country
from models.hashing import bucket
from models.rows import ASSET_BUCKETS

STABLE_ASSETS = frozenset(
    {"USDC", "USDT", "DAI", "TUSD", "FDUSD", "USDE", "USDS", "PYUSD", "BUSD", "USDP", "GUSD", "LUSD", "FRAX", "USDD"}
    | {"UST", "USTC", "EURC", "EURS"}
)
#: A jurisdiction as the number that its two letters are in a wallet's row, 0 where none was stated; and back.
CODE_OF: dict[str | None, int] = {None: 0} | {
    each: int.from_bytes(each.encode(), "little") for each in get_args(Country)
}
JURISDICTION = {code: jurisdiction for jurisdiction, code in CODE_OF.items()}


#: `wallet`: index of its row. `part`: index of its partition. `place`: of its record in the batch. `usd`: NaN where
#: absent. `asset`: bucket, 0 to 7, and 8 more for a stable asset. `jurisdiction`: code, 0 not stated. Money in
#: micro-USD. `id_hash`: of the event id, what a wallet remembers of it. The others: where in the text event id, wallet
#: id, and a touch's campaign and channel (as it was written) begin and end.
EVENT = np.dtype(
    [
        ("wallet", "i8"),
        ("part", "i8"),
        ("place", "i8"),
        ("at_ms", "i8"),
        ("usd", "f8"),
        ("leverage", "f8"),
        ("product", "i8"),
        ("asset", "i8"),
        ("fee_micros", "i8"),
        ("cost_micros", "i8"),
        ("id_hash", "u8"),
        ("event_id", "i8"),
        ("event_id_end", "i8"),
        ("wallet_id", "i8"),
        ("wallet_id_end", "i8"),
        ("campaign", "i8"),
        ("campaign_end", "i8"),
        ("channel", "i8"),
        ("channel_end", "i8"),
        ("jurisdiction", "u2"),
        ("is_touch", "?"),
        ("is_sell", "?"),
        ("is_sent", "?"),
    ]
)


@lru_cache(maxsize=50_000)
def asset_of(asset: str) -> int:
    """The bucket of an asset, plus their number if it is a stable one."""
    return bucket(asset, ASSET_BUCKETS) + ASSET_BUCKETS * (asset in STABLE_ASSETS)
