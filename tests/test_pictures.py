"""Pictures: readable files with the names, units and marks that a reader needs, the same bytes for the same values."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from streams import pictures
from streams.errors import TidemarkError
from streams.lettering import WIDTH, brief, columns, fonts_for, legible
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


@pytest.mark.parametrize("most", [1, 6, 40, 700, 30_000, 4_000_000])
def test_the_scale_of_a_map_is_in_whole_wallets(tmp_path: Path, most: int) -> None:
    file, places = tmp_path / "map.svg", np.array([[0.0, 0.0], [1.0, 1.0]])
    pictures.wallet_map(file, replace(MAP, points=np.repeat(places, [1, min(most, 700)], axis=0)))
    told = texts(file)
    assert not any("10^" in text for text in told)
    ticks = pictures._counts(most)
    assert ticks[0] == 1
    assert most / 10 < ticks[-1] <= most
    assert len(ticks) <= 8
    assert {"1", "2", "5"} <= {*told} or most != 6


def test_a_map_shows_whales_upon_all_segments_and_counts_them(tmp_path: Path) -> None:
    file = tmp_path / "map.svg"
    pictures.wallet_map(file, replace(MAP, whales=MAP.points[:50], whale_counts=[1200, 1, 0]))
    told = "\n".join(texts(file))
    assert all(each in told for each in ("(1,200 whales)", "(1 whale)", "(0 whales)", pictures.WHALES))


LONG = "the name that somebody in earnest gave to a segment, with the end"


def extent(file: Path) -> float:
    """How much of the width of a picture its panel has, by the leftmost and rightmost ends of its first axis."""
    picture = file.read_text(encoding="utf-8")
    (width,) = re.findall(r'viewBox="0 0 ([\d.]+)', picture)
    corners = re.search(r'id="patch_2">\s*<path d="M ([\d.]+) [\d.]+ \s*L ([\d.]+)', picture)
    assert corners
    return (float(corners[2]) - float(corners[1])) / float(width)


@pytest.mark.parametrize("name", [LONG[:64], "x" * 64, "長" * 30 + "x"])
def test_long_names_leave_the_panel_its_room_and_the_picture_its_edges(tmp_path: Path, name: str) -> None:
    names, file = [name, name[:-1] + "y", name[:-1] + "z"], tmp_path / "long.svg"
    pictures.wallet_map(file, replace(MAP, names=names))
    assert extent(file) > 0.6
    assert max(map(columns, texts(file))) < 45
    pictures.drift(file, replace(DRIFT, names=names, births=[(DAYS[3], each) for each in names * 4]))
    assert extent(file) > 0.6
    assert max(map(columns, texts(file))) < 115


def test_dates_are_so_few_that_they_stand_apart(tmp_path: Path) -> None:
    file, days = tmp_path / "drift.svg", [DAYS[0] + timedelta(days=day) for day in range(400)]
    pictures.drift(file, DriftView("long", days, NAMES, np.full((400, 3), 1 / 3)))
    ticks = [text for text in texts(file) if re.fullmatch(r"[A-Z][a-z]{2}|20\d\d|\d\d", text)]
    assert 4 <= len(ticks) <= 9


@given(
    st.text(st.characters(categories=["L", "N", "P", "Zs"], exclude_characters="…"), min_size=1, max_size=64),
    st.sampled_from([1, 2]),
)
def test_a_name_is_cut_only_where_it_must_be_and_keeps_both_ends(name: str, lines: int) -> None:
    told = brief(name, lines)
    assert told.count("\n") < lines
    assert max(map(columns, told.split("\n"))) <= WIDTH + 1  # a letter of two columns may not divide a line evenly
    letters, shown = "".join(name.split()), "".join(told.split())
    if columns(name) <= lines * WIDTH:
        assert shown == letters
    else:
        head, tail = shown.split("…")
        assert letters.startswith(head)
        assert letters.endswith(tail)


#: A letter that only another font of matplotlib has, and one that no font has.
ELSEWHERE, NOWHERE = "\u1d25", "\U000e0fff"


def test_letters_our_font_lacks_come_from_one_that_has_them(tmp_path: Path) -> None:
    families, missing = fonts_for([f"bears {ELSEWHERE}"])
    assert (families[0], len(families), missing) == ("DejaVu Sans", 2, "")
    assert fonts_for(["lenders"]) == (["DejaVu Sans"], "")


def test_a_name_no_font_can_write_is_told_once_and_drawn_as_its_id(tmp_path: Path) -> None:
    said: list[str] = []
    names = ["lenders", f"a{NOWHERE}", f"{NOWHERE}b", f"c{ELSEWHERE}"]
    drawn = legible(names, ["s1", "s2", "s3", "s4"], said.append)
    assert drawn == ["lenders", "s2", "s3", f"c{ELSEWHERE}"]
    (line,) = said
    assert "s2, s3 " in line
    assert legible(["lenders"], ["s1"], said.append) == ["lenders"]
    assert len(said) == 1
    pictures.wallet_map(tmp_path / "a.png", replace(MAP, names=names[:3]))  # a box, but no warning: those are errors


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
    """Any two are so far apart by CIE 1976 (2 is just noticeable), without one kind of cone, too."""
    nearest = {
        kind: min(float(np.linalg.norm(one - other)) for one, other in combinations(seen(pictures.COLOURS, cones), 2))
        for kind, cones in CONES.items()
    }
    assert min(nearest.values()) > 15, nearest


#: What is left of linear red, green and blue without one kind of cone (Machado, Oliveira & Fernandes 2009).
CONES: dict[str, ArrayLike] = {
    "all": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
#: Linear sRGB to CIE XYZ, over the white of D65.
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
XYZ /= XYZ.sum(axis=1, keepdims=True)


def seen(colours: Sequence[str], cones: ArrayLike) -> NDArray[np.float64]:
    """Colours (n,) written #RRGGBB in CIE L*a*b* (n, 3), as somebody with these cones sees them."""
    shown = np.array([[int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)] for colour in colours])
    linear = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
    x, y, z = np.cbrt(XYZ @ np.clip(np.asarray(cones) @ linear.T, 0, 1))
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def test_where_no_file_can_be_one_line_says_so(tmp_path: Path) -> None:
    with pytest.raises(TidemarkError, match="cannot write"):
        pictures.bars(tmp_path / "nowhere" / "a.png", BARS)
