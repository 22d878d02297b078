"""What Tidemark must count, read offline from the NDJSON: `python tests/oracle.py FILE`.

Plain, slow, in whole numbers and `Decimal`, written from docs and contract alone: it shares no code with the product,
or both could be wrong in the same way. Credit is taken from the final set of a wallet's events, so it is true only
of data whose lateness stays inside the allowed hour and whose wallets stay inside their memory.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

RULES = ("first", "last", "linear", "time_decay", "position")
DAY_MS = 86_400_000
LOOK_BACK_MS = 30 * DAY_MS
FUTURE_MS = 600_000
MILLION = 1_000_000
FIRST_MS = 14_247 * DAY_MS  # 2009-01-03
LAST_MS = (2**32 - 1) * 1000  # 2106-02-07: what 32 bits of seconds hold
LANES = {"wallet.transactions": 1, "campaign.touches": 0}  # touches go before transactions of the same instant
NO_NUMBER = object()

KINDS = (
    "trade swap deposit withdrawal transfer stake unstake lend borrow repay liquidation reward claim mint burn fee "
    "other"
)
PRODUCTS = "spot derivatives staking lending wallet nft other"
COUNTRIES = (
    "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA "
    "CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA "
    "GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP "
    "KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS "
    "MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS "
    "RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW "
    "TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW"
)


#: Revenue, cost, conversions by campaign (with its channel) and rule.
Rows = dict[tuple[tuple[str, str] | None, str], list[int]]


class Event(NamedTuple):
    event_id: str
    wallet_id: str
    at_ms: int
    fee_micros: int
    cost_micros: int
    campaign: tuple[str, str] | None  # campaign and channel of a touch
    touch: str


class Sent(NamedTuple):
    """One record as it stands on a topic. `value`: the JSON found, bytes that are no JSON line, or None."""

    lane: int
    key: bytes | None
    value: Any
    size: int
    at_ms: int


# ------------------------------------------------------------------ times, amounts, hashes


TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII)
MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def time_ms(text: str) -> int | None:
    """RFC 3339 with an offset -> epoch milliseconds, finer parts cut off; None if it is no such time."""
    if not (match := TIME.fullmatch(text)):
        return None
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    fraction, sign, off_hour, off_minute = match.groups()[6:]
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if not (1 <= month <= 12 and year >= 1 and hour < 24 and minute < 60 and second < 60):
        return None
    ahead_hours, ahead_minutes = int(off_hour or 0), int(off_minute or 0)
    if not 1 <= day <= MONTH_DAYS[month - 1] + (leap and month == 2) or ahead_hours > 23 or ahead_minutes > 59:
        return None
    past = year - 1
    leap_days = past // 4 - past // 100 + past // 400 + (leap and month > 2)
    days = 365 * past + leap_days + sum(MONTH_DAYS[: month - 1]) + day
    seconds = (days - 719_163) * 86_400 + hour * 3600 + minute * 60 + second
    offset = (ahead_hours * 60 + ahead_minutes) * 60 * (-1 if sign == "-" else 1)
    return (seconds - offset) * 1000 + int((fraction or "")[:3].ljust(3, "0"))


EXACT = Context(prec=400)


WRITTEN_AMOUNT = re.compile(r"[+-]?(\d+|\d+\.\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def amount(found: Any) -> Decimal | None:
    if isinstance(found, bool) or not isinstance(found, int | Decimal | str):
        return None
    if isinstance(found, str) and not WRITTEN_AMOUNT.fullmatch(found):
        return None  # Decimal also reads "1_000", " 5 " and the digits of other scripts
    try:
        number = Decimal(found)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def micros(number: Decimal) -> int:
    return int(EXACT.multiply(number, Decimal(MILLION)).to_integral_value(ROUND_HALF_EVEN, EXACT))


@cache
def murmur2(key: bytes) -> int:
    """The hash of Java's default partitioner, not negative."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(key)
    whole = len(key) // 4 * 4
    for i in range(0, whole, 4):
        k = int.from_bytes(key[i : i + 4], "little") * m & mask
        h = (h * m & mask) ^ ((k ^ (k >> 24)) * m & mask)
    if rest := key[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return (h ^ (h >> 15)) & 0x7FFFFFFF


# ------------------------------------------------------------------ the lines, as topics


def read(lines: Iterable[str]) -> Iterator[Sent]:
    before: int | None = None
    for line in lines:
        found = json.loads(line, parse_float=Decimal, parse_constant=lambda _: NO_NUMBER)
        value: Any = found.get("value")
        if "value_base64" in found:
            value = base64.b64decode(found["value_base64"], validate=True)
        at_ms = found.get("timestamp")
        if at_ms is None and isinstance(value, dict):
            at_ms = occurred_at(value.get("occurred_at"))
        before = before if at_ms is None else at_ms
        assert before is not None, "the first line tells no time"
        size = len(value) if isinstance(value, bytes) else len(line)
        if size > 1 << 20 and not isinstance(value, bytes):  # the value's own text decides
            start = line.index('"value":') + len('"value":')
            start += len(line[start:]) - len(line[start:].lstrip())
            size = len(line[start : json.JSONDecoder().raw_decode(line, start)[1]].encode())
        key = found.get("key")
        yield Sent(LANES[found["topic"]], None if key is None else key.encode(), value, size, before)


def merged(records: Iterable[Sent], partitions: int) -> Iterator[Sent]:
    """The order of arrival: of each partition the two topics' heads, the earlier first, touches before transactions.

    A record without a key lies on a partition nobody knows; it is rejected anyway, and stands for itself here.
    """
    lanes: dict[int, tuple[deque[Sent], deque[Sent]]] = defaultdict(lambda: (deque(), deque()))
    for record in records:
        partition = -1 if record.key is None else murmur2(record.key) % partitions
        lanes[partition][record.lane].append(record)
    for _, (touches, transactions) in sorted(lanes.items()):
        while touches or transactions:
            ahead = touches and (not transactions or touches[0].at_ms <= transactions[0].at_ms)
            yield (touches if ahead else transactions).popleft()


# ------------------------------------------------------------------ what is an event


def judge(record: Sent) -> Event | str:
    """The event, or the reason why there is none: the first of the contract's list that applies."""
    found = record.value
    if found is None:
        return "null_value"
    if record.size > 1 << 20:
        return "too_large"
    if isinstance(found, bytes):
        try:
            text = (found[5:] if found[:1] == b"\0" else found).decode()
            found = json.loads(text, parse_float=Decimal, parse_constant=lambda _: NO_NUMBER)
        except UnicodeDecodeError:
            return "not_utf8"
        except ValueError:
            return "not_json"
    if not isinstance(found, dict):
        return "not_an_object"
    if too_deep(found, 32):
        return "too_deep"
    return judge_fields(record, {name: field for name, field in found.items() if field is not None})


def judge_fields(record: Sent, present: dict[str, Any]) -> Event | str:
    checks = TOUCH_CHECKS if record.lane == 0 else TRANSACTION_CHECKS
    if any(name in REQUIRED and name not in present for name in checks):
        return "missing_field"
    verdicts = {check(present[name]) for name, check in checks.items() if name in present}
    for reason in ("wrong_type", "unknown_value", "out_of_range"):
        if reason in verdicts:
            return reason
    return judge_key(record, present)


def judge_key(record: Sent, present: dict[str, Any]) -> Event | str:
    if record.key is None:
        return "key_missing"
    if record.key != present["wallet_id"].encode():
        return "key_mismatch"
    at_ms = occurred_at(present["occurred_at"])
    assert at_ms is not None
    if at_ms > record.at_ms + FUTURE_MS:
        return "from_the_future"
    fee, cost = (micros(amount(present.get(name, 0)) or Decimal(0)) for name in ("fee_usd", "cost_usd"))
    identity = (present["event_id"], present["wallet_id"], at_ms)
    if record.lane:
        return Event(*identity, fee, 0, None, "")
    campaign = present["campaign_id"], present["channel"].lower()
    return Event(*identity, 0, cost, campaign, present.get("touch", "click"))


def too_deep(found: Any, levels: int) -> bool:
    if not isinstance(found, dict | list):
        return False
    return levels == 0 or any(too_deep(x, levels - 1) for x in (found.values() if isinstance(found, dict) else found))


def occurred_at(found: Any) -> int | None:
    at_ms = found if type(found) is int else time_ms(found) if isinstance(found, str) else None
    return at_ms if at_ms is not None and FIRST_MS <= at_ms <= LAST_MS else None


def time(found: Any) -> str:
    if type(found) is not int and (not isinstance(found, str) or time_ms(found) is None):
        return "wrong_type"
    return "" if occurred_at(found) is not None else "out_of_range"


def text(longest: int) -> Callable[[Any], str]:
    def check(found: Any) -> str:
        if not isinstance(found, str):
            return "wrong_type"
        return "" if 1 <= len(found) <= longest else "out_of_range"

    return check


def one_of(words: str) -> Callable[[Any], str]:
    known = set(words.split())

    def check(found: Any) -> str:
        # A list, a number or a truth value is in no list of words either, but its type is what is wrong.
        if not isinstance(found, str):
            return "wrong_type"
        return "" if found in known else "unknown_value"

    return check


def money(fits: Callable[[Decimal], bool]) -> Callable[[Any], str]:
    def check(found: Any) -> str:
        if (number := amount(found)) is None:
            return "wrong_type"
        return "" if fits(number) else "out_of_range"

    return check


def leverage(found: Any) -> str:
    if isinstance(found, bool) or not isinstance(found, int | Decimal):
        return "wrong_type"
    return "" if 1 <= found <= 1000 else "out_of_range"


REQUIRED = {"event_id", "wallet_id", "occurred_at", "kind", "product", "asset", "campaign_id", "channel"}
COMMON = {"event_id": text(128), "wallet_id": text(128), "occurred_at": time}
TRANSACTION_CHECKS: dict[str, Callable[[Any], str]] = {
    **COMMON,
    "kind": one_of(KINDS),
    "product": one_of(PRODUCTS),
    "asset": text(64),
    "quantity": money(lambda x: x >= 0),
    "usd_value": money(lambda x: 0 <= x < 10**12),
    "fee_usd": money(lambda x: -(10**9) < x < 10**9),
    "side": one_of("buy sell"),
    "leverage": leverage,
    "jurisdiction": one_of(COUNTRIES),
    "kyc_tier": one_of("none basic full institutional"),
}
TOUCH_CHECKS: dict[str, Callable[[Any], str]] = {
    **COMMON,
    "campaign_id": text(128),
    "channel": text(64),
    "touch": one_of("sent impression open click visit"),
    "variant": text(64),
    "cost_usd": money(lambda x: 0 <= x < 10**9),
    "goal": one_of("acquisition retention"),
}


# ------------------------------------------------------------------ who gets what


@cache
def decay(hours: int) -> int:
    """round(2^24 x 2^(-h/180)) to the last digit."""
    exact = Context(prec=60)
    part = exact.power(Decimal(2), exact.divide(Decimal(-hours), Decimal(180)))
    return int(exact.multiply(Decimal(2**24), part).to_integral_value(ROUND_HALF_EVEN))


def weights(rule: str, touches: list[Event]) -> list[int]:
    n = len(touches)
    if rule == "first":
        return [1] + [0] * (n - 1)
    if rule == "last":
        return [0] * (n - 1) + [1]
    if rule == "time_decay":
        return [decay((touches[-1].at_ms - t.at_ms) // 3_600_000) for t in touches]
    if rule == "linear" or n < 3:
        return [1] * n
    return [2 * (n - 2)] + [1] * (n - 2) + [2 * (n - 2)]


def split(total: int, parts: list[int]) -> list[int]:
    """A whole number >= 0 by weights: what rounding down leaves goes to the largest remainders, ties to the earlier."""
    whole = sum(parts)
    shares = [total * part // whole for part in parts]
    by_remainder = sorted(range(len(parts)), key=lambda i: (-(total * parts[i] % whole), i))
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares


def eligible(touches: list[Event], at_ms: int) -> list[Event]:
    return [t for t in touches if at_ms - LOOK_BACK_MS <= t.at_ms <= at_ms][-64:]


def credit(events: list[Event], rows: Rows) -> None:
    """Add one wallet's events to the rows."""
    in_order = sorted(events, key=lambda e: (e.at_ms, e.event_id.encode()))
    touches = [e for e in in_order if e.campaign and e.touch != "sent"]
    for event in in_order:
        for rule in RULES:
            rows[event.campaign, rule][1] += event.cost_micros
    for event in in_order:
        if event.fee_micros:
            give(rows, eligible(touches, event.at_ms), event, 1)


def give(rows: Rows, path: list[Event], event: Event, sign: int) -> None:
    """Credit a fee along its path; `sign` -1 takes back what was given."""
    conversions = MILLION if event.fee_micros > 0 else 0
    for rule in RULES:
        if not path:
            rows[None, rule][0] += sign * event.fee_micros
            rows[None, rule][2] += sign * conversions
            continue
        parts = weights(rule, path)
        fee_sign = sign if event.fee_micros > 0 else -sign
        for touch, share, converted in zip(
            path, split(abs(event.fee_micros), parts), split(conversions, parts), strict=True
        ):
            rows[touch.campaign, rule][0] += fee_sign * share
            rows[touch.campaign, rule][2] += sign * converted


def oracle(lines: Iterable[str], partitions: int = 12) -> dict[str, Any]:
    """Everything that can be known offline: `totals`, `roi` summed over segments, `accepted` events by wallet."""
    counts: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    remembered: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=32))
    accepted: dict[str, list[Event]] = defaultdict(list)
    for record in merged(read(lines), partitions):
        event = judge(record)
        if isinstance(event, str):
            rejected[event] += 1
        elif event.event_id in remembered[event.wallet_id]:
            counts["duplicates"] += 1
        else:
            remembered[event.wallet_id].append(event.event_id)
            accepted[event.wallet_id].append(event)
            counts["touches" if event.campaign else "transactions"] += 1
            counts["revenue_micros"] += event.fee_micros
            counts["cost_micros"] += event.cost_micros
    rows: Rows = defaultdict(lambda: [0, 0, 0])
    for events in accepted.values():
        credit(events, rows)
    names = ("transactions", "touches", "duplicates", "revenue_micros", "cost_micros")
    totals = {name: counts[name] for name in names}
    return {
        "totals": {**totals, "rejected": dict(sorted(rejected.items())), "wallets": len(accepted)},
        "roi": table(rows),
        "accepted": {wallet: len(events) for wallet, events in accepted.items()},
    }


def table(rows: Rows) -> list[dict[str, Any]]:
    """The rows that are not all zero, by campaign, channel and rule; the row of nobody first."""
    return [
        {
            "campaign_id": campaign and campaign[0],
            "channel": campaign and campaign[1],
            "rule": rule,
            "revenue_micros": row[0],
            "cost_micros": row[1],
            "conversions_micros": row[2],
        }
        for (campaign, rule), row in sorted(rows.items(), key=lambda r: (r[0][0] or ("", ""), RULES.index(r[0][1])))
        if any(row)
    ]


if __name__ == "__main__":
    with Path(sys.argv[1]).open(encoding="utf-8") as file:
        print(json.dumps(oracle(file, int(sys.argv[2]) if len(sys.argv) > 2 else 12), indent=1))
