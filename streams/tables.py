"""Read-outs for people: plain values become tables and lines."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from streams.settings import Explained

Row = dict[str, Any]
NOTHING = "–"
#: The rule shown where there is room for one.
SHOWN_RULE = "position"


def totals(found: Row) -> Table:
    """What was counted, one line a number."""
    table = _table("counted", "")
    for name in ("transactions", "touches", "duplicates", "late", "beyond_memory"):
        table.add_row(_words(name), _count(found[name]))
    table.add_row("rejected", _count(sum(found["rejected"].values())))
    for reason, count in found["rejected"].items():
        table.add_row(f"  {_words(reason)}", _count(count), style="dim")
    table.add_row("revenue", money(found["revenue_micros"]))
    table.add_row("cost", money(found["cost_micros"]))
    for name in ("segment_changes", "wallets", "whales", "catalogue_version"):
        table.add_row(_words(name), _count(found[name]))
    return table


def roi(rows: Sequence[Row]) -> Table:
    """One line for each segment, campaign and channel: cost, and revenue by each rule; whales are the segment's."""
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    figures = ("whales", "cost", *map(_words, rules), f"ROI ({_words(SHOWN_RULE)})")
    table = _table("segment", "campaign", "channel", *figures, text=3)
    lines: dict[tuple[str, ...], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        place = f"{row['segment']} {row['name']}" if row["name"] != row["segment"] else row["segment"]
        lines[place, row["campaign_id"] or NOTHING, row["channel"] or NOTHING][row["rule"]] = row
    for place, by_rule in lines.items():
        revenues = [money(by_rule[rule]["revenue_micros"]) for rule in rules]
        shown = by_rule[SHOWN_RULE]
        whales, cost = _count(shown["whales"]), money(shown["cost_micros"])
        table.add_row(*place, whales, cost, *revenues, _ratio(shown["roi"]))
    return table


def campaigns(rows: Iterable[Row], most: int) -> Table:
    """ROI by campaign and channel over all segments, by the rule shown; the `most` with the most revenue first."""
    table = _table("campaign", "channel", "cost", "revenue", "ROI", text=2)
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        if row["rule"] == SHOWN_RULE:
            both = sums[row["campaign_id"] or "no campaign", row["channel"] or NOTHING]
            both[0] += row["cost_micros"]
            both[1] += row["revenue_micros"]
    for (campaign, channel), (cost, revenue) in sorted(sums.items(), key=lambda item: -item[1][1])[:most]:
        ratio = (revenue - cost) / cost if cost else None
        table.add_row(campaign, channel, money(cost), money(revenue), _ratio(ratio))
    return table


def segments(rows: Sequence[Row]) -> Table:
    """Every segment with its share, its whales and its revenue; below its name what a user wrote about it."""
    table = _table("segment", "name", "wallets", "share", "whales", "revenue", text=2)
    for row in rows:
        name = Text(row["name"])
        if row["description"]:
            name.append(f"\n{row['description']}", "dim")
        counts = _count(row["wallets"]), f"{row['share']:.1%}", _count(row["whales"])
        table.add_row(row["segment"], name, *counts, money(row["revenue_micros"]))
    return table


def comparison(rows: Sequence[Row]) -> Table:
    """Clusterers side by side; what is not known, because there was no truth, is left out."""
    shown = {
        "silhouette": ("silhouette", ".2f"),
        "ari": ("ARI", ".2f"),
        "ami": ("AMI", ".2f"),
        "changes_per_wallet_month": ("changes a wallet-month", ".3f"),
        "flaps_per_wallet_month": ("flaps a wallet-month", ".3f"),
        "returns_per_wallet_month": ("returns a wallet-month", ".3f"),
        "median_delay_days": ("days late, median", ".1f"),
        "announced_share": ("true changes told", ".0%"),
        "rows_per_second": ("rows learned/s", ",.0f"),
        "segments": ("segments", "d"),
        "cpu_seconds": ("CPU seconds", ",.1f"),
    }
    known = {name: how for name, how in shown.items() if any(row[name] is not None for row in rows)}
    table = _table("clusterer", *(heading for heading, _ in known.values()))
    for row in rows:
        told = (NOTHING if row[name] is None else format(row[name], form) for name, (_, form) in known.items())
        table.add_row(row["clusterer"], *told)
    return table


def held(found: Row) -> Table:
    """Of a backtest: how many changes held, who told to have left stayed away, and how far confidence was off."""
    table = _table("announced", "days later", "judged", "held", "confidence off by")
    for kind, horizons, share in (
        ("moved", found["horizons"], "held_share"), ("left", found["absences"], "stayed_share"),
    ):  # fmt: skip
        for each in horizons:
            off = _share(each["miscalibration"])
            table.add_row(kind, str(each["days"]), _count(each["judged"]), _share(each[share]), off)
    return table


def tried(found: Row) -> Table:
    """Of a backtest: what each setting would have done."""
    table = _table("settings", "changes", "flaps", "flaps a wallet-month", "returns", "lasting", "days later, median")
    for each in found["settings"]:
        later = each["median_days_later"]
        table.add_row(
            each["settings"],
            _count(each["changes"]),
            _count(each["flaps"]),
            f"{each['flaps_per_wallet_month']:.4f}",
            _count(each["returns"]),
            _count(each["lasting"]),
            NOTHING if later is None else f"{later:+.1f}",
        )
    return table


def wallet(found: Row) -> Table:
    """One wallet and what is known of it, then its features and the touches it remembers."""
    table = _table("wallet", found["wallet_id"], text=2)
    named = ("name", "description") if found["description"] else ("name",)
    for name in ("segment", *named, "since", "sequence", "confidence", "lifecycle"):
        table.add_row(_words(name), NOTHING if found[name] is None else str(found[name]))
    table.add_row("whale", "yes" if found["whale"] else "no")
    for name, value in found["known"].items():
        table.add_row(_words(name), _plain(value))
    for name, value in found["features"].items():
        table.add_row(f"  {_words(name)}", f"{value:,.4g}", style="dim")
    for touch in found["touches"]:
        table.add_row("touch", f"{touch['occurred_at']}  {touch['campaign_id']}  {touch['channel']}")
    return table


def _plain(value: float | str | None) -> str:
    """A word as it is, a number to four digits."""
    if value is None:
        return NOTHING
    return value if isinstance(value, str) else _count(value) if isinstance(value, int) else f"{value:,.4g}"


def wallet_line(found: Row) -> str:
    """One wallet in one line of plain text; who is a whale, of whatever segment, is called one."""
    sure = NOTHING if found["confidence"] is None else f"{found['confidence']:.2f}"
    return f"{found['wallet_id']:<24} {found['segment']:<12} {sure:>5}  {found['name']}{_whale(found)}"


def lag(rows: Iterable[Row]) -> Table:
    """How far the commits are behind, for each topic and partition."""
    table = _table("topic", "partition", "position", "end", "lag", "event time lag", text=1)
    for row in rows:
        late_ms = row["event_time_lag_ms"]
        late = NOTHING if late_ms is None else f"{late_ms / 1000:,.1f} s"
        table.add_row(row["topic"], *(_count(row[name]) for name in ("partition", "position", "end", "lag")), late)
    return table


def settings(found: Iterable[Explained]) -> Text:
    """Every setting: what it is, what it may be, what it means."""
    lines = []
    for entry in found:
        changed = entry.value != entry.default
        default = f"; default {entry.default or 'none'}" if changed else ""
        unit = f", in {entry.unit}" if entry.unit and entry.unit not in entry.allowed else ""
        lines.append(Text.assemble((entry.name, "bold"), f"={entry.value}"))
        lines.append(Text(f"    {entry.meaning}: {entry.allowed}{unit}{default}", style="dim"))
    return Text("\n").join(lines)


def change(event: Row) -> Text:
    """One segment change in one line: who, whale or not, from where to where, why."""
    left = event["from"]["name"] if event["from"] else NOTHING
    joined = event["to"]["name"] if event["to"] else NOTHING
    line = Text.assemble(
        (f"{event['occurred_at'][:16].replace('T', ' ')}  ", "dim"),
        f"{_short(event['wallet_id'])}{_whale(event)}  {left} → ",
        (joined, "bold"),
    )
    if why := ", ".join(map(_reason, event["reasons"])):
        line.append(f"  {why}", "dim")
    return line


def _whale(found: Row) -> str:
    return " (whale)" if found["whale"] else ""


def money(micros: int) -> str:
    """Micro-USD as dollars and cents."""
    return f"${micros / 1e6:,.2f}"


def _short(wallet_id: str) -> str:
    return wallet_id if len(wallet_id) <= 14 else f"{wallet_id[:8]}…{wallet_id[-4:]}"


def _reason(reason: Row) -> str:
    before = "" if reason["before"] is None else f"{reason['before']:.3g} → "
    return f"{_words(reason['feature'])} {before}{reason['after']:.3g}"


def _table(*headings: str, text: int = 1) -> Table:
    """A plain table; the first `text` columns are words, the rest numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place < text else "right", overflow="fold")
    return table


def _words(name: str) -> str:
    return name.replace("_", " ")


def _count(number: int) -> str:
    return f"{number:,}"


def _share(share: float | None) -> str:
    return NOTHING if share is None else f"{share:.1%}"


def _ratio(ratio: float | None) -> str:
    """A return: in percent, from tenfold on as a multiple."""
    if ratio is None:
        return NOTHING
    return f"{ratio:+.0%}" if ratio < 10 else f"{ratio:,.0f}x"
