"""Pictures: readable files with the names, units and marks that a reader needs, the same bytes for the same values."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from streams import pictures
from streams.errors import TidemarkError
from streams.pictures import BarsView, DriftView, LinesView, MapView

DAYS = [datetime(2026, 3, 1, tzinfo=UTC) + timedelta(days=day) for day in range(5)]
NAMES = ["active traders", "steady holders", "$} & co$"]
MAP = MapView(
    "Where wallets are",
    np.random.default_rng(1).normal(size=(500, 2)),
    np.array([[0.0, 0.0], [0.01, 0.0], [2.0, 1.0]]),
    NAMES,
    [0.5, 0.3, 0.2],
    ("more spot →", "more frequency ↑"),
)
DRIFT = DriftView(
    "Shares over time",
    DAYS,
    NAMES,
    np.array([[0.5, 0.5, 0.0]] * 3 + [[0.0, 0.6, 0.4]] * 2),
    [(DAYS[3], NAMES[2])],
    [(DAYS[1], DAYS[2], "crash")],
)
BARS = BarsView(
    "Clusterers",
    ["tidemark", "river.KMeans"],
    [("flaps", [0.1, None], ".2f"), ("days", [-2, 3], "+d"), ("late", [float("inf"), 1], "d")],
)
LINES = LinesView("Sure?", "told", "held", [("after 7 days", [0.5, 1.0], [0.4, 0.9])], diagonal=True, percent=True)
EVERY: list[Callable[[Path], None]] = [
    lambda file: pictures.wallet_map(file, MAP),
    lambda file: pictures.drift(file, DRIFT),
    lambda file: pictures.bars(file, BARS),
    lambda file: pictures.lines(file, [LINES, LINES]),
]


def texts(file: Path) -> list[str]:
    """What is written into an SVG."""
    return re.findall(r"<!-- (.*?) -->", file.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("draw", EVERY)
def test_every_picture_is_png_or_svg_by_its_name_and_equal_bytes_for_equal_values(
    draw: Callable[[Path], None], tmp_path: Path
) -> None:
    for name, begin in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml")):
        file, again = tmp_path / name, tmp_path / f"again-{name}"
        draw(file)
        draw(again)
        assert file.read_bytes().startswith(begin)
        assert file.read_bytes() == again.read_bytes()


def test_a_map_names_every_segment_with_its_share_and_what_the_axes_are(tmp_path: Path) -> None:
    file = tmp_path / "map.svg"
    pictures.wallet_map(file, MAP)
    told = texts(file)
    assert {"active traders  50%", "steady holders  30%", "$} &amp; co$  20%"} <= set(told)
    assert {"more spot →", "more frequency ↑", "wallets in a cell (logarithmic)"} <= set(told)


def test_a_map_without_wallets_still_has_its_segments(tmp_path: Path) -> None:
    file = tmp_path / "map.svg"
    pictures.wallet_map(file, MapView("none", np.zeros((0, 2)), MAP.places, NAMES, [0.0] * 3, ("x", "y")))
    assert "active traders  0%" in texts(file)


def test_a_drift_tells_births_regimes_and_who_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "drift.svg"
    pictures.drift(file, DRIFT)
    told = texts(file)
    assert {"crash", "gone: active traders", "steady holders  60%", "share of wallets"} <= set(told)
    assert "born: $} &amp; co$" in told


def test_a_drift_without_moments_is_drawn_over_versions(tmp_path: Path) -> None:
    file = tmp_path / "drift.svg"
    pictures.drift(file, DriftView("by version", [1, 2, 3], ["a"], np.ones((3, 1))))
    assert "version of the catalogue" in texts(file)


def test_what_is_not_known_is_told_and_not_drawn_as_nothing(tmp_path: Path) -> None:
    file = tmp_path / "bars.svg"
    pictures.bars(file, BARS)
    assert {"not known", "never", "0.10", "-2", "+3"} <= set(texts(file))


def test_colours_can_be_told_apart_by_people_who_see_fewer() -> None:
    assert len(set(pictures.COLOURS)) == len(pictures.COLOURS)
    assert "#0072B2" in pictures.COLOURS
    assert "#D55E00" in pictures.COLOURS  # Okabe & Ito's blue and vermilion


def test_where_no_file_can_be_one_line_says_so(tmp_path: Path) -> None:
    with pytest.raises(TidemarkError, match="cannot write"):
        pictures.bars(tmp_path / "nowhere" / "a.png", BARS)
