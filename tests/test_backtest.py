"""Walking forward over history: what held, whether confidence was right, and what would have flapped less."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from models.rules import DAY_MS, Rules
from streams import backtest, backtest_report, tables
from streams.backtest import Window
from streams.errors import TidemarkError
from streams.settings import Settings
from streams.simulate import SimulationPlan, write
from tests.test_cli import tidemark
from tests.test_compare import a_run, told

FIRST_OF_1970 = Window(date(1970, 1, 11), date(1970, 2, 9))


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("season") / "events.ndjson"
    with file.open("w", encoding="utf-8") as out:
        write(SimulationPlan(5, 60, 28, date(2026, 1, 1)), out)
    return file


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report") / "a" / "b"


@pytest.fixture(scope="module")
def found(events: Path, report: Path) -> dict[str, Any]:
    """The command's answer; the report is written too."""
    window = ("--from", "2026-01-09", "--to", "2026-01-26")
    done = tidemark("backtest", str(events), *window, "--report", str(report), "--json", timeout_s=300)
    assert done.returncode == 0
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def figures(name: str, *, flaps: int, lasting: int) -> dict[str, Any]:
    rates = {"flaps": flaps, "flaps_per_wallet_month": flaps / 100, "lasting": lasting}
    return rates | {"settings": name, "environment": {"TIDEMARK_X": name}}


