"""The live picture of the demo in a terminal: throughput, lag, segments, return by campaign, the last changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.layout import Layout
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from models.changes import rfc3339
from streams import tables
from streams.readouts import records_read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from streams.readouts import Overall

CAMPAIGNS_SHOWN = 12
#: Below this many columns the tables stand one above the other.
WIDE = 130


@dataclass(frozen=True, slots=True)
class Moment:
    """What one frame shows. `sent`: records produced so far, `of` all; `changes`: newest last."""

    overall: Overall
    sent: int
    of: int
    per_second: float
    changes: Sequence[dict[str, Any]]


def screen(moment: Moment, width: int) -> RenderableType:
    """One frame that fills a terminal of `width` columns and is cut to its height."""
    tall = Layout()
    middle = Layout()
    both = Layout(_segments(moment), ratio=4), Layout(_campaigns(moment), ratio=5)
    if width >= WIDE:
        middle.split_row(*both)
    else:
        middle.split_column(*both)
    tall.split_column(Layout(_headline(moment), size=4), middle, Layout(_changes(moment), size=10))
    return tall


def summary(moment: Moment) -> RenderableType:
    """The same as a plain print, nothing cut."""
    return Group(_headline(moment), _segments(moment), _campaigns(moment), _changes(moment))


def _segments(moment: Moment) -> Panel:
    return _panel(tables.segments(moment.overall.segments), "segments")


def _campaigns(moment: Moment) -> Panel:
    table = tables.campaigns(moment.overall.roi, CAMPAIGNS_SHOWN)
    return _panel(table, f"return by campaign ({tables.SHOWN_RULE})")


def _changes(moment: Moment) -> Panel:
    lines = [tables.change(change) for change in reversed(moment.changes)] or [Text("none yet", style="dim")]
    return _panel(Text("\n", no_wrap=True, overflow="ellipsis").join(lines), "last segment changes")


def _headline(moment: Moment) -> Panel:
    totals, clock_ms = moment.overall.totals, moment.overall.clock_ms
    counted = records_read(totals)
    facts = {
        "season": rfc3339(clock_ms)[:10] if clock_ms else "starting",
        "events": f"{counted:,}",
        "per second": f"{moment.per_second:,.0f}",
        "behind": f"{max(0, moment.sent - counted):,}",
        "wallets": f"{totals['wallets']:,}",
        "whales": f"{totals['whales']:,}",
        "changes": f"{totals['segment_changes']:,}",
        "revenue": tables.money(totals["revenue_micros"]),
        "rejected": f"{sum(totals['rejected'].values()):,}",
    }
    line = Table.grid(padding=(0, 2))
    line.add_row(*(Text.assemble((f"{name} ", "dim"), (value, "bold")) for name, value in facts.items()))
    return _panel(Group(line, ProgressBar(total=moment.of, completed=counted)), "Tidemark")


def _panel(content: RenderableType, title: str) -> Panel:
    return Panel(content, title=title, box=box.ROUNDED, padding=(0, 1))
