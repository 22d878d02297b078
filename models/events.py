"""The wire contract: one record's value is an event, or there is a reason why it is none.

Two tiers. What the fast one accepts (`models.scanner`) is accepted; `judge` decides the rest, slowly
and with exact decimals, and names the reason. Where both could speak they must agree: tests hold them together.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from fractions import Fraction
from itertools import chain
from typing import Annotated, Any, Literal, NotRequired, TypeAlias, get_args

from pydantic import (
    ConfigDict,
    Field,
    Strict,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    with_config,
)
from typing_extensions import TypedDict

from models.countries import Country
from models.rules import LARGEST_VALUE

DEEPEST = 32
MICROS, MICRO = 1_000_000, Decimal("0.000001")
#: Bitcoin's first block: no wallet did anything before, so a smaller integer is a mistake in the unit.
EARLIEST_MS = 1_230_940_800_000
#: 2106-02-07: rows keep some times in 32 bits of seconds.
LATEST_MS = (2**32 - 1) * 1000

# ------------------------------------------------------------------ the contract

Kind: TypeAlias = Literal[
    "trade", "swap", "deposit", "withdrawal", "transfer", "stake", "unstake", "lend", "borrow", "repay",
    "liquidation", "reward", "claim", "mint", "burn", "fee", "other",
]  # fmt: skip
Product: TypeAlias = Literal["spot", "derivatives", "staking", "lending", "wallet", "nft", "other"]
TouchKind: TypeAlias = Literal["sent", "impression", "open", "click", "visit"]
Text128: TypeAlias = Annotated[str, Strict(), Field(min_length=1, max_length=128)]
Text64: TypeAlias = Annotated[str, Strict(), StringConstraints(min_length=1, max_length=64)]
Upper64: TypeAlias = Annotated[str, Strict(), StringConstraints(min_length=1, max_length=64, to_upper=True)]
Lower64: TypeAlias = Annotated[str, Strict(), StringConstraints(min_length=1, max_length=64, to_lower=True)]
RFC_3339 = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-5][0-9])$"
Time: TypeAlias = (
    Annotated[int, Strict(), Field(ge=EARLIEST_MS, le=LATEST_MS)] | Annotated[str, Strict(), Field(pattern=RFC_3339)]
)


#: A decimal as text. No digit can be matched in two ways: a long text that is none is refused in linear time.
DECIMAL = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"
#: Only amounts have such a rule among those of their type.
AmountRule = WithJsonSchema


def as_decimal(**bounds: float) -> WithJsonSchema:
    """How an amount looks in JSON: a number, or the same as a string, which keeps every digit."""
    text = {"type": "string", "pattern": DECIMAL}
    return WithJsonSchema({"anyOf": [{"type": "number", **bounds}, text]})


NotNegative: TypeAlias = Annotated[float, Field(allow_inf_nan=False, ge=0), as_decimal(minimum=0)]
Volume: TypeAlias = Annotated[
    float, Field(allow_inf_nan=False, ge=0, lt=1e12), as_decimal(minimum=0, exclusiveMaximum=1e12)
]
Fee: TypeAlias = Annotated[
    float, Field(allow_inf_nan=False, gt=-1e9, lt=1e9), as_decimal(exclusiveMinimum=-1e9, exclusiveMaximum=1e9)
]
Cost: TypeAlias = Annotated[
    float, Field(allow_inf_nan=False, ge=0, lt=1e9), as_decimal(minimum=0, exclusiveMaximum=1e9)
]
Leverage: TypeAlias = Annotated[float, Strict(), Field(allow_inf_nan=False, ge=1, le=1000)]


@with_config(ConfigDict(title="wallet.transactions"))
class Transaction(TypedDict):
    """One wallet transaction. Amounts are decimals, as string or JSON number."""

    event_id: Text128
    wallet_id: Text128
    occurred_at: Time
    kind: Kind
    product: Product
    asset: Upper64
    quantity: NotRequired[Annotated[NotNegative | None, Field(default=None)]]
    usd_value: NotRequired[Annotated[Volume | None, Field(default=None)]]
    fee_usd: NotRequired[Annotated[Fee | None, Field(default=None)]]
    side: NotRequired[Annotated[Literal["buy", "sell"] | None, Field(default=None)]]
    leverage: NotRequired[Annotated[Leverage | None, Field(default=None)]]
    jurisdiction: NotRequired[Annotated[Country | None, Field(default=None)]]
    kyc_tier: NotRequired[Annotated[Literal["none", "basic", "full", "institutional"] | None, Field(default=None)]]


@with_config(ConfigDict(title="campaign.touches"))
class Touch(TypedDict):
    """One contact of a campaign with a wallet. The amount is a decimal, as string or JSON number."""

    event_id: Text128
    wallet_id: Text128
    occurred_at: Time
    campaign_id: Text128
    channel: Lower64
    touch: NotRequired[Annotated[TouchKind | None, Field(default=None)]]
    variant: NotRequired[Annotated[Text64 | None, Field(default=None)]]
    cost_usd: NotRequired[Annotated[Cost | None, Field(default=None)]]
    goal: NotRequired[Annotated[Literal["acquisition", "retention"] | None, Field(default=None)]]


#: In the order of the lanes: transactions, touches.
ADAPTERS: tuple[TypeAdapter[Any], ...] = (TypeAdapter(Transaction), TypeAdapter(Touch))
CHECKED = tuple(adapter.validator.validate_python for adapter in ADAPTERS)
MONEY = (("quantity", "usd_value", "fee_usd"), ("cost_usd",))
PRODUCTS: dict[str, int] = {name: number for number, name in enumerate(get_args(Product))}


#: What an absent field stands for.
DEFAULTS: dict[str, Any] = {"fee_usd": 0, "cost_usd": 0, "touch": "click"}


def json_schema() -> dict[str, Any]:
    """The input contract as one JSON Schema document, generated from the types above."""
    transaction, touch = (adapter.json_schema(ref_template="#/$defs/{model}") for adapter in ADAPTERS)
    for topic in (transaction, touch):
        for name, field in topic["properties"].items():
            field.pop("default", None)  # inside, absent is None; outside it is what the contract says
            if name in DEFAULTS:
                field["default"] = DEFAULTS[name]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tidemark input",
        "$defs": {"wallet.transactions": transaction, "campaign.touches": touch},
        "oneOf": [{"$ref": "#/$defs/wallet.transactions"}, {"$ref": "#/$defs/campaign.touches"}],
    }


# ------------------------------------------------------------------ one record, slowly and exactly


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why a record is no event. `reason`: one of the closed list in the contract."""

    reason: str
    detail: str = ""


