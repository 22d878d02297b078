"""What `tidemark backtest` found, as Markdown with two pictures beside it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import TYPE_CHECKING, Any

from streams.errors import TidemarkError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streams.pictures import LinesView

#: Confidence further from the truth than this, on average, is told as such; what rests on fewer than so many changes
#: or flaps may be chance.
CALIBRATED, FEW = 0.05, 30


def make_folder(folder: Path) -> None:
    """Make the folder of a report, before the work of an hour is done for it. Raises `TidemarkError`.

    Nothing stays in it: a report that is there is whole, and belongs to a backtest that came to its end.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise TidemarkError(f"cannot write into {folder}: {error.strerror}") from error


def write(found: dict[str, Any], source: str, folder: Path) -> Path:
    """Write `reliability.png`, `settings.png` and then `report.md` into a folder that is there; the report's path.

    All are made elsewhere first, so that none is ever half written. Raises `TidemarkError`.
    """
    try:
        with TemporaryDirectory(prefix=".part-", dir=folder) as unfinished:
            _draw(found, source, Path(unfinished))
            (Path(unfinished) / "report.md").write_text("\n".join(report(found, source)) + "\n", encoding="utf-8")
            for name in ("reliability.png", "settings.png", "report.md"):
                (Path(unfinished) / name).replace(folder / name)
    except OSError as error:
        raise TidemarkError(f"cannot write into {folder}: {error.strerror}") from error
    return folder / "report.md"


def _draw(found: dict[str, Any], source: str, folder: Path) -> None:
    """The two pictures."""
    from streams import pictures

    panels_of_lines = [_reliability(found["horizons"]), *_absence(found["absences"])]
    pictures.lines(folder / "reliability.png", panels_of_lines)
    tried = found["settings"]
    panels = [
        ("flaps a wallet-month\n(less is better)", [each["flaps_per_wallet_month"] for each in tried], ".3f"),
        ("changes that lasted\n(more is better)", [each["lasting"] for each in tried], ",d"),
        ("days later than with\ntoday's settings, median", [each["median_days_later"] for each in tried], "+.1f"),
    ]
    title = f"Settings on {source}, {found['from']} to {found['to']}"
    names = [each["settings"] for each in tried]
    pictures.bars(folder / "settings.png", pictures.BarsView(title, names, panels))


def _reliability(horizons: list[dict[str, Any]]) -> LinesView:
    return _sure_and_right(
        ("Was it as sure as it was right? (n: changes)", "share of changes that held"),
        [each for each in horizons if each["judged"]],
    )


def _absence(absences: list[dict[str, Any]]) -> Iterator[LinesView]:
    """A panel for those who left, where anybody did."""
    if judged := [each for each in absences if each["judged"]]:
        yield _sure_and_right(
            ("Did those told to have left stay away? (n: wallets)", "share that did not come back"), judged
        )


def _sure_and_right(captions: tuple[str, str], judged: list[dict[str, Any]]) -> LinesView:
    from streams.pictures import LinesView

    bins = [each["reliability"] for each in judged]
    return LinesView(
        captions[0],
        "confidence that was told",
        captions[1],
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
        f"{found['changes']:,} changes from one segment to another were announced in the window,",
        f"in {found['settings'][0]['wallet_months']:,.0f} wallet-months.",
        "Every one was decided with what was known then, and is judged by what came after.",
        "",
        *_did_they_hold(found["horizons"]),
        *_did_they_stay_away(found),
        "![Reliability](reliability.png)",
        "",
        "## What would have flapped less?",
        "",
        "A flap: a change back to a segment left at most 14 days before. Lasting: not left again within 14 days.",
        "A return: a wallet told to have left for its silence that was back within 14 days.",
        "",
        "| settings | changes | flaps | flaps a wallet-month | returns | lasting changes | days later, median |",
        "| --- | --- | --- | --- | --- | --- | --- |",
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
        yield from (_remark(each, "held"), "")


def _did_they_stay_away(found: dict[str, Any]) -> Iterator[str]:
    yield from ("## Did those who left stay away?", "")
    yield f"{found['left']:,} times a wallet was told to have left for its silence (`left`, dormant)."
    yield from ("A wallet has come back when it was given a segment again.", "")
    yield "| days later | judged | had not come back | confidence that was told | confidence off by, on average |"
    yield "| --- | --- | --- | --- | --- |"
    for each in found["absences"]:
        shares = (each["stayed_share"], each["told"], each["miscalibration"])
        yield f"| {each['days']} | {each['judged']:,} | {' | '.join(map(_percent, shares))} |"
    yield ""
    for each in found["absences"]:
        yield from (_remark(each, "stayed"), "")


def proposed(found: dict[str, Any]) -> list[str]:
    """The proposal in words; nothing is changed by it."""
    today = found["settings"][0]
    if found["proposal"] is None:
        none_better = "No setting that was tried flaps clearly less and keeps nine in ten of the changes that last:"
        return [none_better if today["flaps"] else "Nothing flapped with today's settings:", "keep today's."]
    best = next(each for each in found["settings"] if each["settings"] == found["proposal"]["settings"])
    values = " ".join(f"{name}={value}" for name, value in found["proposal"]["environment"].items())
    later = "" if best["median_days_later"] is None else f", {best['median_days_later']:+.1f} days later"
    return [
        f"Proposed, not applied: `{values}`: {best['flaps']} flaps instead of {today['flaps']},",
        f"{best['lasting']} lasting changes instead of {today['lasting']}{later}.",
        *([f"But {today['flaps']} flaps are few: the difference may be chance."] if today["flaps"] < FEW else []),
        "Every worker of the group needs the same value.",
    ]


def _remark(each: dict[str, Any], what: str) -> str:
    """`what` was judged, which names the figures, too: held, or stayed."""
    if not each["judged"]:
        return f"After {each['days']} days: nothing to judge, no such change with so much of the stream after it."
    if each["miscalibration"] > CALIBRATED:
        sure = sum(one["told"] * one["changes"] for one in each["reliability"]) / each["judged"]
        right = each[f"{what}_share"]
        way = "more" if sure > right else "less"
        done = {"held": "held", "stayed": "stayed away"}[what]
        chance = f", but {each['judged']} are few" if each["judged"] < FEW else ""
        return f"After {each['days']} days: it was {way} sure than right ({sure:.0%} told, {right:.0%} {done}){chance}."
    return f"After {each['days']} days: it was as sure as it was right."


def _line(each: dict[str, Any]) -> str:
    later = "–" if each["median_days_later"] is None else f"{each['median_days_later']:+.1f}"
    rate = f"{each['flaps_per_wallet_month']:.4f}"
    figures = (
        f"{each['changes']:,}",
        f"{each['flaps']:,}",
        rate,
        f"{each['returns']:,}",
        f"{each['lasting']:,}",
        later,
    )
    return f"| {each['settings']} | {' | '.join(figures)} |"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
