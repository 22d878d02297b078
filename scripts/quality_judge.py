"""One season through the product's own step and observe, judged against its truth."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from models.features import row_features
from models.rules import DAY_MS, Rules
from models.segments import Catalogue
from scripts.quality_crash import Crash, crash_of, is_in
from scripts.quality_offline import refit_offline
from scripts.quality_season import Season
from streams.market import PAYER, SILENT
from streams.replay import Replay, Slot, Told

#: Days until wallets and segments count as settled: nothing earlier is judged but the births.
SETTLED_DAYS = 30
#: A change answers a true one within so many days; so long after a true one no change is called needless.
ANSWER_DAYS = 45
#: Days between two looks at all wallets, and at how many of them the offline refit is made.
LOOK_DAYS, REFITS = 5, 8
#: A frequent trader has at least one transaction a day over this many days.
FREQUENT_DAYS = 30
MONTH_DAYS = 30
#: Who is told to have left has stayed away if it does nothing for so long after.
AWAY_DAYS = 14


class Absence(NamedTuple):
    """One `left` with time to be judged: confidence, whether it was true, what came after, and the silence before.

    `right`: the wallet has stopped or is of the persona that hardly acts. `stayed`: it did nothing for `AWAY_DAYS`.
    """

    told: float
    right: bool
    stayed: bool
    silent_days: float


@dataclass(slots=True)
class Verdict:
    """What one season came to; the pools of several are put together.

    `aris`: (ours, offline) at each refit. `needless`, `recalibrated`: changes of wallets with nothing changed in
    truth, over `quiet_months` wallet-months; `needless_within`: between two segments that mean the same persona.
    `delays`: (days, activation?) of each true change, inf if never answered; `first_delays`: until any change;
    `by_turn`: the delays by persona before and after. `dormancies`: days, inf if never told. `beliefs`: (confidence,
    right?) of each announced change into a segment; `absences`: of each out of all. `crash`: moves in its days.
    """

    seed: int
    events: int = 0
    seconds: float = 0.0
    aris: list[tuple[float, float]] = field(default_factory=list)
    needless: int = 0
    needless_within: int = 0
    recalibrated: int = 0
    left_needlessly: int = 0
    quiet_months: float = 0.0
    delays: list[tuple[float, bool]] = field(default_factory=list)
    first_delays: list[float] = field(default_factory=list)
    by_turn: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    dormancies: list[float] = field(default_factory=list)
    beliefs: list[tuple[float, bool]] = field(default_factory=list)
    absences: list[Absence] = field(default_factory=list)
    segments: int = 0
    births: int = 0
    id_replacements: int = 0
    crash: Crash = field(default_factory=Crash)
    snapshot_bytes: int = 0
    refits_ms: list[float] = field(default_factory=list)
    birth: dict[str, object] | None = None
    names: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Look:
    """All wallets at one moment: ids, the segment of each (0 none), what each is in truth."""

    at_ms: int
    wallets: list[str]
    segments: NDArray[np.int64]
    truth: list[str]


def judge(season: Season, rules: Rules, *, offline: bool) -> Verdict:
    """The season replayed and judged. `offline`: whether to make the offline refits, too."""
    began = time.process_time()
    verdict = Verdict(seed=0, events=len(season.times))
    replay = Replay(rules)
    trial = Trial(season, replay, verdict, offline=offline)
    for slot in replay.run(season.records()):
        trial.see(slot)
    trial.conclude()
    verdict.seconds = round(time.process_time() - began, 1)
    return verdict


class Trial:
    """What is seen of one season while it is replayed, and then the verdict."""

    def __init__(self, season: Season, replay: Replay, verdict: Verdict, *, offline: bool) -> None:
        self.season, self.replay, self.verdict = season, replay, verdict
        self.looks: list[Look] = []
        self.changes: list[Told] = []
        self.catalogues: list[tuple[int, Catalogue]] = []
        self._next_look_ms = season.begins_ms + SETTLED_DAYS * DAY_MS
        late = range(SETTLED_DAYS + 10, season.days + 1, max(LOOK_DAYS, (season.days - SETTLED_DAYS - 10) // REFITS))
        self._refit_at = [season.begins_ms + day * DAY_MS for day in late] if offline else []

    def see(self, slot: Slot) -> None:
        """Between two slots."""
        self.changes += slot.changes
        if not self.catalogues or self.catalogues[-1][1].version != slot.catalogue.version:
            self.catalogues.append((slot.ends_ms, slot.catalogue))
        if slot.ends_ms >= self._next_look_ms:
            self._next_look_ms += LOOK_DAYS * DAY_MS
            self._look(slot.ends_ms)

    def _look(self, at_ms: int) -> None:
        wallets, catalogue = self.replay.wallets(), self.replay.catalogue
        heirs = {number: catalogue.successor(number) or number for number in set(wallets.rows["segment"].tolist())}
        segments = np.array([heirs[number] for number in wallets.rows["segment"].tolist()])
        ids = [key.decode() for key in wallets.keys]
        look = Look(at_ms, ids, segments, [self.season.persona(wallet, at_ms) for wallet in ids])
        self.looks.append(look)
        self.verdict.snapshot_bytes = max(self.verdict.snapshot_bytes, len(self.replay.overview.snapshot()))
        if self._refit_at and at_ms >= self._refit_at[0]:
            self._refit_at.pop(0)
            self._compare(look, wallets.rows, catalogue)

    def _compare(self, look: Look, rows: NDArray[np.void], catalogue: Catalogue) -> None:
        """Our segments and the offline refit's, of the same wallets at the same moment, against the truth."""
        alive = np.array([persona != SILENT for persona in look.truth]) & (look.segments > 0)
        if not alive.any():
            return
        chosen = rows[alive]
        chosen["last_at_ms"] = look.at_ms  # what they are like now, not at their last transaction
        features = row_features(chosen)
        truth = np.array(look.truth)[alive]
        theirs = refit_offline(catalogue.scale(features), truth)
        ours = adjusted_rand_score(truth, look.segments[alive])
        self.verdict.aris.append((float(ours), float(adjusted_rand_score(truth, theirs))))

    # ------------------------------------------------------------------ the verdict

    def conclude(self) -> None:
        """Once the season is over."""
        self.means = majorities(self.looks)
        self.by_wallet: dict[str, list[Told]] = defaultdict(list)
        for change in self.changes:
            self.by_wallet[change.wallet].append(change)
        self._count_needless()
        self._time_answers()
        self._time_dormancies()
        self._follow_ids()
        self._watch_crash()
        self._time_refits()
        verdict = self.verdict
        verdict.beliefs = [(told.confidence, self._is_right(told)) for told in self.changes if told.joined]
        verdict.absences = list(self._absences())

    def _absences(self) -> Iterator[Absence]:
        """What became of wallets told to have left: by what they did, whatever was announced of it."""
        season = self.season
        for told in self.changes:
            until_ms = told.decided_at_ms + AWAY_DAYS * DAY_MS
            if told.status == "left" and self._settled(told) and until_ms <= season.ends_ms:
                last_ms, _ = season.last_seen(told.wallet, told.decided_at_ms, AWAY_DAYS)
                stayed = season.last_seen(told.wallet, until_ms, AWAY_DAYS)[0] == last_ms
                yield Absence(told.confidence, self._is_idle(told), stayed, (told.decided_at_ms - last_ms) / DAY_MS)

    def _is_right(self, told: Told) -> bool:
        return self.means.get(told.joined) == self.season.manner(told.wallet, told.decided_at_ms)

    def _is_idle(self, told: Told) -> bool:
        return self.season.persona(told.wallet, told.decided_at_ms) in (SILENT, "dormant")

    def _settled(self, told: Told) -> bool:
        return told.decided_at_ms >= self.season.begins_ms + SETTLED_DAYS * DAY_MS

    def _count_needless(self) -> None:
        season, verdict = self.season, self.verdict
        settled_ms = season.begins_ms + SETTLED_DAYS * DAY_MS
        self.quiet: dict[str, list[tuple[int, int]]] = {}
        for wallet, changes in self.by_wallet.items():
            quiet = list(quiet_spans(season, wallet, max(settled_ms, changes[0].decided_at_ms)))
            self.quiet[wallet] = quiet
            verdict.quiet_months += sum(end - begin for begin, end in quiet) / DAY_MS / MONTH_DAYS
            for told in changes:
                if is_in(told, quiet):
                    moved = told.status == "moved"
                    live = moved and told.origin != "recalibration"
                    verdict.needless += live
                    verdict.needless_within += live and self.means.get(told.left) == self.means.get(told.joined)
                    verdict.recalibrated += moved and told.origin == "recalibration"
                    verdict.left_needlessly += told.status == "left" and not self._is_idle(told)

    def _time_answers(self) -> None:
        """How long true changes wait for their announcement."""
        season = self.season
        for wallet, story in season.story.items():
            for (_, before), (at_ms, after) in pairwise(story):
                if after == SILENT or not self._can_be_judged(wallet, at_ms):
                    continue
                changes = self.by_wallet[wallet]
                place = bisect_right(changes, at_ms, key=lambda told: told.decided_at_ms)
                if place == 0 or self.means.get(changes[place - 1].joined) == after:
                    continue  # without a segment, or in the right one already: nothing has to be announced
                later = [told for told in changes[place:] if told.decided_at_ms < at_ms + ANSWER_DAYS * DAY_MS]
                right = [told for told in later if self._answers(told, after)]
                self.verdict.delays.append((_wait(at_ms, right), season.is_activation(before, after)))
                self.verdict.by_turn[f"{before} > {after}"].append(_wait(at_ms, right))
                self.verdict.first_delays.append(_wait(at_ms, later))

    def _answers(self, told: Told, after: str) -> bool:
        return self.means.get(told.joined) == after or (after == "dormant" and told.lifecycle == "dormant")

    def _can_be_judged(self, wallet: str, at_ms: int) -> bool:
        """A settled change with time to be answered, and nothing else true happening in it."""
        season, reach = self.season, ANSWER_DAYS * DAY_MS
        others = [at for at, _ in season.story[wallet][1:] if at != at_ms]
        settled = at_ms >= season.begins_ms + (SETTLED_DAYS + 5) * DAY_MS
        return settled and at_ms + reach <= season.ends_ms and all(abs(at - at_ms) >= reach for at in others)

    def _time_dormancies(self) -> None:
        """How long after its last event a frequent trader is told to be dormant."""
        season = self.season
        for wallet, story in season.story.items():
            at_ms, persona = story[-1]
            last_ms, many = season.last_seen(wallet, season.ends_ms, FREQUENT_DAYS)
            late = at_ms + ANSWER_DAYS * DAY_MS > season.ends_ms or at_ms < season.begins_ms + FREQUENT_DAYS * DAY_MS
            if persona != SILENT or late or many < FREQUENT_DAYS or wallet not in self.by_wallet:
                continue
            dormant = [told for told in self.by_wallet[wallet] if told.lifecycle == "dormant"]
            self.verdict.dormancies.append(_wait(last_ms, [told for told in dormant if told.decided_at_ms >= last_ms]))

    def _follow_ids(self) -> None:
        """Ids that ended after the segments had settled; no persona ever ends, so none should."""
        settled_ms = self.season.begins_ms + SETTLED_DAYS * DAY_MS
        known: set[int] = set()
        for at_ms, catalogue in self.catalogues:
            numbers = {segment.number for segment in catalogue.segments}
            if at_ms > settled_ms:
                self.verdict.births += len(numbers - known)
                self.verdict.id_replacements += len(known - numbers)
            known = numbers if at_ms <= settled_ms else known | numbers
            known &= numbers
        catalogue = self.replay.catalogue
        self.verdict.segments = len(catalogue.segments)
        self.verdict.names = {s.name: self.means.get(s.number, "") for s in catalogue.segments}
        if any(story[0][1] == PAYER.name for story in self.season.story.values()):
            self.verdict.birth = self._birth()

    def _birth(self) -> dict[str, object]:
        """What became of the persona that appeared in mid-season: its segments, and those that nobody was in before."""
        mine = [number for number, persona in self.means.items() if persona == PAYER.name]
        begins_ms = min(story[0][0] for story in self.season.story.values() if story[0][1] == PAYER.name)
        first_ms = [next((at_ms for at_ms, c in self.catalogues if c.column_of(n) >= 0), begins_ms) for n in mine]
        new = [at_ms for at_ms in first_ms if at_ms >= begins_ms]
        return {
            "segments": len(mine),
            "new": len(new),
            "days": round((min(new) - begins_ms) / DAY_MS, 1) if new else None,
            "kept": len(mine) == 1 and self.replay.catalogue.column_of(mine[0]) >= 0,
        }

    def _watch_crash(self) -> None:
        """What it did to wallets, those with nothing changed in truth beside all."""
        moves = [told for told in self.changes if told.status == "moved" and self._settled(told)]
        days = self.season.days - SETTLED_DAYS
        self.verdict.crash = crash_of(moves, self.quiet, self.season.crash_ms, days)

    def _time_refits(self) -> None:
        for _ in range(5):
            model = deepcopy(self.replay.overview.model)
            began = time.process_time()
            model.refit()
            self.verdict.refits_ms.append((time.process_time() - began) * 1000)


