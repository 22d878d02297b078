"""Pictures for people, as PNG or SVG: the one door to matplotlib, without a screen.

Colours are those of Okabe & Ito with a light grey, and viridis, which colour-blind people can tell apart; a colour that
comes again is hatched. What a picture shows is also written into it: names at the places, units at the axes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from streams.errors import TidemarkError
from streams.lettering import brief, columns, fonts_for

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: Okabe & Ito (2008), without black, which is for text; vermilion late, for what deserves a look. A darker grey would
#: be their purple to who sees no green.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442", "#D55E00", "#CCCCCC")
HATCHES = ("", "///", "...")
INK, PALE, ALARM = "#222222", "#DDDDDD", "#D55E00"
DOTS = 130
WHALES = "whales: the largest 5 % by value, of any segment"
#: Height of a line beside a drift, as part of its height; from how many names on each has one line only; columns that
#: fit along its height, and along its width.
LINE, MANY, BORN_COLUMNS, GONE_COLUMNS = 0.035, 10, 90, 110
_STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "svg.hashsalt": "tidemark",  # the same picture has the same bytes
    "hatch.linewidth": 0.6,
}


#: Behind text that stands on colours.
_LABEL: Any = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.0}


def plain(text: str) -> str:
    """A user's text as it is: two dollar signs would make matplotlib set a formula."""
    return text.replace("$", r"\$")


