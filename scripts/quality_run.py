"""How good are the segments? Seasons replayed through the product's own step and observe, against their truth."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from multiprocessing import get_context
from typing import Any, NamedTuple

from models.rules import Rules
from scripts.quality_judge import Verdict, judge
from scripts.quality_season import JUDGING, SMALL, TUNING, USUAL, Size, plan_of, season_of
from scripts.quality_speed import speeds
from scripts.quality_table import GOALS, Figures, figures, of_one, reliability, turns
from scripts.words import at_least, names_of

PARTS = ("ari", "changes", "speed")
#: What is always there, null where it was not measured.
KEYS = (
    "ari_ratio", "needless_changes_per_wallet_month", "recalibrations_per_wallet_month", "median_delay_days",
    "dormancy_delay_days", "learn_predict_rows_per_second", "place_rows_per_second", "snapshot_kb", "id_replacements",
    "refit_ms", "confidence_error", "left_calibration", "id_replacements_worst",
)  # fmt: skip


class Task(NamedTuple):
    """One season to be judged."""

    seed: int
    size: Size
    set: tuple[tuple[str, str], ...]
    offline: bool


def main() -> None:
    """Judge what was asked for and print it."""
    given = parse()
    began = time.monotonic()
    found: Figures = dict.fromkeys(KEYS)
    found |= {"seeds": {"tuning": TUNING, "judging": JUDGING, "these": given.seeds}, "set": dict(given.set)}
    found["size"] = dataclasses.asdict(given.size)
    if {"ari", "changes"} & {*given.parts}:
        found |= judged(given)
    if "speed" in given.parts:
        say("rows a second …")
        found |= speeds(given.rows)
    found["goals"] = {goal.what: told(goal, found) for goal in GOALS if goal.part in given.parts}
    found["at"], found["seconds"] = f"{datetime.now(UTC):%F %R}Z", round(time.monotonic() - began, 1)
    print(json.dumps(found)) if given.json else show(found)


def judged(given: argparse.Namespace) -> Figures:
    """All seasons, put together and one by one."""
    tasks = [Task(seed, given.size, tuple(given.set), "ari" in given.parts) for seed in given.seeds]
    verdicts = []
    for number, verdict in enumerate(verdicts_of(tasks, given.jobs), 1):
        verdicts.append(verdict)
        one = of_one(verdict)
        say(
            f"{number}/{len(tasks)} seed {verdict.seed}: ARI {one['ari']} ({one['ari_offline']} offline), needless "
            f"{one['needless_changes_per_wallet_month']}, recalibrations {one['recalibrations_per_wallet_month']}, "
            f"delay {one['median_delay_days']['all']} / {one['median_delay_days']['activations']} d, "
            f"{verdict.segments} segments, {verdict.seconds} s"
        )
    beliefs = [belief for verdict in verdicts for belief in verdict.beliefs]
    return {
        **figures(verdicts),
        "reliability": reliability(beliefs),
        "delays_by_turn": turns(verdicts),
        "by_seed": [of_one(verdict) for verdict in verdicts],
    }


def verdicts_of(tasks: Sequence[Task], jobs: int) -> Iterator[Verdict]:
    """In order; several at a time if wanted."""
    if jobs == 1:
        yield from map(verdict_of, tasks)
        return
    with get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(verdict_of, tasks)


def verdict_of(task: Task) -> Verdict:
    """One season made or found, and judged."""
    rules = with_settings(Rules(), task.set)
    verdict = judge(season_of(plan_of(task.seed, task.size)), rules, offline=task.offline)
    verdict.seed = task.seed
    return verdict


def with_settings(rules: Rules, settings: Sequence[tuple[str, str]]) -> Rules:
    """Rules with other values; a name with dots is a number in a module, which is changed there."""
    for name, text in settings:
        owner, constant = place_of(name, rules)
        value = like(getattr(owner, constant), text)
        if owner is rules:
            rules = dataclasses.replace(rules, **{constant: value})
        else:
            setattr(owner, constant, value)
    return rules


def place_of(name: str, rules: Rules) -> tuple[Any, str]:
    """The rules or the module that a name is about, and what it is called there."""
    module, dot, constant = name.rpartition(".")
    return importlib.import_module(module) if dot else rules, constant


def like(example: Any, text: str) -> Any:
    """A text as a value of the same type."""
    if isinstance(example, bool):
        return text.lower() in ("1", "true", "yes")
    return type(example)(text)


def told(goal: Any, found: Figures) -> Figures:
    """A row of the table."""
    limit = {"at_least" if goal.at_least else "at_most": goal.limit}
    worst = {"worst": found.get(goal.worst)} if goal.worst else {}
    return {"figure": goal.of(found), **worst, **limit, "stretch": goal.stretch, "met": goal.is_met(found)}


def show(found: Figures) -> None:
    """The table for people."""
    these = found["seeds"]["these"]
    kind = "judging" if {*these} <= {*JUDGING} else "tuning" if {*these} <= {*TUNING} else "other"
    print(f"seeds {', '.join(map(str, these))} ({kind}; parameters were chosen by {TUNING[0]} to {TUNING[-1]})")
    if (size := found["size"]) != dataclasses.asdict(USUAL):
        print(f"{size['wallets']:,} wallets, {size['days']:,} days: a first look; the goals are for seasons as usual")
    for what, row in found["goals"].items():
        sign, limit = ("≥", row["at_least"]) if "at_least" in row else ("≤", row["at_most"])
        stretch = f", stretch {row['stretch']:g}" if row["stretch"] else ""
        figure = "none" if row["figure"] is None else f"{row['figure']:,}"
        worst = "" if row.get("worst") is None else f", worst season {row['worst']:,}"
        print(f"{'met   ' if row['met'] else 'MISSED'} {what:54} {figure:>12}   {sign} {limit:,}{stretch}{worst}")
    away = found.get("left_calibration") or {}
    for silence, some in {"all": away, **away.get("by_silence", {})}.items() if away else ():
        what = f"left, silent before for less than {silence}" if silence.endswith("days") else f"left, {silence}"
        print(
            f"       {what:54} {some['right']:>12}   right, {some['confidence']} told, "
            f"{some['stayed_away']} stayed away, {some['changes']:,}"
        )
    crash = found.get("crash_moves") or {}
    for what, some in {"all wallets": crash, "quiet in truth": crash["needless"]}.items() if crash else ():
        print(
            f"       {f'moves on the day of a crash and the next, {what}':54} {some['moves']:>12}   "
            f"{some['expected']} expected, p {some['chance']}"
        )
    for name in ("births", "false_dormancies_per_wallet_month", "median_delay_days"):
        if found.get(name) is not None:
            print(f"       {name.replace('_', ' '):54} {found[name]}")
    print(f"       took {found['seconds']} s")


def say(text: str) -> None:
    """Progress, for people."""
    print(text, file=sys.stderr, flush=True)


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The command line; `parts`, `size` and `seeds` are what they come to."""
    parser = argparse.ArgumentParser(
        prog="scripts/quality", formatter_class=argparse.RawDescriptionHelpFormatter, description=DESCRIPTION
    )
    add = parser.add_argument
    add(
        "--quick",
        action="store_true",
        help="under 90 s: two seeds, 400 wallets, 100 days: rough, only for a first look",
    )
    add("--json", action="store_true", help="one JSON object on stdout; what was not measured is null")
    add("--seeds", type=seeds, metavar="N,…", help="these seeds, as in 1-6 or 1,3 (default 101-106)")
    add(
        "--only",
        type=names_of(PARTS),
        default=list(PARTS),
        metavar="NAME,…",
        help=f"these parts only: {', '.join(PARTS)}",
    )
    add("--set", type=setting, action="append", default=[], metavar="NAME=VALUE", help="a rule, or a module's number")
    add("--jobs", type=at_least(1), default=1, help="seasons at a time (%(default)s)")
    add("--wallets", type=at_least(1), help=f"wallets of a season ({USUAL.wallets})")
    add("--days", type=at_least(1), help=f"days of a season ({USUAL.days})")
    given = parser.parse_args(words)
    size = SMALL if given.quick else USUAL
    given.size = Size(given.wallets or size.wallets, given.days or size.days)
    given.seeds = given.seeds or list(JUDGING[:2] if given.quick else JUDGING)
    given.parts, given.rows = given.only, 60_000 if given.quick else 200_000
    return given


