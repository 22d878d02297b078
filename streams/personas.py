"""Who takes part in a simulated tax season: personas, assets, jurisdictions, campaigns. Tables only.

Numbers are integers, so that a season is the same on every machine: amounts in cents, rates in thousandths,
fees in tenths of a basis point.
"""

from __future__ import annotations

from dataclasses import dataclass

#: (name, weight) pairs; the weights need not add up to anything.
Mix = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Persona:
    """A way of using a wallet.

    `share`: wallets in a thousand. `daily`: transactions in a thousand days. `ticket_cents`: median of the
    lognormal ticket, `spread`: its standard deviation in hundredths of a doubling. `sells`, `rebates`: in a thousand
    transactions. `leverage`: lowest and highest, 1 and 1 for none. `fee`: tenths of a basis point of the ticket.
    `reach`: touches in a thousand days while a campaign wants the wallet.
    """

    name: str
    share: int
    daily: int
    ticket_cents: int
    spread: int
    products: Mix
    assets: Mix
    sells: int
    fee: int
    kyc: str
    reach: int
    rebates: int = 0
    leverage: tuple[int, int] = (1, 1)


MAJORS: Mix = (("BTC", 6), ("ETH", 4))
STABLES: Mix = (("USDC", 5), ("USDT", 4), ("DAI", 1))
MARKET: Mix = (
    ("BTC", 5), ("ETH", 5), ("SOL", 4), ("AVAX", 3), ("DOGE", 3), ("LINK", 3), ("DOT", 2), ("ADA", 2), ("XRP", 3),
    ("ATOM", 2), ("NEAR", 2), ("ARB", 2), ("USDC", 5), ("USDT", 3),
)  # fmt: skip

PERSONAS = (
    Persona(
        name="whale", share=25, daily=2_200, ticket_cents=14_000_000, spread=130, sells=420, fee=45, kyc="full",
        products=(("spot", 70), ("wallet", 28), ("staking", 2)), assets=MAJORS, reach=150,
    ),
    Persona(
        name="active_trader", share=150, daily=5_500, ticket_cents=70_000, spread=140, sells=480, fee=200, kyc="full",
        products=(("spot", 97), ("wallet", 3)), assets=MARKET, reach=450,
    ),
    Persona(
        name="holder", share=255, daily=420, ticket_cents=110_000, spread=110, sells=40, fee=255, kyc="basic",
        products=(("wallet", 78), ("spot", 22)), assets=MAJORS, reach=350,
    ),
    Persona(
        name="institution", share=35, daily=9_000, ticket_cents=2_600_000, spread=55, sells=500, fee=25,
        products=(("lending", 62), ("spot", 30), ("wallet", 8)), assets=(("BTC", 3), ("ETH", 2), ("USDC", 9)),
        kyc="institutional", reach=100, rebates=300,
    ),
    Persona(
        name="defi", share=130, daily=2_600, ticket_cents=240_000, spread=120, sells=150, fee=105, kyc="none",
        products=(("lending", 42), ("staking", 50), ("nft", 3), ("spot", 5)), reach=300,
        assets=(("ETH", 4), ("STETH", 4), ("AAVE", 2), ("UNI", 2), ("CRV", 2), ("LDO", 2), ("DAI", 2), ("ATOM", 2)),
    ),
    Persona(
        name="newcomer", share=210, daily=700, ticket_cents=4_500, spread=80, sells=90, fee=605, kyc="basic",
        products=(("spot", 82), ("wallet", 18)), assets=(("BTC", 3), ("DOGE", 2), ("USDC", 5)), reach=600,
    ),
    Persona(
        name="dormant", share=75, daily=40, ticket_cents=25_000, spread=90, sells=350, fee=300, kyc="basic",
        products=(("wallet", 95), ("spot", 5)), assets=MAJORS, reach=250,
    ),
    Persona(
        name="derivatives", share=120, daily=7_000, ticket_cents=190_000, spread=130, sells=500, fee=55, kyc="full",
        products=(("derivatives", 93), ("wallet", 7)), assets=(("BTC", 5), ("ETH", 4), ("SOL", 3), ("USDT", 2)),
        reach=350, leverage=(3, 40),
    ),
)  # fmt: skip
BY_NAME = {persona.name: number for number, persona in enumerate(PERSONAS)}