class NoNumber:
    """NaN and the infinities, which JSON does not have but some writers send."""


#: pydantic's error -> our reason; whatever is not here is a wrong type.
REASONS = {"missing": "missing_field", "literal_error": "unknown_value"}
RANGES = ("greater_than", "less_than", "too_short", "too_long", "greater_than_equal", "less_than_equal")
TOO_EARLY, TOO_LATE = "before 2009-01-03", "after 2106-02-07T06:28:15Z"
#: What an integer may have been meant in, and how many milliseconds one of it is.
UNITS = (("seconds", 1000), ("microseconds", Fraction(1, 10**3)), ("nanoseconds", Fraction(1, 10**6)))
ORDER = ("missing_field", "wrong_type", "unknown_value", "out_of_range")


def judge(lane: int, value: bytes | None) -> dict[str, Any] | Rejected:
    """Decide one record's value: the event's fields, plus `exact`, its amounts as Decimal; or why it is none."""
    if value is None:
        return Rejected("null_value")
    if len(value) > LARGEST_VALUE:
        return Rejected("too_large", f"{len(value)} bytes, at most {LARGEST_VALUE}")
    try:
        text = payload(value).decode()
    except UnicodeDecodeError as problem:
        return Rejected("not_utf8", f"at byte {problem.start}")
    try:
        found = json.loads(text, parse_float=exact_number, parse_int=whole_number, parse_constant=lambda _: NoNumber())
    except RecursionError:
        return Rejected("too_deep", f"at most {DEEPEST} levels")
    except ValueError as problem:
        return Rejected("not_json", str(problem)[:200])
    if not isinstance(found, dict):
        return Rejected("not_an_object", type(found).__name__)
    if is_too_deep(found):
        return Rejected("too_deep", f"at most {DEEPEST} levels")
    return judge_fields(lane, {name: field for name, field in found.items() if field is not None})


def judge_fields(lane: int, found: dict[str, Any]) -> dict[str, Any] | Rejected:
    """Decide the fields of an object, nulls left out."""
    exact: dict[str, Decimal] = {}
    problems: list[Rejected] = []
    for name in MONEY[lane]:
        amount = decimal(found[name]) if name in found else Decimal(0)
        if amount is None:
            problems.append(Rejected("wrong_type", f"{name}: a decimal, as string or number"))
            found[name] = 0.0
        elif name in found:
            exact[name] = amount
            if out_of_bounds(name, amount):
                problems.append(Rejected("out_of_range", f"{name}: {str(found[name])[:60]}"))
            found[name] = 0.0
    if type(found.get("leverage")) in (int, Decimal):
        found["leverage"] = float(min(max(found["leverage"], 0), 10**9))  # it may be beyond the range of a float
    try:
        event = CHECKED[lane](found)
    except ValidationError as refused:
        return min(problems + classify(refused), key=lambda r: ORDER.index(r.reason))
    at_ms = to_ms(event["occurred_at"])
    if at_ms is None:
        problems.append(Rejected("wrong_type", "occurred_at: not a time of RFC 3339"))
    elif not EARLIEST_MS <= at_ms <= LATEST_MS:
        problems.append(Rejected("out_of_range", f"occurred_at: {TOO_EARLY if at_ms < EARLIEST_MS else TOO_LATE}"))
    if problems:
        return min(problems, key=lambda r: ORDER.index(r.reason))
    return {**event, **{name: float(amount) for name, amount in exact.items()}, "exact": exact}