def seeds(text: str) -> list[int]:
    """Seeds and ranges of seeds."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        some = range(int(first), int(last if dash else first) + 1)
        if not some:
            raise argparse.ArgumentTypeError(f"{part} holds no seed")
        found += some
    return found


def setting(text: str) -> tuple[str, str]:
    """`switch_at=8`, or `models.observe.HALF_LIFE_DAYS=20`."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("write NAME=VALUE, as in switch_at=8")
    name = name.removeprefix("TIDEMARK_")
    name = name if "." in name else name.lower()
    try:
        like(getattr(*place_of(name, Rules())), value)
    except (ImportError, AttributeError, ValueError, TypeError) as problem:
        raise argparse.ArgumentTypeError(f"{text}: no such rule or number, or none it can be ({problem})") from problem
    return name, value


DESCRIPTION = f"""\
How good the segments are. Simulated seasons go through the product's own step and observe (in this process, without
Kafka) and what was announced is held against who the wallets really were. Each seed is a season with habits, drift and
a crash of its own; in all of them a deadline, wallets that change their ways and wallets that stop, in every third a
persona that appears in mid-season. Parameters were chosen by seeds {TUNING[0]} to {TUNING[-1]};
{JUDGING[0]} to {JUDGING[-1]} judge.

parts:
  ari      segments against the truth, beside an offline refit on the same rows (scikit-learn's mixture with diagonal
           variances, which is told the number of personas)
  changes  needless changes, recalibrations, delays, dormancy, confidence, ids; snapshot and refit
  speed    rows a second of the clusterer and of a catalogue alone

needless    moves of wallets with nothing changed in truth, from day 30 on and not within 45 days of a true change
delay       from the true change to a change into the segment most of whose wallets are what this one became;
            never within 45 days: longer than any. Activation: the new way has half as many transactions again, or
            more leverage
dormancy    of wallets with a transaction a day or more: from the last one to the change with lifecycle dormant
left        how many of the wallets told to have left had gone quiet in truth (right: stopped, or of the persona that
            acts once in weeks), beside the confidence announced; stayed away: did nothing for 14 days after

crash       moves on the day of the crash and the next, what the other days let expect, and the Poisson probability (p)
            of so many or more: of all wallets, and of those with nothing changed in truth

examples:
  scripts/quality --quick
  scripts/quality --seeds 1-6 --only ari,changes --jobs 2 --set switch_at=8
  scripts/quality --seeds 1 --only changes --set models.observe.HALF_LIFE_DAYS=20
  scripts/quality --json > figures.json
"""

if __name__ == "__main__":
    main()
