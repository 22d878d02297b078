"""What is sent in a benchmark: the peers' own heavy-tailed traffic. Standard library only: the sender reads it too."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

TRANSACTIONS, TOUCHES = "wallet.transactions", "campaign.touches"
CHANNELS = ("email", "push", "social")
ASSETS = ("BTC", "ETH", "SOL", "USDC", "USDT", "MATIC", "AAVE", "UNI", "LINK", "DOGE", "AVAX", "DOT")
PRODUCTS = ("spot", "wallet", "staking", "lending", "derivatives")
COUNTRIES = ("US", "GB", "DE", "JP")
START_MS = 1_775_000_000_000
#: Event time between two records: 100,000 a day, so that the model learns in the middle of it.
GAP_MS = 864


class Sent(NamedTuple):
    """One record of a log. `topic`: the contract's name. `at_ms`: its timestamp, epoch milliseconds."""

    topic: str
    key: bytes
    value: bytes
    at_ms: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """Heavy-tailed traffic: 10 % touches; a wallet keeps the scale, the assets and the product of its character.

    `characters`: how many different ones there are; None: one for each wallet, as the peers' produce.py has it.
    `hot`: share of the records, 0 to 1, that wallet 0 makes beside its own. `start_ms`, `gap_ms`: time of the first
    record, and between two.
    """

    wallets: int
    characters: int | None = None
    hot: float = 0.0
    start_ms: int = START_MS
    gap_ms: int = GAP_MS

    def character(self, wallet: int) -> int:
        """Busy wallets have the characters of busy wallets, however many there are."""
        return wallet * (self.characters or self.wallets) // self.wallets

    def happenings(self) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """Topic, wallet's number and the fields that are not who and when, without end."""
        chance = random.Random(20261120)
        characters = self.characters or self.wallets
        scale = [chance.lognormvariate(4, 2) for _ in range(characters)]
        breadth = [1 + min(11, int(chance.expovariate(0.5))) for _ in range(characters)]
        number = 0
        while True:
            wallet = min(self.wallets - 1, int(self.wallets * chance.random() ** 2.2))
            if self.hot and chance.random() < self.hot:
                wallet = 0
            if number % 10 == 0:
                yield TOUCHES, wallet, _touch(chance)
            else:
                character = self.character(wallet)
                usd = scale[character] * chance.lognormvariate(0, 1)
                yield TRANSACTIONS, wallet, _transaction(character, usd, ASSETS[chance.randrange(breadth[character])])
            number += 1

    def records(self, count: int) -> Iterator[Sent]:
        """The first `count` records of both topics, in order of time."""
        for number, (topic, wallet, fields) in zip(range(count), self.happenings(), strict=False):
            at_ms = self.start_ms + number * self.gap_ms
            event = {"event_id": f"e{number}", "wallet_id": f"w{wallet}", "occurred_at": at_ms, **fields}
            yield Sent(topic, event["wallet_id"].encode(), json.dumps(event).encode(), at_ms)


def _touch(chance: random.Random) -> dict[str, Any]:
    return {
        "campaign_id": f"c{chance.randrange(6)}",
        "channel": chance.choice(CHANNELS),
        "variant": chance.choice("AB"),
        "cost_usd": round(chance.random() * 0.5, 4),
    }


def _transaction(character: int, usd: float, asset: str) -> dict[str, Any]:
    return {
        "kind": "trade",
        "product": PRODUCTS[character % 5],
        "asset": asset,
        "quantity": str(round(usd / 100, 6)),
        "usd_value": round(usd, 2),
        "fee_usd": round(usd * 0.001, 6),
        "leverage": 5.0 if character % 5 == 4 else None,
        "jurisdiction": COUNTRIES[character % 4],
    }
