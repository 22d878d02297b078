"""Verdicts put together: the figures, the goals, and whether they are met."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean, median
from typing import Any, NamedTuple

import numpy as np

from scripts.quality_crash import crash_figures
from scripts.quality_judge import ANSWER_DAYS, Absence, Verdict, typical

Figures = dict[str, Any]
#: Bins of announced confidence in which it is compared with how often it was right.
BINS = 10
#: Silences before a `left`, days, by which those are told apart who came back.
SILENCES = (4, 8, 16, 32, float("inf"))


class Goal(NamedTuple):
    """One row of the table. `of` finds the figure; None: there is none, and the goal is missed.

    `part`: of the harness, that measures it. `worst`: the key of the worst season's figure, to stand beside the mean.
    """

    what: str
    part: str
    of: Callable[[Figures], float | None]
    limit: float
    at_least: bool
    stretch: float | None = None
    worst: str | None = None

    def is_met(self, found: Figures) -> bool:
        figure = self.of(found)
        return figure is not None and (figure >= self.limit if self.at_least else figure <= self.limit)


def named(*path: str) -> Callable[[Figures], float | None]:
    """The figure at this path."""

    def find(found: Figures) -> float | None:
        for name in path[:-1]:
            found = found.get(name) or {}
        figure: float | None = found.get(path[-1])
        return figure

    return find


GOALS = (
    Goal("ARI / offline diagonal GMM refit on the same rows", "ari", named("ari_ratio"), 0.97, True, 1.05),
    Goal("needless changes per quiet wallet-month", "changes", named("needless_changes_per_wallet_month"), 0.10, False),
    Goal("recalibrations per quiet wallet-month", "changes", named("recalibrations_per_wallet_month"), 0.05, False),
    Goal("median days until a true change is announced", "changes", named("median_delay_days", "all"), 14, False, 7),
    Goal("the same, activations", "changes", named("median_delay_days", "activations"), 10, False, 2),
    Goal("days until a frequent trader that stops is dormant", "changes", named("dormancy_delay_days"), 3, False),
    Goal("confidence against how often it was right (ECE)", "changes", named("confidence_error"), 0.05, False),
    Goal("confidence of `left` against who has gone quiet", "changes", named("left_calibration", "error"), 0.05, False),
    Goal("learn + predict, rows/s", "speed", named("learn_predict_rows_per_second"), 300_000, True),
    Goal("the same, drifting stream", "speed", named("learn_predict_drifting_rows_per_second"), 100_000, True),
    Goal("place, rows/s", "speed", named("place_rows_per_second"), 4_000_000, True),
    Goal("refit, ms", "changes", named("refit_ms"), 50, False),
    Goal("snapshot, kB", "changes", named("snapshot_kb"), 100, False),
    Goal(
        "ids replaced in 150 days of refits",
        "changes",
        named("id_replacements"),
        1,
        False,
        worst="id_replacements_worst",
    ),
)


def figures(verdicts: Sequence[Verdict]) -> Figures:
    """What seasons came to, put together: rates over all wallet-months, medians over all wallets, ARI by season."""
    months = sum(v.quiet_months for v in verdicts) or float("nan")
    ratios = [ratio for v in verdicts if (ratio := ari_ratio(v)) is not None]
    beliefs = [belief for v in verdicts for belief in v.beliefs]
    activations = [days for v in verdicts for days, activation in v.delays if activation]
    return {
        "ari_ratio": round(mean(ratios), 4) if ratios else None,
        "needless_changes_per_wallet_month": rounded(sum(v.needless for v in verdicts) / months),
        "needless_within_a_persona": rounded(sum(v.needless_within for v in verdicts) / months),
        "recalibrations_per_wallet_month": rounded(sum(v.recalibrated for v in verdicts) / months),
        "median_delay_days": {
            "all": typical([days for v in verdicts for days, _ in v.delays]),
            "activations": typical(activations),
            "until_any_change": typical([days for v in verdicts for days in v.first_delays]),
            "answered": answered([days for v in verdicts for days, _ in v.delays]),
            "answered_activations": answered(activations),
        },
        "dormancy_delay_days": typical([days for v in verdicts for days in v.dormancies]),
        "false_dormancies_per_wallet_month": rounded(sum(v.left_needlessly for v in verdicts) / months),
        "confidence_error": calibration_error(beliefs),
        "snapshot_kb": round(max(v.snapshot_bytes for v in verdicts) / 1000, 1),
        "refit_ms": round(median(ms for v in verdicts for ms in v.refits_ms), 1),
        "left_calibration": left_calibration([absence for v in verdicts for absence in v.absences]),
        "id_replacements": round(mean(v.id_replacements for v in verdicts), 2),
        "id_replacements_worst": max(v.id_replacements for v in verdicts),
        "births": round(mean(v.births for v in verdicts), 2),
        "crash_moves": crash_figures([v.crash for v in verdicts]),
    }


def turns(verdicts: Sequence[Verdict]) -> Figures:
    """The delays of each kind of true change, the most frequent first."""
    found: dict[str, list[float]] = {}
    for verdict in verdicts:
        for turn, delays in verdict.by_turn.items():
            found.setdefault(turn, []).extend(delays)
    ordered = sorted(found.items(), key=lambda pair: -len(pair[1]))
    return {
        turn: {"changes": len(delays), "median_days": typical(delays), "answered": answered(delays)}
        for turn, delays in ordered
    }


def of_one(verdict: Verdict) -> Figures:
    """The figures of one season, with what only it can tell."""
    aris = np.array(verdict.aris).reshape(-1, 2)
    return figures([verdict]) | {
        "seed": verdict.seed,
        "events": verdict.events,
        "seconds": verdict.seconds,
        "ari": rounded(float(aris[:, 0].mean())) if len(aris) else None,
        "ari_offline": rounded(float(aris[:, 1].mean())) if len(aris) else None,
        "quiet_wallet_months": round(verdict.quiet_months),
        "true_changes": len(verdict.delays),
        "stopped": len(verdict.dormancies),
        "segments": verdict.segments,
        "names": verdict.names,
        "born": verdict.birth,
    }


def ari_ratio(verdict: Verdict) -> float | None:
    """Our mean ARI over the offline refits' mean, None without any."""
    if not verdict.aris:
        return None
    ours, theirs = np.array(verdict.aris).mean(axis=0)
    return float(ours / theirs)