@pytest.mark.parametrize(
    ("first", "last", "why"),
    [
        ("2026-03-02", "2026-03-01", "--to 2026-03-01 is before --from 2026-03-02"),
        ("March", "2026-03-01", "--from March: a date is written YYYY-MM-DD"),
        ("2026-03-01", "2026-02-30", "--to 2026-02-30: a date is written YYYY-MM-DD"),
        ("20260301", "2026-03-01", "--from 20260301: a date is written YYYY-MM-DD"),
        ("2026-W10-7", "2026-03-10", "--from 2026-W10-7: a date is written YYYY-MM-DD"),
        ("2026-03-01", "2026-03-٠٢", "a date is written YYYY-MM-DD"),
    ],
)
def test_wrong_dates_are_told_by_their_option(first: str, last: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        backtest.window(first, last)


def test_a_window_is_whole_days_both_included() -> None:
    assert backtest.window("1970-01-02", "1970-01-02") == Window(date(1970, 1, 2), date(1970, 1, 2))
    assert (FIRST_OF_1970.begin_ms, FIRST_OF_1970.end_ms) == (10 * DAY_MS, 40 * DAY_MS)


def test_a_window_reaches_to_the_last_day_there_is(events: Path) -> None:
    for days, why in (
        (("9999-12-31", "9999-12-31"), "ends on 2026-01-28"),
        (("0001-01-01",) * 2, "begins on 2026-01-01"),
    ):
        with pytest.raises(TidemarkError, match=why):
            backtest.refuse_elsewhere(events, backtest.window(*days))


def test_a_window_outside_the_file_is_refused_before_anything_is_replayed(
    events: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backtest, "replayed", None)
    with pytest.raises(TidemarkError, match="it has nothing of 2027-01-01"):
        backtest.backtest(events, backtest.window("2027-01-01", "2027-01-31"), Rules(), print)


def test_settings_are_tried_within_their_bounds_each_once_and_never_today_s() -> None:
    def tried(**today: float) -> list[float]:
        return [value for each in backtest.variants(Rules(**today)) for name, value in each.items() if name in today]  # type: ignore[arg-type]  # evidence is whole

    assert tried(switch_at=10.0, evidence=5) == [5, 20, 40, 2, 10]
    assert tried(switch_at=600.0) == [300, 1000]
    assert tried(switch_at=1000.0) == [500]
    assert tried(evidence=2) == [1, 4]
    assert tried(evidence=1) == [2]
    assert tried(evidence=700) == [350, 1000]
    for rules in (Rules(switch_at=600.0, evidence=1), Rules(switch_at=0.001, evidence=1000)):
        for each in backtest.variants(rules):
            Settings(**each)


def test_those_who_left_are_judged_by_whether_they_came_back_and_only_if_that_is_known() -> None:
    run = a_run(
        told("gone", (1, 1), (15, 0)),
        told("back soon", (1, 1), (15, 0), (20, 1)),
        told("back late", (1, 1), (15, 0), (30, 1)),
        told("too late to know", (1, 1), (38, 0)),
        told("before the window", (1, 1), (5, 0), (6, 1)),
        days=60,
    )
    week, month = (backtest._absent(run, FIRST_OF_1970, days) for days in (7, 30))
    assert (week["judged"], week["stayed"], week["told"]) == (4, 3, pytest.approx(0.9))
    assert (month["judged"], month["stayed"]) == (3, 1)
    assert month["miscalibration"] == pytest.approx(0.9 - 1 / 3)
    assert backtest._figures("now", {}, run, run, FIRST_OF_1970)["returns"] == 1


def test_a_window_without_events_or_without_changes_is_refused_with_what_there_is(events: Path) -> None:
    for days, why in (
        (("2025-01-01", "2025-01-31"), "begins on 2026-01-01: it has nothing of 2025-01-01 to 2025-01-31"),
        (("2027-01-01", "2027-01-31"), "ends on 2026-01-28: it has nothing of 2027-01-01 to 2027-01-31"),
    ):
        with pytest.raises(TidemarkError, match=why):
            backtest.backtest(events, backtest.window(*days), Rules(), print)
    with pytest.raises(TidemarkError, match="no wallet changed its segment from 2026-01-01 to 2026-01-01"):
        backtest.backtest(events, backtest.window("2026-01-01", "2026-01-01"), Rules(), print)


def test_a_change_is_judged_by_where_the_wallet_is_and_only_if_that_is_known() -> None:
    run = a_run(
        told("held", (1, 1), (15, 2)),
        told("left after a week", (1, 1), (15, 2), (23, 1)),
        told("away and back", (1, 1), (15, 2), (18, 3), (20, 2)),
        told("too late to know", (1, 1), (38, 2)),
        told("before the window", (1, 1), (5, 2), (6, 1)),
        days=60,
    )
    week, month = (backtest._held(run, FIRST_OF_1970, days) for days in (7, 30))
    assert (week["judged"], week["held"]) == (6 + 1, 6)
    assert (month["judged"], month["held"]) == (6, 4)
    assert week["by_origin"] == {"live": {"judged": 7, "held_share": 6 / 7}}
    assert sum(one["changes"] for one in month["reliability"]) == 6


def test_lasting_changes_and_how_much_later_they_came_are_counted_against_today() -> None:
    today = a_run(told("a", (1, 1), (15, 2)), told("b", (1, 1), (15, 2), (17, 1)))
    slower = a_run(told("a", (1, 1), (19, 2)), told("b", (1, 1)))
    one = backtest._figures("now", {}, today, today, FIRST_OF_1970)
    other = backtest._figures("switch at 20", {"switch_at": 20.0}, slower, today, FIRST_OF_1970)
    assert (one["changes"], one["flaps"], one["lasting"], one["median_days_later"]) == (3, 1, 2, 0)
    assert (other["changes"], other["flaps"], other["lasting"], other["median_days_later"]) == (1, 0, 1, 4)
    assert other["environment"] == {"TIDEMARK_SWITCH_AT": "20"}
    assert one["wallet_months"] == pytest.approx(2)


def test_only_what_flaps_clearly_less_and_keeps_what_lasts_is_proposed() -> None:
    today = figures("today", flaps=10, lasting=100)
    fewer, deaf = figures("fewer", flaps=5, lasting=95), figures("deaf", flaps=0, lasting=50)
    same = figures("same", flaps=10, lasting=101)
    assert backtest.proposal([today, same, deaf]) is None
    assert (backtest.proposal([today, same, deaf, fewer]) or {})["settings"] == "fewer"
    assert backtest.proposal([figures("today", flaps=0, lasting=9), figures("x", flaps=0, lasting=9)]) is None


def test_a_backtest_tries_settings_and_applies_none(found: dict[str, Any]) -> None:
    assert found["changes"] > 0
    assert [each["days"] for each in found["horizons"]] == [7, 30]
    tried = [each["environment"] for each in found["settings"]]
    assert tried[0] == {}
    assert {name for each in tried for name in each} == {"TIDEMARK_SWITCH_AT", "TIDEMARK_EVIDENCE"}
    assert found["settings"][0]["changes"] == found["changes"]
    assert json.dumps(found)


def test_a_more_patient_setting_changes_less_often(found: dict[str, Any]) -> None:
    changes = {each["settings"]: each["changes"] for each in found["settings"]}
    assert changes["switch at 5"] >= changes["today's settings"] >= changes["switch at 40"]


def test_the_report_says_what_held_what_flapped_and_that_nothing_was_applied(
    found: dict[str, Any], report: Path
) -> None:
    text = (report / "report.md").read_text(encoding="utf-8")
    assert text == "\n".join(backtest_report.report(found, "events.ndjson")) + "\n"
    assert "# Backtest of events.ndjson, 2026-01-09 to 2026-01-26" in text
    for picture in ("reliability.png", "settings.png"):
        assert f"({picture})" in text
        assert (report / picture).read_bytes().startswith(b"\x89PNG")
    assert "| today's settings |" in text
    assert f"{found['left']:,} times a wallet was told to have left" in text
    assert sorted(each.name for each in report.iterdir()) == ["reliability.png", "report.md", "settings.png"]
    assert "not applied" in text or "keep today's" in text


def test_for_people_there_are_two_tables_and_the_proposal(found: dict[str, Any]) -> None:
    assert tables.held(found).row_count == 4
    assert tables.tried(found).row_count == len(found["settings"])
    (plan,) = backtest_report.proposed(found | {"proposal": None})[1:]
    assert plan == "keep today's."
    for flaps, why in ((0, "Nothing flapped"), (4, "No setting that was tried flaps clearly less")):
        today = figures("today", flaps=flaps, lasting=9)
        assert backtest_report.proposed({"settings": [today], "proposal": None})[0].startswith(why)


def test_a_proposal_that_rests_on_few_flaps_says_so() -> None:
    for flaps, is_told in ((29, True), (30, False)):
        today, other = (figures(name, flaps=count, lasting=9) for name, count in (("today", flaps), ("other", 0)))
        settings = [each | {"median_days_later": 1.0} for each in (today, other)]
        text = " ".join(backtest_report.proposed({"settings": settings, "proposal": backtest.proposal(settings)}))
        assert "`TIDEMARK_X=other`" in text
        assert (f"But {flaps} flaps are few" in text) == is_told


def remarks(held: float, told: float, judged: int = 30) -> Iterator[str]:
    bins = [{"told": told, "right": held, "changes": judged}]
    horizon = {"days": 7, "judged": judged, "held_share": held, "reliability": bins, "miscalibration": abs(told - held)}
    yield backtest_report._remark(horizon, "held")


def test_confidence_is_told_as_what_it_was() -> None:
    assert next(remarks(0.9, 0.92)) == "After 7 days: it was as sure as it was right."
    assert next(remarks(0.6, 0.9)) == "After 7 days: it was more sure than right (90% told, 60% held)."
    assert next(remarks(0.6, 0.9, 3)).endswith("(90% told, 60% held), but 3 are few.")
    assert "less sure than right" in next(remarks(0.95, 0.5))
    assert "nothing to judge" in backtest_report._remark({"days": 30, "judged": 0}, "held")


def test_a_report_that_cannot_be_written_is_known_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TidemarkError, match="cannot write into"):
        backtest_report.make_folder(tmp_path / "file")


def test_a_report_is_there_when_it_is_whole_and_not_before(tmp_path: Path) -> None:
    backtest_report.make_folder(tmp_path / "report")
    assert list((tmp_path / "report").iterdir()) == []
