"""Records that must be refused, each for exactly one reason of the contract."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from streams.dice import Dice, Table

#: Seldom ones are seldom outside, too; `too_large` has its own count in the simulator.
REASONS = Table(
    (
        ("null_value", 3), ("not_utf8", 2), ("not_json", 3), ("not_an_object", 2), ("too_deep", 1),
        ("missing_field", 5), ("wrong_type", 5), ("unknown_value", 4), ("out_of_range", 5), ("key_missing", 3),
        ("key_mismatch", 3), ("from_the_future", 3),
    )
)  # fmt: skip
MISSING = (
    ("event_id", "wallet_id", "occurred_at", "kind", "product", "asset"),
    ("event_id", "wallet_id", "occurred_at", "campaign_id", "channel"),
)
WRONG: tuple[tuple[tuple[str, Any], ...], ...] = (
    (
        ("usd_value", True), ("quantity", "a lot"), ("leverage", "ten"), ("asset", 7), ("event_id", 17),
        ("occurred_at", "1775000000000"), ("occurred_at", "yesterday"), ("kind", ["trade"]), ("fee_usd", float("nan")),
    ),
    (("cost_usd", True), ("campaign_id", 4), ("occurred_at", 1_775_000_000_000.5), ("cost_usd", float("inf"))),
)  # fmt: skip
UNKNOWN = (
    (("kind", "gamble"), ("product", "casino"), ("side", "hold"), ("kyc_tier", "gold"), ("jurisdiction", "XX")),
    (("touch", "shout"), ("goal", "fame")),
)
OUTSIDE: tuple[tuple[tuple[str, Any], ...], ...] = (
    (
        ("usd_value", "-5"), ("usd_value", "1000000000000"), ("quantity", "-0.01"), ("fee_usd", "-1000000000"),
        ("leverage", 0.5), ("leverage", 1001), ("asset", "A" * 65), ("event_id", ""), ("occurred_at", 1_775_000_000),
    ),
    (("cost_usd", "-0.01"), ("cost_usd", 1_000_000_000), ("channel", "c" * 65), ("event_id", "t" * 129)),
)  # fmt: skip


@dataclass(slots=True)
class Draft:
    """A record before it is written: `lane` 0 transactions, 1 touches; `raw` instead of a value that JSON can show."""

    lane: int
    key: str | None
    value: Any
    at_ms: int
    raw: bytes | None = None

    def line(self, headers: dict[str, str] | None = None) -> str:
        """One line of the NDJSON that `tidemark produce` reads."""
        topic = "campaign.touches" if self.lane else "wallet.transactions"
        line: dict[str, Any] = {"topic": topic, "key": self.key}
        if self.raw is None:
            line["value"] = self.value
        else:
            line["value_base64"] = base64.b64encode(self.raw).decode()
        line["timestamp"] = self.at_ms
        if headers:
            line["headers"] = headers
        return json.dumps(line, separators=(",", ":"))


def spoil(draft: Draft, reason: str, dice: Dice) -> None:
    """Turn a draft of a valid event into one that is refused for `reason` and no other."""
    SPOILERS[reason](draft, dice)


def _text(draft: Draft) -> bytes:
    return json.dumps(draft.value, separators=(",", ":")).encode()


def _null(draft: Draft, _dice: Dice) -> None:
    draft.value = None


def _too_large(draft: Draft, _dice: Dice) -> None:
    draft.value["note"] = "n" * (1 << 20)


def _not_utf8(draft: Draft, _dice: Dice) -> None:
    draft.value["note"] = "?"
    draft.raw = _text(draft).replace(b'"?"', b'"\xff\xfe"')


def _not_json(draft: Draft, dice: Dice) -> None:
    text = _text(draft)
    draft.raw = text[: 1 + dice.below(len(text) - 1)]


def _not_an_object(draft: Draft, dice: Dice) -> None:
    draft.value = ([draft.value], draft.value["event_id"], 7, True)[dice.below(4)]


def _too_deep(draft: Draft, _dice: Dice) -> None:
    nested: list[Any] = []
    for _ in range(33):
        nested = [nested]
    draft.value["note"] = nested


def _missing_field(draft: Draft, dice: Dice) -> None:
    names = MISSING[draft.lane]
    del draft.value[names[dice.below(len(names))]]


def _wrong_type(draft: Draft, dice: Dice) -> None:
    _replace(draft, WRONG[draft.lane], dice)
    if any(isinstance(field, float) and not abs(field) < 1e300 for field in draft.value.values()):
        draft.raw = _text(draft)  # NaN and Infinity are no JSON: other readers of the file would stumble


def _unknown_value(draft: Draft, dice: Dice) -> None:
    _replace(draft, UNKNOWN[draft.lane], dice)


def _out_of_range(draft: Draft, dice: Dice) -> None:
    _replace(draft, OUTSIDE[draft.lane], dice)


def _key_missing(draft: Draft, _dice: Dice) -> None:
    draft.key = None


def _key_mismatch(draft: Draft, _dice: Dice) -> None:
    assert draft.key
    draft.key = draft.key[::-1]


def _from_the_future(draft: Draft, dice: Dice) -> None:
    draft.value["occurred_at"] = draft.at_ms + 660_000 + dice.below(86_400_000)


def _replace(draft: Draft, choices: tuple[tuple[str, Any], ...], dice: Dice) -> None:
    name, wrong = choices[dice.below(len(choices))]
    draft.value[name] = wrong


SPOILERS: dict[str, Callable[[Draft, Dice], None]] = {
    "null_value": _null,
    "too_large": _too_large,
    "not_utf8": _not_utf8,
    "not_json": _not_json,
    "not_an_object": _not_an_object,
    "too_deep": _too_deep,
    "missing_field": _missing_field,
    "wrong_type": _wrong_type,
    "unknown_value": _unknown_value,
    "out_of_range": _out_of_range,
    "key_missing": _key_missing,
    "key_mismatch": _key_mismatch,
    "from_the_future": _from_the_future,
}