def misplaced(number: int) -> str:
    """Why an integer is no epoch milliseconds of the contract: another unit, or another time."""
    for unit, milliseconds in UNITS:
        if EARLIEST_MS <= number * milliseconds <= LATEST_MS:
            return f"{unit} instead of milliseconds?"
    return TOO_EARLY if number < EARLIEST_MS else TOO_LATE


def classify(refused: ValidationError) -> list[Rejected]:
    """Pydantic's errors as ours. A time is an integer or a text, so only the errors of its own type count."""
    found = []
    for error in refused.errors(include_url=False):
        name, kind, number = str(error["loc"][0]), error["type"], type(error["input"]) is int
        reason = REASONS.get(kind, "out_of_range" if any(word in kind for word in RANGES) else "wrong_type")
        if reason == "unknown_value" and not isinstance(error["input"], str):
            reason = "wrong_type"  # a number or an object is not on any list of words
        if name == "occurred_at" and kind != "missing":
            if number and reason == "out_of_range":
                found.append(Rejected(reason, f"occurred_at: {misplaced(error['input'])}"))
            elif not number:
                found.append(Rejected("wrong_type", "occurred_at: RFC 3339 with offset, or integer epoch milliseconds"))
        else:
            found.append(Rejected(reason, f"{name}: {error['msg']}"[:200]))
    return found


def written_amount(value: bytes | None, name: str) -> Decimal:
    """An amount of an accepted record, every digit that was written."""
    return decimal(json.loads(payload(value or b""), parse_float=exact_number)[name]) or Decimal(0)


def out_of_bounds(name: str, amount: Decimal) -> bool:
    """Whether an amount is outside the contract's bounds."""
    if name == "fee_usd":
        return not -(10**9) < amount < 10**9
    return amount < 0 or (name == "usd_value" and amount >= 10**12) or (name == "cost_usd" and amount >= 10**9)


IS_DECIMAL = re.compile(DECIMAL).fullmatch


def decimal(found: Any) -> Decimal | None:
    """A JSON number or a decimal string, exactly; None for anything else."""
    if isinstance(found, bool) or not isinstance(found, int | Decimal | str):
        return None
    if isinstance(found, str) and not IS_DECIMAL(found):
        return None  # Decimal knows more: spaces, underscores, the digits of every script
    try:
        amount = exact_number(found) if isinstance(found, str) else Decimal(found)
    except ArithmeticError:
        return None
    return amount if amount.is_finite() else None


def whole_number(text: str) -> int | Decimal:
    """A JSON integer; Python's own refuses one of thousands of digits, which JSON does not."""
    return int(text) if len(text) < 4000 else exact_number(text)


def exact_number(text: str) -> Decimal:
    """The decimal a text stands for. Raises `InvalidOperation` where it is none.

    An exponent beyond what Decimal can hold becomes one that no value of 1 MiB has digits enough to make up for.
    """
    try:
        return Decimal(text)
    except InvalidOperation:
        return Decimal(re.sub(r"(?<=[eE])([+-]?)[0-9]{10,}$", r"\g<1>9999999", text))


def is_too_deep(found: Any) -> bool:
    """Whether objects and arrays are nested deeper than allowed; level by level, as the stack has its own limit."""
    level = [found]
    for _ in range(DEEPEST):
        inner = chain.from_iterable(each.values() if isinstance(each, dict) else each for each in level)
        level = [each for each in inner if isinstance(each, dict | list)]
    return bool(level)


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


def to_ms(when: int | str) -> int | None:
    """Epoch milliseconds of a validated `occurred_at`; below milliseconds is cut off; None: no such time."""
    if type(when) is int:
        return when
    try:
        return (datetime.fromisoformat(str(when).upper()) - EPOCH) // MILLISECOND
    except (ValueError, OverflowError):
        return None


def to_micros(amount: Decimal) -> int:
    """Integer micro-USD; more than 6 decimals round half to even."""
    return int(amount.quantize(MICRO, ROUND_HALF_EVEN) * MICROS)  # a product of all its digits would round first


def payload(value: bytes) -> bytes:
    """The JSON text: Confluent's JSON Schema framing (0x00 and a 4-byte schema id) is read over."""
    return value[5:] if value[:1] == b"\0" else value
