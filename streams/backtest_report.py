"""What `tidemark backtest` found, as Markdown with two pictures beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streams.errors import TidemarkError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streams.pictures import LinesView

#: Confidence that is further from the truth than this, on average, is told as such.
CALIBRATED = 0.05


def make_folder(folder: Path) -> None:
    """Make the folder of a report, before the work of an hour is done for it. Raises `TidemarkError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.md").touch()
    except OSError as error:
        raise TidemarkError(f"cannot write into {folder}: {error.strerror}") from error


def write(found: dict[str, Any], source: str, folder: Path) -> Path:
    """Write `report.md`, `reliability.png` and `settings.png` into a folder that is there; the report's path."""
    from streams import pictures

    pictures.lines(folder / "reliability.png", [_reliability(found["horizons"])])
    tried = found["settings"]
    panels = [
        ("flaps a wallet-month\n(less is better)", [each["flaps_per_wallet_month"] for each in tried], ".3f"),
        ("changes that lasted\n(more is better)", [each["lasting"] for each in tried], ",d"),
        ("days later than with\ntoday's settings, median", [each["median_days_later"] for each in tried], "+.1f"),
    ]
    title = f"Settings on {source}, {found['from']} to {found['to']}"
    names = [each["settings"] for each in tried]
    pictures.bars(folder / "settings.png", pictures.BarsView(title, names, panels))
    file = folder / "report.md"
    file.write_text("\n".join(report(found, source)) + "\n", encoding="utf-8")
    return file


def _reliability(horizons: list[dict[str, Any]]) -> LinesView:
    from streams.pictures import LinesView

    judged = [each for each in horizons if each["judged"]]
    bins = [each["reliability"] for each in judged]
    return LinesView(
        "Was it as sure as it was right? (n: changes)",
        "confidence that was told",
        "share of changes that held",
        [
            (f"after {each['days']} days", [one["told"] for one in some], [one["right"] for one in some])
            for each, some in zip(judged, bins, strict=True)
        ],
        diagonal=True,
        percent=True,
        notes=[[f"n={one['changes']}" for one in some] for some in bins],
    )


def report(found: dict[str, Any], source: str) -> list[str]:
    """The report in Markdown, line by line."""
    return [
        f"# Backtest of {source}, {found['from']} to {found['to']}",
        "",
        f"{found['changes']:,} changes from one segment to another were announced in the window.",
        "Every one was decided with what was known then, and is judged by what came after.",
        "",
        *_did_they_hold(found["horizons"]),
        "## What would have flapped less?",
        "",
        "A flap: a change back to a segment left at most 14 days before. Lasting: not left again within 14 days.",
        "",
        "| settings | changes | flaps | flaps a wallet-month | lasting changes | days later, median |",
        "| --- | --- | --- | --- | --- | --- |",
        *map(_line, found["settings"]),
        "",
        "![Settings](settings.png)",
        "",
        *proposed(found),
    ]


def _did_they_hold(horizons: list[dict[str, Any]]) -> Iterator[str]:
    yield from ("## Did they hold?", "")
    yield "| days later | origin | judged | still in the new segment | confidence off by, on average |"
    yield "| --- | --- | --- | --- | --- |"
    for each in horizons:
        off = _percent(each["miscalibration"])
        yield f"| {each['days']} | all | {each['judged']:,} | {_percent(each['held_share'])} | {off} |"
        for origin, one in each["by_origin"].items():
            yield f"| {each['days']} | {origin} | {one['judged']:,} | {_percent(one['held_share'])} | |"
    yield ""
    for each in horizons:
        yield from (_remark(each), "")
    yield from ("![Reliability](reliability.png)", "")


def proposed(found: dict[str, Any]) -> list[str]:
    """The proposal in words; nothing is changed by it."""
    if found["proposal"] is None:
        return [
            "No setting that was tried flaps clearly less and keeps nine in ten of the changes that last:",
            "keep today's.",
        ]
    today = found["settings"][0]
    best = next(each for each in found["settings"] if each["settings"] == found["proposal"]["settings"])
    values = " ".join(f"{name}={value}" for name, value in found["proposal"]["environment"].items())
    later = "" if best["median_days_later"] is None else f", {best['median_days_later']:+.1f} days later"
    return [
        f"Proposed, not applied: `{values}`: {best['flaps']} flaps instead of {today['flaps']},",
        f"{best['lasting']} lasting changes instead of {today['lasting']}{later}.",
        "Every worker of the group needs the same value.",
    ]


def _remark(each: dict[str, Any]) -> str:
    if not each["judged"]:
        return f"After {each['days']} days: the stream ends before any change can be judged."
    if each["miscalibration"] > CALIBRATED:
        sure = sum(one["told"] * one["changes"] for one in each["reliability"]) / each["judged"]
        way = "more" if sure > each["held_share"] else "less"
        return (
            f"After {each['days']} days: it was {way} sure than right ({sure:.0%} told, {each['held_share']:.0%} held)."
        )
    return f"After {each['days']} days: it was as sure as it was right."


def _line(each: dict[str, Any]) -> str:
    later = "–" if each["median_days_later"] is None else f"{each['median_days_later']:+.1f}"
    rate = f"{each['flaps_per_wallet_month']:.4f}"
    return f"| {each['settings']} | {each['changes']:,} | {each['flaps']:,} | {rate} | {each['lasting']:,} | {later} |"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
