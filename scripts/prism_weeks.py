"""What Tidemark makes of a real season: PRISM on Terra through the product's own step and observe, in one process."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.changes import segment_id
from models.features import row_features
from models.projection import projection
from models.rows import WHALE
from models.rules import DAY_MS, Rules
from models.timeline import flaps, histories, moves, returns, segments_at, wallet_months
from streams import landscape, pictures
from streams.compare import told_of
from streams.prism import convert
from streams.replay import Replay, Told, arrivals

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "prism-terra"
WEEK_MS = 7 * DAY_MS
#: Whales are the top 5 % by value; this is the share of all USD they are published to have moved.
WHALES, PUBLISHED = 0.05, 0.93


@dataclass(slots=True)
class Season:
    """The replayed season. `usd`: by wallet, as the lines told; `ends_ms`: the end of every week of event time."""

    replay: Replay
    told: dict[str, list[Told]]
    usd: Counter[str]
    begin_ms: int
    end_ms: int

    @property
    def ends_ms(self) -> list[int]:
        return [*range(self.begin_ms + WEEK_MS, self.end_ms, WEEK_MS), self.end_ms]


def main() -> None:
    """Replay, print figures, draw."""
    given = parse()
    if not (given.data / "prism_events.csv.gz").is_file():
        say(f"skipped: the PRISM data are not at {given.data}")
        return
    season = replayed(given.data)
    found = figures(season)
    if given.out:
        draw(season, found, given.out)
    if given.json:
        print(json.dumps(found))
    else:
        show(found)


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="scripts/prism", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder prism-terra; default: ../shared/data")
    parser.add_argument("--out", type=Path, help="folder for weeks.png, map.png and whales.png; it is made")
    parser.add_argument("--json", action="store_true", help="for programs: one JSON object")
    return parser.parse_args()


def replayed(data: Path) -> Season:
    """The season with today's rules."""
    usd: Counter[str] = Counter()
    replay = Replay(Rules())
    slots = list(told_of(replay.run(arrivals(_weighed(convert(data), usd))), say))
    changes = histories(change for slot in slots for change in slot.changes)
    return Season(replay, changes, usd, slots[0].ends_ms - replay.slot_ms, slots[-1].ends_ms)


def _weighed(lines: Iterator[str], usd: Counter[str]) -> Iterator[str]:
    """The lines, adding up what each wallet moved, in micro-USD: a count beside the product's own."""
    for line in lines:
        event = json.loads(line)["value"]
        if "usd_value" in event:
            usd[event["wallet_id"]] += int(Decimal(event["usd_value"]) * 1_000_000)
        yield line


def figures(season: Season) -> dict[str, Any]:
    """What is printed; shares are 0..1."""
    told, end_ms = season.told, season.end_ms
    rows = season.replay.wallets()
    whales = {key.decode() for key, row in zip(rows.keys, rows.rows, strict=True) if row["flags"] & WHALE}
    moved = moves(told, season.begin_ms, end_ms)
    back = flaps(told)
    settled = [change for change in back if change.decided_at_ms > season.begin_ms + 4 * WEEK_MS]
    return {
        "wallets": len(rows.keys),
        "wallets_with_segment": len(told),
        "segments": len(season.replay.catalogue.segments),
        "catalogues": season.replay.catalogue.version,
        "changes": len(moved),
        "recalibrations": sum(change.origin == "recalibration" for change in moved),
        "changes_per_wallet_month": len(moved) / wallet_months(told, season.begin_ms, end_ms),
        "flip_back_wallets": len({change.wallet for change in back}),
        "flip_back_share": len({change.wallet for change in back}) / len(told),
        "flip_back_share_after_four_weeks": len({change.wallet for change in settled}) / len(told),
        "returned_share": len({change.wallet for change in returns(told)}) / len(told),
        "whale_flags": len(whales),
        "whale_flag_share_of_usd": concentration(season.usd, whales),
        "top_5_percent_share_of_usd": concentration(season.usd, top(season.usd)),
        "published_share_of_usd": PUBLISHED,
        "weeks": [week(season, at_ms) for at_ms in season.ends_ms],
    }