#: Wallets in a thousand that change their persona once, and into what.
CHANGERS = 130
BECOMES: dict[str, Mix] = {
    "whale": (("dormant", 1), ("defi", 1)),
    "active_trader": (("derivatives", 4), ("dormant", 3), ("holder", 2)),
    "holder": (("defi", 3), ("active_trader", 2), ("dormant", 2)),
    "institution": (("dormant", 1),),
    "defi": (("holder", 2), ("dormant", 2), ("derivatives", 1)),
    "newcomer": (("active_trader", 4), ("holder", 3), ("dormant", 3)),
    "dormant": (("active_trader", 2), ("holder", 2), ("derivatives", 1)),
    "derivatives": (("dormant", 3), ("active_trader", 2)),
}

#: What is done with a product; a sale where `side` says so.
KINDS: dict[str, Mix] = {
    "spot": (("trade", 8), ("swap", 2)),
    "derivatives": (("trade", 18), ("fee", 1), ("liquidation", 1)),
    "staking": (("stake", 5), ("unstake", 2), ("reward", 3)),
    "lending": (("lend", 5), ("borrow", 3), ("repay", 2)),
    "wallet": (("deposit", 5), ("withdrawal", 3), ("transfer", 4)),
    "nft": (("mint", 2), ("trade", 2), ("burn", 1)),
    "other": (("other", 1),),
}

#: Price of one unit in cents on the first day.
PRICES = {
    "BTC": 8_400_000, "ETH": 310_000, "SOL": 15_200, "AVAX": 2_450, "DOGE": 17, "LINK": 1_480, "DOT": 540, "ADA": 71,
    "XRP": 214, "ATOM": 612, "NEAR": 380, "ARB": 62, "STETH": 309_000, "AAVE": 18_900, "UNI": 840, "CRV": 58,
    "LDO": 132, "USDC": 100, "USDT": 100, "DAI": 100,
}  # fmt: skip
STABLE = frozenset({"USDC", "USDT", "DAI"})

JURISDICTIONS: Mix = (
    ("US", 38), ("GB", 12), ("DE", 11), ("FR", 7), ("JP", 6), ("AU", 5), ("CA", 6), ("NL", 4), ("ES", 4), ("IN", 5),
    ("BR", 2),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Campaign:
    """A campaign of the season. `begins`, `ends`: in thousandths of the season. `wants`: persona names."""

    campaign_id: str
    goal: str
    begins: int
    ends: int
    wants: frozenset[str]
    channels: Mix


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a channel's funnel: the touch, its cost in micro-USD, and how many in a thousand go on."""

    touch: str
    cost_micros: int
    goes_on: int


FUNNELS: dict[str, tuple[Stage, ...]] = {
    "email": (Stage("sent", 60_000, 460), Stage("open", 0, 380), Stage("click", 0, 420), Stage("visit", 0, 0)),
    "app_notification": (Stage("sent", 25_000, 400), Stage("open", 0, 520), Stage("visit", 0, 0)),
    "social": (Stage("impression", 90_000, 260), Stage("click", 1_900_000, 450), Stage("visit", 0, 0)),
    "search": (Stage("click", 3_400_000, 610), Stage("visit", 0, 0)),
    "referral": (Stage("visit", 8_000_000, 0),),
    "web": (Stage("impression", 40_000, 310), Stage("visit", 400_000, 0)),
}

CAMPAIGNS = (
    Campaign(
        "spring-onboarding", "acquisition", 0, 550, frozenset({"newcomer", "dormant"}),
        (("search", 3), ("social", 4), ("referral", 2)),
    ),
    Campaign(
        "tax-report-ready", "retention", 100, 1000, frozenset({"holder", "active_trader", "whale", "defi"}),
        (("email", 6), ("app_notification", 3), ("web", 1)),
    ),
    Campaign("earn-while-you-hold", "retention", 50, 700, frozenset({"holder", "defi"}), (("email", 2), ("web", 3))),
    Campaign(
        "pro-derivatives", "acquisition", 200, 800, frozenset({"active_trader", "derivatives"}),
        (("social", 3), ("web", 3), ("app_notification", 2)),
    ),
    Campaign("come-back", "retention", 350, 900, frozenset({"dormant", "holder"}), (("email", 5), ("referral", 1))),
    Campaign(
        "deadline-week", "retention", 800, 1000,
        frozenset({"active_trader", "derivatives", "newcomer", "institution", "holder"}),
        (("email", 4), ("app_notification", 4), ("search", 1)),
    ),
)  # fmt: skip

#: Arms of every campaign; a wallet of the control is marked as such once and never shown anything.
VARIANTS: Mix = (("a", 45), ("b", 45), ("holdout", 10))
