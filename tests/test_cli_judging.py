"""Commands that judge, draw and name, from outside: what they print where, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kafka import KafkaProducer
from pydantic import SecretStr

from models.clusterers import RIVERS, parameters_of
from models.segments import Catalogue
from streams.embedded import Embedded
from streams.settings import Settings
from tests.test_cli import tidemark
from tests.test_compare import season_in
from tests.test_drifting import change
from tests.test_readouts import publish


@pytest.fixture(scope="module")
def here(embedded: Embedded) -> dict[str, str]:
    """A broker with topics, and a Redis with a catalogue: s1 steady holders, s3 leveraged traders."""
    env = {"TIDEMARK_KAFKA": embedded.kafka, "TIDEMARK_REDIS": embedded.redis, "TIDEMARK_PARTITIONS": "2"}
    assert tidemark("topics", "create", env=env).returncode == 0
    publish(Settings(kafka=embedded.kafka, redis=SecretStr(embedded.redis)))
    return env


@pytest.fixture(scope="module")
def season(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return season_in(tmp_path_factory.mktemp("season"), days=28)


HUGE = f'river.KMeans={{"n_clusters": 1{"0" * 400}}}'


def line_of(*words: str, env: dict[str, str] | None = None, code: int) -> str:
    """The one line on stderr of a command that ends with this code and prints nothing."""
    done = tidemark(*words, env=env)
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    return line


def test_a_segment_is_renamed_shown_exported_and_given_its_own_name_back(here: dict[str, str], tmp_path: Path) -> None:
    words = ("segments", "rename", "s3", "margin crowd", "--description", "lower fees")
    done = tidemark(*words, env=here)
    assert (done.stdout, done.stderr) == ("s3 is called margin crowd (before: leveraged traders): lower fees\n", "")
    shown = tidemark("segments", env=here).stdout
    assert "margin crowd" in shown
    assert "lower fees" in shown
    rows = json.loads(tidemark("segments", "--json", env=here).stdout)
    assert {"s3": "margin crowd"}.items() <= {row["segment"]: row["name"] for row in rows}.items()
    assert list(rows[0]) == ["segment", "name", "wallets", "share", "revenue_micros", "centre", "whales", "description"]
    exported = tmp_path / "catalogue.json"
    assert tidemark("segments", "--export", str(exported), env=here).returncode == 0
    assert Catalogue.from_json(exported.read_bytes()).name_of(3) == "margin crowd"
    assert "s3 is called margin crowd" in line_of("segments", "rename", "s1", "MARGIN crowd", env=here, code=2)
    assert tidemark("segments", "rename", "s3", "--reset", env=here).stdout == (
        "s3 is no longer called margin crowd, but leveraged traders\n"
    )
    assert "nothing to take back" in line_of("segments", "rename", "s3", "--reset", env=here, code=1)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["segments", "rename", "s3"], "give a NAME, or --reset"),
        (["segments", "rename", "s3", "x", "--reset"], "give a NAME, or --reset"),
        (["segments", "rename", "s3", "--reset", "--description", "x"], "--description goes with a NAME"),
        (["segments", "rename", "holders", "x"], "'holders' is no segment's id"),
        (["segments", "--json", "rename", "s3", "x"], "do not go with `segments rename`"),
        (["map"], "say where the picture goes"),
        (["map", "--out", "map.gif"], "ends in .png or .svg"),
        (["drift", "--out", "drift"], "ends in .png or .svg"),
        (["compare", "events.ndjson", "--clusterers", "kmeans"], "these are known: tidemark, river.KMeans"),
        (["compare", "events.ndjson", "--clusterers", "tidemark,"], "--clusterers 'tidemark,' has an empty name"),
        (["compare", "events.ndjson", "--params", "tidemark=5"], "write NAME="),
        (["compare", "events.ndjson", "--params", HUGE], "n_clusters must be a whole number from 1 to 100 (default 8)"),
        (["backtest", "events.ndjson", "--from", "20260301", "--to", "2026-03-02"], "--from 20260301: a date"),
        (["backtest", "events.ndjson", "--from", "2026-13-01", "--to", "2026-01-02"], "--from 2026-13-01: a date"),
        (["backtest", "events.ndjson", "--from", "2026-01-03", "--to", "2026-01-02"], "is before --from"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_wrong_usage_is_one_line_and_exit_2(words: list[str], why: str) -> None:
    assert why in line_of(*words, code=2)


def test_the_help_of_compare_names_every_parameter_of_every_clusterer() -> None:
    told = " ".join(tidemark("compare", "--help").stdout.replace("│", " ").split())
    for name in RIVERS:
        assert sorted(told.split(f"{name}: ")[1].split(" river.")[0].split(" Example")[0].split(", ")) == sorted(
            parameters_of(name)
        )


def test_wrong_parameters_in_the_environment_are_one_line_too() -> None:
    env = {"TIDEMARK_CLUSTERER": "river.KMeans", "TIDEMARK_CLUSTERER_PARAMS": HUGE.partition("=")[2]}
    why = line_of("settings", env=env, code=2)
    assert "TIDEMARK_CLUSTERER_PARAMS: river.KMeans: n_clusters must be a whole number from 1 to 100" in why


def test_a_map_is_drawn_or_told_and_never_where_no_file_can_be(here: dict[str, str], tmp_path: Path) -> None:
    done = tidemark("map", "--out", str(tmp_path / "map.png"), "--json", env=here)
    assert done.returncode == 0
    assert [each["segment"] for each in json.loads(done.stdout)["segments"]] == ["s1", "s3"]
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert "cannot write" in line_of("map", "--out", str(tmp_path / "nowhere" / "map.png"), env=here, code=1)


def test_a_drift_is_counted_from_the_announced_changes(here: dict[str, str], tmp_path: Path) -> None:
    assert "no wallet has changed its segment yet" in line_of("drift", "--json", env=here, code=1)
    producer = KafkaProducer(bootstrap_servers=here["TIDEMARK_KAFKA"], enable_idempotence=False)
    for one in (change("a", 1, 1, (0, 1)), change("b", 1, 2, (0, 1)), change("b", 2, 60, (1, 3))):
        producer.send("tidemark.segment.changes", key=b"a", value=json.dumps(one).encode()).get(10)
    producer.close()
    done = tidemark("drift", "--out", str(tmp_path / "drift.svg"), "--json", env=here)
    told = json.loads(done.stdout)
    assert [(each["name"], each["shares"][-1]) for each in told["segments"]] == [
        ("steady holders", 0.5), ("leveraged traders", 0.5),
    ]  # fmt: skip
    assert "share of wallets" in (tmp_path / "drift.svg").read_text(encoding="utf-8")
    assert done.stderr.startswith("2 segments over 3 steps in time drawn to")


def test_a_comparison_is_a_table_for_people_and_rows_for_programs(season: Path, tmp_path: Path) -> None:
    events, truth, out = (str(path) for path in (season / "events.ndjson", season / "truth.json", tmp_path / "c.png"))
    done = tidemark(
        "compare", events, "--clusterers", "tidemark", "--truth", truth, "--out", out, "--json", timeout_s=300
    )
    assert done.returncode == 0
    (row,) = json.loads(done.stdout)
    assert row["clusterer"] == "tidemark"
    assert row["ari"] is not None
    assert Path(out).read_bytes().startswith(b"\x89PNG")
    shown = tidemark("compare", events, "--clusterers", "tidemark", timeout_s=300)
    assert "silhouette" in shown.stdout
    assert "ARI" not in shown.stdout
    assert "cannot read" in line_of("compare", str(season / "nothing"), code=1)
    assert "cannot read" in line_of("compare", events, "--truth", str(season / "nothing"), code=1)
