"""What a wallet does next in a simulated season: a touch of a campaign, or a transaction in its persona's manner."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from streams.dice import Dice, Table
from streams.market import Cast
from streams.personas import CAMPAIGNS, FUNNELS, JURISDICTIONS, KINDS, VARIANTS, Campaign
from streams.season import HOUR_MS, Day
from streams.truth import Seen, Truth

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Repeats are taken from so many newest events of a wallet; 32 ids are remembered.
REPEATABLE = 12
#: Bounds that keep every wallet inside its memory: 256 fees within an hour and a late arrival, 128 touches within
#: 30 days, an hour and a late arrival. Either window meets at most three of these stretches.
FEES_AN_HOUR = 80
TOUCH_STRETCH_DAYS, TOUCHES_A_STRETCH = 16, 40
#: Kinds of a transaction that cost nothing.
FREE = frozenset({"deposit", "reward", "other"})


@dataclass(slots=True)
class Wallet:
    """One wallet while its season runs. `persona` is a number in the cast; `rate` and `size` are its own factors.

    `changes_on`, `silent_on`: days from which it is what it becomes, and does nothing any more; -1: never.
    """

    wallet_id: str
    persona: int
    rate: int
    size: float
    style: int
    jurisdiction: str
    variant: str
    changes_on: int
    becomes: int
    begins_on: int = 0
    silent_on: int = -1
    funnel: tuple[Campaign, str, int] | None = None
    marked: set[str] = field(default_factory=set)
    quiet: int = 0
    hour: int = 0
    fees: int = 0
    stretch: int = 0
    touches: int = 0
    recent: deque[tuple[int, dict[str, Any]]] = field(default_factory=lambda: deque(maxlen=REPEATABLE))


def make_wallet(wallet_id: str, days: int, cast: Cast, changers: int, dice: Dice) -> Wallet:
    """A wallet of some persona, with its own size and pace; some change their persona once in `days` days."""
    persona = dice.pick(cast.shares)
    changes = dice.chance(changers) and days >= 10
    becomes = dice.pick(cast.becomes[persona])
    return Wallet(
        wallet_id=wallet_id,
        persona=persona,
        rate=100 + int(900 * dice.lognormal(70)),
        size=dice.lognormal(70),
        style=dice.below(10),
        jurisdiction=dice.pick(_JURISDICTIONS),
        variant=dice.pick(_VARIANTS),
        changes_on=days // 5 + dice.below(days * 3 // 5) if changes else -1,
        becomes=becomes,
    )


class Behaviour:
    """Makes wallets act, and enters what they do in the books. `made`: events made so far, the next one's id."""

    def __init__(self, dice: Dice, books: Truth, cast: Cast) -> None:
        self.dice, self.books, self.cast = dice, books, cast
        self.made = 0

    def start(self, wallet: Wallet, occurred_ms: int) -> dict[str, Any]:
        self.made += 1
        return {
            "event_id": f"e{self.made}",
            "wallet_id": wallet.wallet_id,
            "occurred_at": as_written(occurred_ms, wallet.style),
        }

    def is_touched(self, wallet: Wallet, day: Day) -> bool:
        """Whether a campaign comes next; after the end of a funnel the wallet acts on its own for a while."""
        number = persona_on(wallet, day)
        stretch = day.number // TOUCH_STRETCH_DAYS
        if wallet.stretch != stretch:
            wallet.stretch, wallet.touches = stretch, 0
        if wallet.quiet or wallet.touches >= TOUCHES_A_STRETCH or not day.wanted[number]:
            wallet.quiet = max(0, wallet.quiet - 1)
            return False
        persona = self.cast.personas[number]
        if not self.dice.chance(500 if wallet.funnel else 1000 * persona.reach // (persona.reach + persona.daily)):
            return False
        if wallet.variant == "holdout":
            return any(CAMPAIGNS[n].campaign_id not in wallet.marked for n in day.wanted[number])
        return True

    def touch(self, wallet: Wallet, day: Day, occurred_ms: int) -> dict[str, Any]:
        """The next touch of the wallet's funnel, or the first of a new one."""
        dice = self.dice
        if wallet.variant == "holdout":
            wanted = [CAMPAIGNS[n] for n in day.wanted[persona_on(wallet, day)]]
            campaign = next(c for c in wanted if c.campaign_id not in wallet.marked)
            wallet.marked.add(campaign.campaign_id)
            return self._tell_touch(wallet, (campaign, campaign.channels[0][0], -1), occurred_ms)
        if wallet.funnel is None:
            wanted_now = day.wanted[persona_on(wallet, day)]
            campaign = CAMPAIGNS[wanted_now[dice.below(len(wanted_now))]]
            wallet.funnel = (campaign, dice.pick(_CHANNELS[campaign.campaign_id]), 0)
        here = campaign, channel, stage = wallet.funnel
        if dice.chance(FUNNELS[channel][stage].goes_on):
            wallet.funnel = (campaign, channel, stage + 1)
        else:
            wallet.funnel, wallet.quiet = None, stage + 1
        return self._tell_touch(wallet, here, occurred_ms)

    def _tell_touch(self, wallet: Wallet, here: tuple[Campaign, str, int], occurred_ms: int) -> dict[str, Any]:
        """A touch as an event, entered in the books. Stage -1 marks a wallet as control: nothing shown, no cost."""
        campaign, channel, number = here
        event = touch_event(self.start(wallet, occurred_ms), campaign, channel)
        event["variant"] = wallet.variant
        event["channel"] = channel.upper() if wallet.style == 9 else channel  # some sources shout
        cost_micros, kind = 0, "sent"
        if number >= 0:
            stage = FUNNELS[channel][number]
            cost_micros, kind = stage.cost_micros, stage.touch
        if cost_micros:
            event["cost_usd"] = cost_micros / 1_000_000
        if kind != "click" or wallet.style % 2:  # click is what a touch is when nothing is said
            event["touch"] = kind
        wallet.touches += kind != "sent"  # what was only sent takes no place in a wallet's memory
        seen = Seen(occurred_ms, event["event_id"].encode(), (campaign.campaign_id, channel))
        self.books.touch(wallet.wallet_id, seen, cost_micros, sent=kind == "sent")
        return event

    def transaction(self, wallet: Wallet, day: Day, occurred_ms: int) -> dict[str, Any]:
        """A transaction, entered in the books."""
        event, fee = self.bare_transaction(wallet, day, occurred_ms)
        hour = occurred_ms // HOUR_MS
        if wallet.hour < hour:
            wallet.hour, wallet.fees = hour, 0
        if fee and wallet.fees < FEES_AN_HOUR:
            wallet.fees += 1
            event["fee_usd"] = decimal_text(fee, 7)
        else:
            fee = 0
        self.books.transaction(wallet.wallet_id, occurred_ms, half_even(fee))
        return event

    def bare_transaction(self, wallet: Wallet, day: Day, occurred_ms: int) -> tuple[dict[str, Any], int]:
        """A transaction without its fee, and the fee in 10^-7 USD."""
        dice, number = self.dice, persona_on(wallet, day)
        persona, crashing = self.cast.personas[number], day.crashes_at(occurred_ms)
        product = dice.pick(self.cast.products[number])
        liquidated = crashing and product == "derivatives" and dice.chance(300)
        kind = "liquidation" if liquidated else dice.pick(_KINDS[product])
        asset = dice.pick(self.cast.assets[number])
        cents = max(1, int(persona.ticket_cents * wallet.size * dice.lognormal(persona.spread) * day.tickets[number]))
        event = self.start(wallet, occurred_ms)
        event |= {"kind": kind, "product": product, "asset": asset.lower() if wallet.style == 8 else asset}
        event["quantity"] = decimal_text(cents * 10**8 // day.prices[asset], 8)
        if product in {"spot", "derivatives"}:
            event["side"] = "sell" if dice.chance(900 if crashing else persona.sells + day.losses) else "buy"
        if product == "derivatives":
            low, high = persona.leverage
            event["leverage"] = low + dice.below(dice.below(high - low + 1) + 1)
        event |= {"jurisdiction": wallet.jurisdiction, "kyc_tier": persona.kyc}
        if product == "wallet" and dice.chance(60):
            return event, 0  # nobody priced it
        event["usd_value"] = decimal_text(cents, 2)
        if kind in FREE:
            return event, 0
        rebated = persona.rebates and dice.chance(persona.rebates)
        return event, -cents * persona.fee // 3 if rebated else cents * persona.fee


def persona_on(wallet: Wallet, day: Day) -> int:
    """The number in the cast of what the wallet is on a day."""
    return wallet.becomes if 0 <= wallet.changes_on <= day.number else wallet.persona


def is_here(wallet: Wallet, day: Day) -> bool:
    """Whether the wallet does anything on a day: it has begun, and has not stopped."""
    return wallet.begins_on <= day.number and not 0 <= wallet.silent_on <= day.number


def touch_event(start: dict[str, Any], campaign: Campaign, channel: str) -> dict[str, Any]:
    """A touch of which nothing more is known."""
    return start | {"campaign_id": campaign.campaign_id, "channel": channel, "goal": campaign.goal}


def half_even(fee: int) -> int:
    """10^-7 USD -> micro-USD, halves to the even one."""
    micros, rest = divmod(fee, 10)
    return micros + (rest > 5 or (rest == 5 and micros % 2 == 1))


def decimal_text(units: int, places: int) -> str:
    """A whole number of 10^-places as decimal text, without needless zeros."""
    whole, part = divmod(abs(units), 10**places)
    text = f"{whole}.{part:0{places}d}".rstrip("0").rstrip(".")
    return f"-{text}" if units < 0 else text


def as_written(at_ms: int, style: int) -> int | str:
    """The same moment as different sources write it: mostly integers, some RFC 3339."""
    if style < 7:
        return at_ms
    moment = EPOCH + timedelta(milliseconds=at_ms)
    if style == 7:
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if style == 8:
        return moment.astimezone(timezone(timedelta(hours=-5, minutes=-30))).isoformat(timespec="milliseconds")
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "999+00:00")  # cut off below milliseconds


_JURISDICTIONS, _VARIANTS = Table(JURISDICTIONS), Table(VARIANTS)
_KINDS = {product: Table(kinds) for product, kinds in KINDS.items()}
_CHANNELS = {campaign.campaign_id: Table(campaign.channels) for campaign in CAMPAIGNS}