def answered(delays: Sequence[float]) -> float | None:
    """The share of true changes that were announced in time."""
    return rounded(mean(days < ANSWER_DAYS for days in delays)) if delays else None


def calibration_error(beliefs: Sequence[tuple[float, bool]]) -> float | None:
    """How far confidence is from how often it was right: the mean over bins of equal width, by their changes."""
    if not beliefs:
        return None
    told, right = np.array(beliefs, np.float64).T
    bins = np.minimum((told * BINS).astype(int), BINS - 1)
    gaps = [abs(told[bins == b].sum() - right[bins == b].sum()) for b in range(BINS)]
    return round(float(sum(gaps)) / len(told), 4)


def reliability(beliefs: Sequence[tuple[float, bool]]) -> list[Figures]:
    """For each bin how many changes it has, their mean confidence, and the share that was right."""
    told, right = np.array(beliefs, np.float64).reshape(-1, 2).T
    bins = np.minimum((told * BINS).astype(int), BINS - 1)
    return [
        {
            "changes": int((bins == b).sum()),
            "confidence": rounded(float(told[bins == b].mean())),
            "right": rounded(float(right[bins == b].mean())),
        }
        for b in range(BINS)
        if (bins == b).any()
    ]


def left_calibration(absences: Sequence[Absence]) -> Figures | None:
    """Announced confidence of `left` against the share that had gone quiet in truth; None without any.

    `right`: that share. `stayed_away`: the share that did nothing for two weeks after. `by_silence`: by how long a
    wallet had been silent. `error`: over bins of confidence, as of changes into segments.
    """
    if not absences:
        return None
    beliefs = [(each.told, each.right) for each in absences]
    found = _absent(absences) | {"error": calibration_error(beliefs), "by_silence": {}}
    least = 0.0
    for most in SILENCES:
        some = [each for each in absences if least <= each.silent_days < most]
        if some:
            found["by_silence"]["longer" if np.isinf(most) else f"{most:g} days"] = _absent(some)
        least = most
    return found


def _absent(absences: Sequence[Absence]) -> Figures:
    return {
        "changes": len(absences),
        "confidence": rounded(mean(each.told for each in absences)),
        "right": rounded(mean(each.right for each in absences)),
        "stayed_away": rounded(mean(each.stayed for each in absences)),
    }


def rounded(figure: float) -> float | None:
    """To four places; None for no number."""
    return None if np.isnan(figure) else round(float(figure), 4)