@contextmanager
def _styled(texts: Iterable[str]) -> Iterator[None]:
    """How all pictures look, in fonts that have the letters of these texts; what none has is a box, without a word."""
    with mpl.rc_context(_STYLE | {"font.family": fonts_for(texts)[0]}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


#: From left to right, where its middle is, and how tall it is, in pixels.
_Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class MapView:
    """Wallets as density and segments with names, in the plane of two principal components.

    `points`: float64 (n, 2). `places`: (k, 2) of the segments' centres, `names` and `shares` (0..1 of the wallets)
    of these. `axes`: a caption for right and up. `whales`: those of the points that are whales, (m, 2), and
    `whale_counts` by segment; none: whales are not told.
    """

    title: str
    points: Floats
    places: Floats
    names: Sequence[str]
    shares: Sequence[float]
    axes: tuple[str, str]
    whales: Floats = field(default_factory=lambda: np.zeros((0, 2)))
    whale_counts: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class DriftView:
    """Shares of segments over time. `shares`: float64 (times, segments), 0..1, nan where a segment does not exist.

    `times`: moments, or versions of the catalogue where none are known. `births`, `returns`: (time, name). `regimes`:
    (from, to, name) of bands that were not normal. `whales`: of each segment at the end; none: not told. `begins`:
    where the first step does, if that is known.
    """

    title: str
    times: Sequence[datetime] | Sequence[int]
    names: Sequence[str]
    shares: Floats
    births: Sequence[tuple[Any, str]] = ()
    regimes: Sequence[tuple[Any, Any, str]] = ()
    whales: Sequence[int] = ()
    returns: Sequence[tuple[Any, str]] = ()
    begins: datetime | None = None


@dataclass(frozen=True, slots=True)
class BarsView:
    """One panel a figure, one bar a row. `panels`: (caption with unit, value of every row, format).

    A value may be None, not known, or infinite, never.
    """

    title: str
    rows: Sequence[str]
    panels: Sequence[tuple[str, Sequence[float | None], str]]


@dataclass(frozen=True, slots=True)
class LinesView:
    """A panel of lines. `lines`: (name, x, y). `diagonal`: also the line on which y = x.

    `percent`: both axes are shares. `notes`: for each line what is written at its points; none: nothing is.
    """

    title: str
    x: str
    y: str
    lines: Sequence[tuple[str, Sequence[float], Sequence[float]]]
    diagonal: bool = False
    percent: bool = False
    notes: Sequence[Sequence[str]] = ()


def wallet_map(file: Path, view: MapView) -> None:
    """Draw where wallets are and what these places are called."""
    with _styled(view.names):
        figure = Figure(figsize=(10, 7.5), layout="constrained")
        axes = figure.subplots()
        if len(view.points):
            cells = axes.hexbin(*view.points.T, gridsize=55, bins="log", mincnt=1, cmap="viridis", linewidths=0.1)
            ticks, label = _counts(int(np.asarray(cells.get_array()).max())), "wallets in a cell (logarithmic)"
            bar = figure.colorbar(cells, ax=axes, shrink=0.7, label=label, ticks=ticks, format="{x:,.0f}")
            bar.minorticks_off()
        sizes = 60 + 900 * np.sqrt(np.array(view.shares))
        right, up = view.places.T
        axes.scatter(right, up, s=sizes, facecolors="none", edgecolors=ALARM, linewidths=2, zorder=3)
        if len(view.whales):
            right, up = view.whales.T
            axes.scatter(right, up, s=14, c=INK, edgecolors="white", linewidths=0.4, zorder=2.5, label=WHALES)
            figure.legend(loc="outside lower right", frameon=False, fontsize=9)
        axes.margins(x=0.15, y=0.1)
        axes.set_title(view.title)
        axes.set_xlabel(view.axes[0])
        axes.set_ylabel(view.axes[1])
        _name_places(figure, axes, view)
        _save(figure, file)


def _counts(most: int) -> list[int]:
    """Numbers to write beside a logarithmic scale from 1 to `most`: few, and whole ones."""
    decades = range(len(str(most)))
    steps = (1, 2, 5) if len(decades) < 3 else (1, 3) if len(decades) < 5 else (1,)
    return [count for decade in decades for step in steps if (count := step * 10**decade) <= most]


def _name_places(figure: Figure, axes: Axes, view: MapView) -> None:
    """Write each name beside its place, where it covers neither another name nor another place."""
    figure.canvas.draw()  # only then is it known where a place is on the paper
    pixels = axes.transData.transform(view.places).tolist()
    labels = _map_labels(view)
    line, letter, gap = 0.2 * figure.dpi, 0.085 * figure.dpi, 0.2 * figure.dpi
    taken = [(x - gap, x + gap, y, line) for x, y in pixels]
    for place in np.argsort([-y for _, y in pixels], kind="stable").tolist():
        told = labels[place].split("\n")
        width, height = letter * max(map(columns, told)), line * len(told)
        others = [box for other, box in enumerate(taken) if other != place]
        ends = (axes.bbox.x0, axes.bbox.x1)
        left, y = _free(pixels[place], (width, height, gap), others, ends)
        taken.append((left, left + width, y, height))
        is_right = left > pixels[place][0]
        label = axes.annotate(
            plain(labels[place]),
            view.places[place],
            xytext=tuple(axes.transData.inverted().transform((left if is_right else left + width, y))),
            va="center",
            ha="left" if is_right else "right",
            color=INK,
            weight="bold",
            bbox=_LABEL,
            arrowprops={"arrowstyle": "-", "color": ALARM, "linewidth": 1},
            zorder=4,
        )
        label.set_in_layout(False)  # the paper was laid out before


def _map_labels(view: MapView) -> list[str]:
    told = [f"{brief(name)}  {share:.0%}" for name, share in zip(view.names, view.shares, strict=True)]
    if not view.whale_counts:
        return told
    return [f"{label}\n{_whales(count)}" for label, count in zip(told, view.whale_counts, strict=True)]


def _whales(count: int) -> str:
    return f"({count:,} whale{'s' * (count != 1)})"


def _free(
    at: Sequence[float], size: tuple[float, float, float], taken: Sequence[_Box], ends: tuple[float, float]
) -> tuple[float, float]:
    """Where a label begins, and its height on the paper: the nearest spot beside a place that nothing else takes.

    `size`: width, height, and distance from the place, in pixels. `ends`: of the paper.
    """
    width, height, gap = size
    sides = (at[0] + gap, at[0] - gap - width)
    for step in range(60):
        y = at[1] + (step + 1) // 2 * (-1) ** step * gap / 2
        for left in sides:
            inside = ends[0] <= left and left + width <= ends[1]
            if inside and not any(
                abs(y - h) < (height + tall) / 2 and left < end and begin < left + width
                for begin, end, h, tall in taken
            ):
                return left, y
    return sides[0], at[1]


def drift(file: Path, view: DriftView) -> None:
    """Draw how the shares of segments move, when segments were born, and which days were not normal."""
    with _styled([*view.names, *(name for _, name in (*view.births, *view.returns))]):
        figure = Figure(figsize=(11, 6.5), layout="constrained")
        axes = figure.subplots()
        _stack(axes, view)
        for begin, end, name in view.regimes:
            axes.axvspan(begin, end, facecolor="none", edgecolor=INK, hatch="xx", alpha=0.5, linewidth=0)
            axes.annotate(name, (begin, 1.0), xytext=(2, 4), textcoords="offset points", fontsize=9)
        shown: dict[Any, dict[str, list[str]]] = {}
        for what, came in (("born", view.births), ("back", view.returns)):
            for at, name in came:
                shown.setdefault(at, {}).setdefault(what, []).append(name)
        for at, names in shown.items():
            axes.axvline(at, color=INK, linewidth=1, linestyle=":")
            room = BORN_COLUMNS // len(names)
            told = plain("; ".join(_several(what, some, room) for what, some in names.items()))
            born = axes.annotate(told, (at, 0.02), (5, 0), textcoords="offset points", bbox=_LABEL)
            born.set(rotation=90, fontsize=8, va="bottom", in_layout=False)
        axes.set_title(view.title, pad=18)
        axes.set_xlabel("" if _dated(view.times) else "version of the catalogue")
        if _dated(view.times):
            dates = AutoDateLocator(maxticks=9)  # type: ignore[no-untyped-call]  # matplotlib's
            axes.xaxis.set_major_locator(dates)
            axes.xaxis.set_major_formatter(ConciseDateFormatter(dates))  # type: ignore[no-untyped-call]  # matplotlib's
        _save(figure, file)


def _several(what: str, names: Sequence[str], room: int) -> str:
    """Names after a word, as many as fit into so many columns; then how many more there are."""
    told = f"{what}: {brief(names[0], 1)}"
    for place, name in enumerate(names[1:], 1):
        longer = f"{told}, {brief(name, 1)}"
        if columns(longer) > room:
            return f"{told} and {len(names) - place} more"
        told = longer
    return told


def _dated(times: Sequence[Any]) -> bool:
    return bool(times) and not isinstance(times[0], int)


def _stack(axes: Axes, view: DriftView) -> None:
    """Areas one upon the other; each named at the right, where it ends."""
    times, names, known = [*view.times], view.names, np.nan_to_num(view.shares)
    if view.begins is not None:  # a step is as high as at its end
        times, known = [view.begins, *times], np.concatenate((known[:1], known))
    tops = np.cumsum(known, axis=1)
    for place in range(len(names)):
        below = tops[:, place - 1] if place else np.zeros(len(times))
        axes.fill_between(
            times,
            below,
            tops[:, place],
            step="pre",
            facecolor=COLOURS[place % len(COLOURS)],
            hatch=HATCHES[place // len(COLOURS) % len(HATCHES)],
            edgecolor="white",
            linewidth=0.5,
        )
    axes.set_ylim(0, 1)
    axes.margins(x=0)
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_ylabel("share of wallets")
    _name_areas(axes, view, known[-1])
    gone = [name for place, name in enumerate(names) if known[-1, place] == 0]
    if gone:
        told = plain(_several("gone", gone, GONE_COLUMNS))
        axes.annotate(told, (0.0, -0.1), xycoords="axes fraction", fontsize=8)  # to the right are year and month


def _name_areas(axes: Axes, view: DriftView, last: Floats) -> None:
    """Write beside each area where it ends what it is called. `last`: shares at the end."""
    middles = np.cumsum(last) - last / 2
    there = sorted((middles[place], place) for place in range(len(last)) if last[place] > 0)
    lines = 2 if len(there) <= MANY else 1
    floor = -1.0
    for middle, place in there:
        told = f"{brief(view.names[place], lines)}  {last[place]:.0%}"
        if view.whales:
            told = f"{told} {_whales(view.whales[place])}"
        half = LINE * (1 + told.count("\n")) / 2
        height = max(middle, floor + half)
        floor = height + half
        axes.annotate(
            plain(told),
            (1.0, middle),
            xytext=(1.015, height),
            xycoords=axes.get_yaxis_transform(),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=9,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": COLOURS[place % len(COLOURS)],
                "linewidth": 2,
                "relpos": (0, 0.5),  # to where the text begins, not through it
                "shrinkA": 3,
                "patchA": None,
            },
        )


def bars(file: Path, view: BarsView) -> None:
    """Draw several figures of the same rows side by side; a value that is not known is left out and said so."""
    with _styled([view.title, *view.rows]):
        figure = Figure(figsize=(2.6 + 2.1 * len(view.panels), 1.6 + 0.42 * len(view.rows)), layout="constrained")
        figure.suptitle(plain(view.title), x=0.01, ha="left")
        panels = figure.subplots(1, len(view.panels), sharey=True, squeeze=False)[0]
        heights = np.arange(len(view.rows))
        for axes, (caption, values, form) in zip(panels, view.panels, strict=True):
            lengths = [0.0 if value is None or np.isinf(value) else value for value in values]
            drawn = axes.barh(heights, lengths, color=[COLOURS[place % len(COLOURS)] for place in range(len(lengths))])
            told = [_told(value, form) for value in values]
            axes.bar_label(drawn, told, padding=3, fontsize=9)
            axes.set_xlabel(caption)
            least, most = min(0.0, *lengths), max(0.0, *lengths)
            room = 0.4 * (most - least) or 1.0  # for what is written at the ends
            axes.set_xlim(least - room * (least < 0), most + room)
            axes.locator_params(axis="x", nbins=4)
        panels[0].set_yticks(heights, list(map(plain, view.rows)))
        panels[0].invert_yaxis()
        _save(figure, file)


def _told(value: float | None, form: str) -> str:
    if value is None:
        return "not known"
    return "never" if np.isinf(value) else format(value, form)


def lines(file: Path, views: Sequence[LinesView]) -> None:
    """Draw panels of lines side by side."""
    with _styled([each.title for each in views]):
        figure = Figure(figsize=(6.2 * len(views), 5.2), layout="constrained")
        for axes, view in zip(figure.subplots(1, len(views), squeeze=False)[0], views, strict=True):
            _panel(axes, view)
        _save(figure, file)


def _panel(axes: Axes, view: LinesView) -> None:
    if view.diagonal:
        axes.plot([0, 1], [0, 1], color="#999999", linestyle="--", label="as sure as it was right")
    for place, (name, x, y) in enumerate(view.lines):
        axes.plot(x, y, color=COLOURS[place % len(COLOURS)], marker="os^D"[place % 4], markersize=5, label=name)
        for note, x_at, y_at in zip(view.notes[place] if view.notes else (), x, y, strict=bool(view.notes)):
            side = 6 if place % 2 else -12  # two lines often share points
            axes.annotate(note, (x_at, y_at), (0, side), textcoords="offset points", fontsize=8, ha="center")
    if view.percent:
        axes.locator_params(steps=[1, 2, 5, 10])  # whole percents
        axes.xaxis.set_major_formatter("{x:.0%}")
        axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_title(view.title)
    axes.set_xlabel(view.x)
    axes.set_ylabel(view.y)
    axes.grid(color=PALE, linewidth=0.6)
    axes.legend(frameon=False, fontsize=9)


def _save(figure: Figure, file: Path) -> None:
    """Write the picture. Raises `TidemarkError`."""
    metadata = {"Date": None} if file.suffix.lower() == ".svg" else None
    try:
        figure.savefig(file, dpi=DOTS, metadata=metadata)
    except OSError as error:
        raise TidemarkError(f"cannot write {file}: {error.strerror}") from error
