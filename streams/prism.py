"""Real input: the events of the PRISM protocol on Terra, early 2022, and the ledger of its token sale, as NDJSON."""

from __future__ import annotations

import csv
import gzip
import heapq
import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from models.events import to_ms

#: What was done -> `kind`. A vested claim that is staked at once is still a claim: that is what the wallet asked for.
KINDS = {
    "swap": "swap",
    "swap_route": "swap",
    "bond": "stake",
    "stake": "stake",
    "pledge": "stake",
    "unbond": "unstake",
    "unstake": "unstake",
    "unpledge": "unstake",
    "claim": "claim",
    "claim_and_stake": "claim",
    "claim_and_stake_and_pledge": "claim",
    "launch_claim": "claim",
    "split": "mint",  # LUNA becomes its yield part and its principal part
    "merge": "burn",  # and the two parts become LUNA again
    "provide": "deposit",
    "withdraw": "withdrawal",
    "transfer": "transfer",
}
#: Where -> `product`. Refracted tokens are claims on the future of another asset; liquidity is lent to a pool.
PRODUCTS = {
    "dex": "spot",
    "refract": "derivatives",
    "stake": "staking",
    "gov_stake": "staking",
    "farm": "staking",
    "boost": "staking",
    "lp": "lending",
    "vesting": "wallet",
    "forge": "wallet",
    "transfer": "wallet",
}
#: The asset where a row names none.
ASSETS = {
    "dex": "PRISM",
    "refract": "LUNA",
    "stake": "yLUNA",
    "gov_stake": "PRISM",
    "farm": "yLUNA",
    "boost": "xPRISM",
    "lp": "PRISM",
    "vesting": "PRISM",
    "forge": "PRISM",
    "transfer": "PRISM",
}
EVENTS = "prism_events.csv.gz"
LEDGER = Path("campaign") / "forge_phase1_state.csv"
CAMPAIGN, CHANNEL = "prism-forge", "forge"
#: The hour in which the tokens of the sale could first be claimed.
LAUNCH_MS = int(datetime(2022, 2, 6, 16, tzinfo=UTC).timestamp()) * 1000
BASIS_POINTS = 10_000


def convert(path: Path, fee_bps: Decimal = Decimal(30)) -> Iterator[str]:
    """The lines `produce` reads, in order of time, without line ends, from the folder `prism-terra`.

    106,501 transactions: `event_id` is the transaction's id and the leg's number in it, `usd_value` is left out where
    the source has none (2 rows), and the fee, which the source does not have, is assumed: `fee_bps` basis points of
    what is traded on the DEX, exactly. And 5,473 clicks at the launch, one for each wallet of the sale's ledger.
    Raises ValueError, one line, where the folder is not that data.
    """
    for name in (EVENTS, LEDGER):
        if not (path / name).is_file():
            raise ValueError(f"{path / name} is not there: the path must be the folder prism-terra")
    both = heapq.merge(_clicks(path / LEDGER), _transactions(path / EVENTS, fee_bps), key=_when)
    yield from (json.dumps(line, separators=(",", ":")) for line in both)


def _when(line: dict[str, Any]) -> int:
    return int(line["timestamp"])


def _transactions(file: Path, fee_bps: Decimal) -> Iterator[dict[str, Any]]:
    """The source is in order of time."""
    legs: Counter[str] = Counter()
    with gzip.open(file, "rt", encoding="utf-8", newline="") as rows:
        for row in csv.DictReader(rows):
            legs[row["tx_id"]] += 1
            yield _transaction(row, legs[row["tx_id"]], fee_bps)


def _transaction(row: dict[str, str], leg: int, fee_bps: Decimal) -> dict[str, Any]:
    at_ms = to_ms(row["ts"])
    if at_ms is None or row["product"] not in PRODUCTS or row["action"] not in KINDS:
        raise ValueError(f"{EVENTS}: {row['ts']} {row['product']} {row['action']} is not of this data")
    event: dict[str, Any] = {
        "event_id": f"{row['tx_id']}/{leg}",
        "wallet_id": row["wallet"],
        "occurred_at": at_ms,
        "kind": KINDS[row["action"]],
        "product": PRODUCTS[row["product"]],
        "asset": row["asset_in"] or row["asset_out"] or ASSETS[row["product"]],
    }
    if quantity := row["amount_in"] or row["amount_out"]:
        event["quantity"] = _plain(Decimal(quantity))
    if row["usd"]:
        event["usd_value"] = _plain(Decimal(row["usd"]))
    if row["usd"] and row["product"] == "dex":
        event["fee_usd"] = _plain(Decimal(row["usd"]) * fee_bps / BASIS_POINTS)
    if "UST" in {row["asset_in"], row["asset_out"]} and event["kind"] == "swap":
        event["side"] = "buy" if row["asset_in"] == "UST" else "sell"
    return {"topic": "wallet.transactions", "key": row["wallet"], "value": event, "timestamp": at_ms}


def _clicks(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8", newline="") as rows:
        for row in csv.DictReader(rows):
            event = {
                "event_id": f"{CAMPAIGN}/{row['sender']}",
                "wallet_id": row["sender"],
                "occurred_at": LAUNCH_MS,
                "campaign_id": CAMPAIGN,
                "channel": CHANNEL,
                "touch": "click",
            }
            yield {"topic": "campaign.touches", "key": row["sender"], "value": event, "timestamp": LAUNCH_MS}


def _plain(number: Decimal) -> str:
    """Digits without an exponent."""
    return f"{number:f}"