def week(season: Season, at_ms: int) -> dict[str, Any]:
    """The segments at the end of a week, the largest first."""
    held = Counter(segments_at(season.told, at_ms).values())
    name_of = season.replay.catalogue.name_of
    segments = [
        {"segment": segment_id(number), "name": name_of(number), "wallets": count}
        for number, count in held.most_common()
    ]
    return {"ends": _day(at_ms - 1), "wallets": held.total(), "segments": segments}


def top(usd: Counter[str]) -> set[str]:
    """The wallets that are the top 5 % by what they moved."""
    return {wallet for wallet, _ in usd.most_common(int(WHALES * len(usd)))}


def concentration(usd: Counter[str], wallets: set[str]) -> float:
    """The part of all USD that these wallets moved."""
    return sum(usd[wallet] for wallet in wallets) / usd.total()


def show(found: dict[str, Any]) -> None:
    """The figures for people."""
    for name, value in found.items():
        if name != "weeks":
            print(
                f"{name.replace('_', ' '):40} {value:,.4f}"
                if isinstance(value, float)
                else f"{name.replace('_', ' '):40} {value:,}"
            )
    for each in found["weeks"]:
        largest = ", ".join(f"{one['name']} {one['wallets']:,}" for one in each["segments"][:6])
        print(f"{each['ends']}  {each['wallets']:>6,} wallets: {largest}")


def draw(season: Season, found: dict[str, Any], folder: Path) -> None:
    """Segments week by week, the map at the end, and how much the largest wallets moved."""
    folder.mkdir(parents=True, exist_ok=True)
    weeks = found["weeks"]
    names = {one["segment"]: one["name"] for each in weeks for one in each["segments"]}
    shares = [
        [
            next((o["wallets"] for o in each["segments"] if o["segment"] == one), 0) / max(each["wallets"], 1)
            for one in names
        ]
        for each in weeks
    ]
    times = [datetime.fromisoformat(each["ends"]) for each in weeks]
    title = "PRISM on Terra: segments at the end of each week"
    pictures.drift(folder / "weeks.png", pictures.DriftView(title, times, list(names.values()), np.array(shares)))
    landscape.draw(_landscape(season.replay), folder / "map.png", say)
    pictures.lines(folder / "whales.png", [_whales(season.usd)])


def _landscape(replay: Replay) -> landscape.Landscape:
    rows = replay.wallets().rows
    rows = rows[rows["segment"] > 0]
    flat = projection(replay.catalogue)
    points = flat.place(replay.catalogue.scale(row_features(rows)))
    segments: NDArray[np.int64] = rows["segment"].astype(np.int64)
    return landscape.Landscape(replay.catalogue, flat, points, segments, rows["flags"] & WHALE > 0)


def _whales(usd: Counter[str]) -> pictures.LinesView:
    """The largest wallets, as a share of all, against what they moved."""
    amounts = np.sort(np.array(list(usd.values()), np.float64))[::-1]
    moved = np.cumsum(amounts) / amounts.sum()
    shares = (0.0, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2)
    curve = [float(moved[int(share * len(amounts)) - 1]) if share else 0.0 for share in shares]
    notes: Sequence[Sequence[str]] = [
        [f"{y:.0%}" if x in {0.005, 0.01, 0.1, 0.2} else "" for x, y in zip(shares, curve, strict=True)],
        ["published: 93 %"],
    ]
    return pictures.LinesView(
        "PRISM on Terra: how much the largest wallets moved",
        "the largest wallets, share of all",
        "share of all USD",
        [("source files", shares, curve), ("published, top 5 %", [WHALES], [PUBLISHED])],
        percent=True,
        notes=notes,
    )


def say(line: str) -> None:
    """A line for people who wait."""
    print(line, file=sys.stderr, flush=True)


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()


if __name__ == "__main__":
    main()