def majorities(looks: list[Look]) -> dict[int, str]:
    """What most wallets of each segment are, over all looks."""
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    for look in looks:
        for segment, persona in zip(look.segments.tolist(), look.truth, strict=True):
            if segment and persona != SILENT:
                counts[segment][persona] += 1
    return {segment: count.most_common(1)[0][0] for segment, count in counts.items()}


def quiet_spans(season: Season, wallet: str, begin_ms: int) -> Iterator[tuple[int, int]]:
    """When nothing has changed in truth, from a moment on: not within the time that a change has to be answered."""
    changes = [at_ms for at_ms, _ in season.story[wallet][1:]]
    begins = [begin_ms, *(max(begin_ms, at_ms + ANSWER_DAYS * DAY_MS) for at_ms in changes)]
    for begin, end in zip(begins, [*changes, season.ends_ms], strict=True):
        if begin < end:
            yield begin, end


def _wait(since_ms: int, answers: list[Told]) -> float:
    """Days until the first answer, inf for none."""
    return (answers[0].decided_at_ms - since_ms) / DAY_MS if answers else float("inf")


def typical(days: list[float]) -> float | None:
    """The median, in which one never answered is longer than all; None if that is the median, or nothing is there."""
    middle = median(days) if days else float("inf")
    return None if np.isinf(middle) or np.isnan(middle) else round(middle, 2)
