"""Clusterers side by side: the same stream through the product's own two sides, judged the same way."""

from __future__ import annotations

import json
import math
from datetime import date
from pathlib import Path

import pytest

from models.rules import CLUSTERERS, DAY_MS, Rules
from models.timeline import histories
from streams import compare
from streams.compare import FIGURES, Run
from streams.errors import TidemarkError, WrongSettings
from streams.replay import Replay, Told
from streams.settings import Settings
from streams.simulate import SimulationPlan, write
from streams.survey import survey


def season_in(folder: Path, days: int) -> Path:
    """The folder with a small season and its truth."""
    with (folder / "events.ndjson").open("w", encoding="utf-8") as out:
        write(SimulationPlan(5, 60, days, date(2026, 1, 1)), out, folder / "truth.json")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return season_in(tmp_path_factory.mktemp("season"), days=40)


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return compare.replayed(folder / "events.ndjson", Rules(), print)


def told(wallet: str, *steps: tuple[float, int]) -> list[Told]:
    """Changes of a wallet: (day, segment it joins), from outside."""
    before = [0, *(segment for _, segment in steps)]
    return [
        Told(wallet, "moved", "live", left, to, "active", 0.9, int(day * DAY_MS), int(day * DAY_MS), 1)
        for left, (day, to) in zip(before, steps, strict=False)
    ]


def a_run(*changes: list[Told], days: int = 100) -> Run:
    return Run(Replay(Rules()), histories(one for some in changes for one in some), 0, days * DAY_MS, 0, 0.0)


def test_every_clusterer_gets_a_row_with_every_figure(folder: Path, run: Run) -> None:
    personas = compare.personas_of(folder / "truth.json")
    rows = compare.compare(folder / "events.ndjson", {"tidemark": Rules(), "again": Rules()}, personas, print)
    assert [row["clusterer"] for row in rows] == ["tidemark", "again"]
    assert [list(row)[1:] for row in rows] == [list(FIGURES)] * 2
    timed = {"rows_per_second", "cpu_seconds", "clusterer"}
    first, second = ({name: value for name, value in row.items() if name not in timed} for row in rows)
    assert first == second == {name: value for name, value in compare.judged(run, personas).items() if name in first}
    assert 0.3 < first["ari"] <= 1
    assert 0.3 < first["ami"] <= 1
    assert -1 < first["silhouette"] < 1
    assert first["segments"] >= 3
    assert json.dumps(rows)


def test_without_a_truth_what_needs_one_is_not_known(run: Run) -> None:
    found = compare.judged(run, None)
    assert {name for name, value in found.items() if value is None} == {
        "ari", "ami", "median_delay_days", "announced_share",
    }  # fmt: skip


def test_a_delay_ends_in_a_segment_that_means_the_new_persona() -> None:
    found = a_run(
        told("quick", (1, 1), (52, 2)),
        told("detour", (1, 1), (52, 3), (60, 2)),
        told("never", (1, 1), (40, 2), (45, 1)),
        told("there already", (1, 2)),
        told("nowhere", (70, 2)),
    )
    spans = [(0, "holder"), (50 * DAY_MS, "trader")]
    personas = dict.fromkeys(found.told, spans)
    assert compare.delays(found, personas, {1: "holder", 2: "trader", 3: "lender"}) == [2, 10, math.inf]
    assert compare.delays(found, {"quick": [*spans, (51 * DAY_MS, "x")]}, {1: "holder", 2: "trader"}) == [math.inf] * 2


def test_a_segment_means_what_most_of_its_wallets_are() -> None:
    looks = [([1, 1, 2], ["a", "b", "b"]), ([1, 1, 2], ["a", "b", "b"]), ([1], ["a"])]
    assert compare.meanings(looks) == {1: "a", 2: "b"}


def test_clusterers_come_from_a_closed_list_each_with_its_parameters() -> None:
    settings = Settings(clusterer="river.KMeans", clusterer_params={"n_clusters": 6})
    assert compare.chosen("river.KMeans", [], settings)["river.KMeans"].clusterer_params == '{"n_clusters":6}'
    assert list(compare.chosen("tidemark, river.KMeans,tidemark", [], settings)) == ["tidemark", "river.KMeans"]
    assert list(compare.chosen(",".join(CLUSTERERS), ['river.KMeans={"n_clusters": 5}'], settings)) == list(CLUSTERERS)
    for wrong, params in (
        ("river.Kmeans", []), ("", []), ("tidemark,", []), ("tidemark", ["river.KMeans={}"]),
        ("river.KMeans", ['river.KMeans={"n_clusters": 1%s}' % ("0" * 400)]),
        ("river.KMeans", ["river.KMeans=" + "[" * 10_000]),
        ("river.KMeans", ['river.KMeans={"n_clusters": 5}', 'river.KMeans={"mu": 1}']),
        ("river.KMeans", ["river.KMeans"]), ("river.KMeans", ["river.KMeans=[]"]),
        ("river.KMeans", ["river.KMeans={'a'}"]), ("river.KMeans", ['river.KMeans={"n_clusters": -1}']),
        ("river.KMeans", ['river.KMeans={"speed": 1}']), ("tidemark", ['tidemark={"n_clusters": 8}']),
    ):  # fmt: skip
        with pytest.raises(WrongSettings) as refused:
            compare.chosen(wrong, params, settings)
        assert len(refused.value.lines) == 1


def test_an_empty_name_is_told_as_one() -> None:
    for given in ("tidemark,", "", ",tidemark", "tidemark, ,river.KMeans"):
        with pytest.raises(
            WrongSettings, match=f"--clusterers '{given}' has an empty name; these are known: tidemark, "
        ):
            compare.chosen(given, [], Settings())


def test_a_truth_must_know_wallets_of_the_stream_and_it_is_told_how_many(folder: Path, tmp_path: Path) -> None:
    events, truth, said = folder / "events.ndjson", tmp_path / "truth.json", list[str]()
    personas = compare.personas_of(folder / "truth.json")
    assert compare.personas_in(events, folder / "truth.json", said.append) == personas
    assert said == []
    truth.write_text('{"personas": {"another": [[0, "holder"]]}}', encoding="utf-8")
    with pytest.raises(
        TidemarkError, match=r"is the truth of another stream: none of its wallets is in .*events.ndjson"
    ):
        compare.personas_in(events, truth, said.append)
    some = dict(list(personas.items())[:7]) | {"another": [(0, "holder")]}
    truth.write_text(json.dumps({"personas": some}), encoding="utf-8")
    assert list(compare.personas_in(events, truth, said.append)) == list(personas)[:7]
    assert said == [f"7 of the 60 wallets in {events} are in {truth}, which knows 8: only these are held against it"]


def test_a_broken_line_is_told_once_and_where(folder: Path, tmp_path: Path) -> None:
    lines = (folder / "events.ndjson").read_text(encoding="utf-8").splitlines()[:200]
    file = tmp_path / "x.ndjson"
    for broken, why in (
        ('{"topic": oops}', "line 201: not a JSON object: Expecting value at character 11"),
        ("{", "line 201: not a JSON object: Expecting value at character 2"),
    ):
        file.write_text("\n".join([*lines, broken]), encoding="utf-8")
        with pytest.raises(TidemarkError) as refused:
            survey(file)
        assert str(refused.value) == f"{file}, {why}"


def test_a_survey_knows_when_a_file_begins_and_ends_and_who_is_in_it(folder: Path) -> None:
    found = survey(folder / "events.ndjson")
    assert 0 <= found.begin_ms - DAY_MS * 20_454 < DAY_MS  # 2026-01-01
    assert 39 * DAY_MS <= found.end_ms - DAY_MS * 20_454 < 40 * DAY_MS
    assert len(found.wallets) == 60


def test_files_that_are_not_what_they_should_be_end_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "x.ndjson"
    for content, why in ((b"", "holds no event"), (b"hello\n", "line 1"), (b"\xff\n", "not UTF-8")):
        file.write_bytes(content)
        with pytest.raises(TidemarkError, match=why) as refused:
            compare.replayed(file, Rules(), print)
        assert str(file) in str(refused.value)
    with pytest.raises(TidemarkError, match="cannot read"):
        compare.replayed(tmp_path / "nothing", Rules(), print)
    for content in (b"", b"[]", b"{}", b'{"personas": {"w": [1]}}', b'{"personas": {"w": []}}'):
        file.write_bytes(content)
        with pytest.raises(TidemarkError, match="no truth"):
            compare.personas_of(file)
    with pytest.raises(TidemarkError, match="cannot read"):
        compare.personas_of(tmp_path / "nothing")


def test_a_comparison_is_drawn_with_every_clusterer_and_only_what_is_known(tmp_path: Path) -> None:
    row = dict.fromkeys(FIGURES, None) | {"silhouette": 0.4, "segments": 5}
    compare.draw([row | {"clusterer": name} for name in CLUSTERERS[:2]], "events.ndjson", tmp_path / "c.svg")
    drawn = (tmp_path / "c.svg").read_text(encoding="utf-8")
    assert all(name in drawn for name in CLUSTERERS[:2])
    assert "silhouette" in drawn
    assert "agreement" not in drawn
