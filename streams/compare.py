"""`tidemark compare`: one stream through the product's own step and observe, once with each clusterer, side by side."""

from __future__ import annotations

import json
import math
import time
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import numpy as np

from models.agreement import adjusted_mutual_information, adjusted_rand, simplified_silhouette
from models.clusterers import problem_with
from models.features import row_features
from models.rules import CLUSTERERS, DAY_MS, WINSOR
from models.timeline import flaps, histories, returns, segment_at, segments_at, wallet_months
from streams.errors import TidemarkError, WrongSettings
from streams.replay import Replay
from streams.survey import arrivals_of, no_event, survey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from models.rules import Rules
    from streams.replay import Slot, Told
    from streams.settings import Settings

#: A line for people who wait, at most so often.
TELL_S = 5.0
WEEK_MS = 7 * DAY_MS
#: The figures of one clusterer, in the order in which they are shown; `None`: not known.
FIGURES = (
    "silhouette",
    "ari",
    "ami",
    "changes_per_wallet_month",
    "flaps_per_wallet_month",
    "returns_per_wallet_month",
    "median_delay_days",
    "announced_share",
    "rows_per_second",
    "segments",
    "cpu_seconds",
)
#: Wallet -> (from when, persona), in order of time.
Personas = dict[str, list[tuple[int, str]]]


@dataclass(slots=True)
class Run:
    """One replay to its end. `begin_ms`, `end_ms`: its event time. `learned`: rows. `cpu_seconds`: of this process."""

    replay: Replay
    told: dict[str, list[Told]]
    begin_ms: int
    end_ms: int
    learned: int
    cpu_seconds: float


def chosen(clusterers: str, params: Sequence[str], settings: Settings) -> dict[str, Rules]:
    """The rules of a replay for each of the clusterers named, with commas. `params`: `NAME={…}`, JSON objects.

    The clusterer of the settings has their parameters unless others are given. Raises `WrongSettings` for a name not
    on the list, and for parameters that are none of a clusterer named.
    """
    names = [name.strip() for name in clusterers.split(",")]
    if not all(names):
        raise WrongSettings(
            (f"--clusterers '{clusterers}' has an empty name; these are known: {', '.join(CLUSTERERS)}",)
        )
    if wrong := [name for name in names if name not in CLUSTERERS]:
        raise WrongSettings((f"--clusterers {wrong[0]}: these are known: {', '.join(CLUSTERERS)}",))
    given: dict[str, dict[str, Any]] = {}
    for name, its in map(_parameters, params):
        if name in given:
            raise WrongSettings((f"--params {name}: given twice, write all its parameters as one object",))
        given[name] = its
    if wrong := [name for name in given if name not in names]:
        raise WrongSettings((f"--params {wrong[0]}: it is not among --clusterers {clusterers}",))
    configured = {settings.clusterer: settings.clusterer_params}
    return {name: _rules(name, (configured | given).get(name, {}), settings) for name in dict.fromkeys(names)}


def _parameters(text: str) -> tuple[str, dict[str, Any]]:
    name, _, params = text.partition("=")
    try:
        found = json.loads(params)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise WrongSettings(
            (f'--params {text}: write NAME={{"parameter": value}}, such as river.KMeans={{"n_clusters": 8}}',)
        )
    return name, found


def _rules(name: str, params: dict[str, Any], settings: Settings) -> Rules:
    if problem := problem_with(name, params):
        raise WrongSettings((f"--params {problem}",))
    return settings.model_copy(update={"clusterer": name, "clusterer_params": params}).rules()


def compare(
    file: Path, rules_of: Mapping[str, Rules], personas: Personas | None, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """A row of figures for every clusterer in `rules_of`, in that order. Raises `TidemarkError`."""
    rows: list[dict[str, Any]] = []
    for name, rules in rules_of.items():
        if not rows:  # the step is compiled at its first use: that is no clusterer's time
            next(_slots(file, Replay(rules), math.inf), None)
        run = replayed(file, rules, lambda line, name=name: say(f"{name}: {line}"))  # type: ignore[misc]  # mypy and defaults
        rows.append({"clusterer": name} | judged(run, personas))
    return rows


def replayed(file: Path, rules: Rules, say: Callable[[str], None], until_ms: float = math.inf) -> Run:
    """Replay a file of NDJSON up to a moment. Raises `TidemarkError` for a file that is none or holds no event."""
    replay, changes = Replay(rules), []
    learned, first_ms, end_ms = 0, None, 0
    began_s = time.process_time()
    for slot in told_of(_slots(file, replay, until_ms), say):
        first_ms = slot.ends_ms - replay.slot_ms if first_ms is None else first_ms
        end_ms = slot.ends_ms
        learned += len(slot.learned)
        changes += slot.changes
    if first_ms is None:
        raise no_event(file)
    return Run(replay, histories(changes), first_ms, end_ms, learned, time.process_time() - began_s)


def _slots(file: Path, replay: Replay, until_ms: float) -> Iterator[Slot]:
    with closing(arrivals_of(file)) as records:
        for slot in replay.run(records):
            yield slot
            if slot.ends_ms >= until_ms:
                return


def told_of(slots: Iterator[Slot], say: Callable[[str], None]) -> Iterator[Slot]:
    """The slots, telling now and then how far they are."""
    told_s = time.monotonic()
    for slot in slots:
        yield slot
        if time.monotonic() - told_s >= TELL_S:
            told_s = time.monotonic()
            say(f"replayed to {time.strftime('%Y-%m-%d', time.gmtime(slot.ends_ms / 1000))}")


def personas_of(truth: Path) -> Personas:
    """The personas of a truth file, as `tidemark simulate --truth` writes it. Raises `TidemarkError`."""
    try:
        found = json.loads(truth.read_text(encoding="utf-8"))["personas"]
        personas = {wallet: [(int(at_ms), str(name)) for at_ms, name in spans] for wallet, spans in found.items()}
    except OSError as error:
        raise TidemarkError(f"cannot read {truth}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TidemarkError(f"{truth} is no truth of `tidemark simulate --truth`: it has no personas") from error
    if blank := next((wallet for wallet, spans in personas.items() if not spans), None):
        raise TidemarkError(f"{truth} is no truth of `tidemark simulate --truth`: wallet {blank} has no persona")
    return personas


def personas_in(file: Path, truth: Path, say: Callable[[str], None]) -> Personas:
    """The personas of those wallets of a truth file that are in the file of events. Raises `TidemarkError`.

    Looked at before the work of minutes: another season's truth would agree with nobody, and say nothing.
    """
    personas, wallets = personas_of(truth), survey(file).wallets
    common = {wallet: spans for wallet, spans in personas.items() if wallet in wallets}
    if not common:
        raise TidemarkError(f"{truth} is the truth of another stream: none of its wallets is in {file}")
    if len(common) < max(len(wallets), len(personas)):
        say(
            f"{len(common):,} of the {len(wallets):,} wallets in {file} are in {truth}, which knows {len(personas):,}: "
            "only these are held against it"
        )
    return common


def judged(run: Run, personas: Personas | None) -> dict[str, Any]:
    """The figures of one replay."""
    months = wallet_months(run.told, run.begin_ms, run.end_ms)
    changes = sum(bool(change.left) for each in run.told.values() for change in each)
    learning_s = run.replay.learning_s
    found: dict[str, Any] = {
        "silhouette": silhouette(run.replay),
        "changes_per_wallet_month": changes / months if months else None,
        "flaps_per_wallet_month": len(flaps(run.told)) / months if months else None,
        "returns_per_wallet_month": len(returns(run.told)) / months if months else None,
        "rows_per_second": run.learned / learning_s if learning_s else None,
        "segments": len(run.replay.catalogue.segments),
        "cpu_seconds": run.cpu_seconds,
    }
    found |= against(run, personas) if personas is not None else {}
    return {name: found.get(name) for name in FIGURES}


def silhouette(replay: Replay) -> float | None:
    """Of all wallets with a segment, by their features as they are in the end, scaled by all of these wallets.

    The scale is no clusterer's own, so figures of several can be compared.
    """
    rows = replay.wallets().rows
    rows = rows[rows["segment"] > 0]
    if not len(rows):
        return None
    features = row_features(rows)
    spread = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    labels: NDArray[np.int64] = rows["segment"].astype(np.int64)
    return simplified_silhouette(np.clip(scaled, -WINSOR, WINSOR), labels)


def against(run: Run, personas: Personas) -> dict[str, float | None]:
    """Agreement with the truth, the mean over the ends of the weeks of the second half; and how late changes came."""
    middle_ms = (run.begin_ms + run.end_ms) // 2
    looks = [_labelled(run, personas, at_ms) for at_ms in range(run.end_ms, middle_ms, -WEEK_MS)]
    looks = [(ours, theirs) for ours, theirs in looks if ours]
    waits = delays(run, personas, meanings(looks))
    typical = median(waits) if waits else math.inf
    return {
        "ari": fmean(adjusted_rand(*look) for look in looks) if looks else None,
        "ami": fmean(adjusted_mutual_information(*look) for look in looks) if looks else None,
        "median_delay_days": typical if math.isfinite(typical) else None,
        "announced_share": fmean(math.isfinite(wait) for wait in waits) if waits else None,
    }


def _labelled(run: Run, personas: Personas, at_ms: int) -> tuple[list[int], list[str]]:
    """Segment and persona of every wallet that has both at a moment."""
    segments = segments_at(run.told, at_ms)
    both = [wallet for wallet in segments if wallet in personas]
    return [segments[wallet] for wallet in both], [_persona(personas[wallet], at_ms) for wallet in both]


def _persona(spans: Sequence[tuple[int, str]], at_ms: int) -> str:
    return [name for begin_ms, name in spans if begin_ms <= at_ms or begin_ms == spans[0][0]][-1]


def meanings(looks: Sequence[tuple[list[int], list[str]]]) -> dict[int, str]:
    """What each segment means: the persona that most of its wallets were, over all looks."""
    seen: dict[int, Counter[str]] = defaultdict(Counter)
    for ours, theirs in looks:
        for segment, persona in zip(ours, theirs, strict=True):
            seen[segment][persona] += 1
    return {segment: personas.most_common(1)[0][0] for segment, personas in seen.items()}


def delays(run: Run, personas: Personas, means: Mapping[int, str]) -> list[float]:
    """Days from each true change until the wallet was moved into a segment that means its new persona; inf: never.

    Left out are wallets that had no segment then, or one that means the new persona already.
    """
    waits = []
    for wallet, spans in personas.items():
        changes = run.told.get(wallet, ())
        ends = [*(at_ms for at_ms, _ in spans[2:]), run.end_ms]
        for (at_ms, persona), until_ms in zip(spans[1:], ends, strict=False):
            held = segment_at(changes, at_ms)
            if not held or means.get(held) == persona:
                continue
            later = (change for change in changes if at_ms < change.decided_at_ms <= until_ms)
            found = (change.decided_at_ms for change in later if means.get(change.joined) == persona)
            waits.append((next(found, math.inf) - at_ms) / DAY_MS)
    return waits


def draw(rows: Sequence[dict[str, Any]], source: str, file: Path) -> None:
    """Write the figures as bars."""
    from streams import pictures

    captions = {
        "silhouette": ("silhouette (-1 to 1,\nmore is better)", ".2f"),
        "ari": ("agreement with the truth\n(ARI, 1 is best)", ".2f"),
        "flaps_per_wallet_month": ("flaps a wallet-month\n(less is better)", ".3f"),
        "median_delay_days": ("days until a true change\nis told, median", ".1f"),
        "rows_per_second": ("rows learned a second", ",.0f"),
        "segments": ("segments at the end", "d"),
    }
    # more than half of the true changes were never told: so is their median
    rows = [row | {"median_delay_days": _typical(row)} for row in rows]
    panels = [
        (caption, [row[name] for row in rows], form)
        for name, (caption, form) in captions.items()
        if any(row[name] is not None for row in rows)
    ]
    names = [row["clusterer"] for row in rows]
    pictures.bars(file, pictures.BarsView(f"Clusterers on {source}", names, panels))


def _typical(row: dict[str, Any]) -> float | None:
    never = row["median_delay_days"] is None and row["announced_share"] is not None
    return math.inf if never else row["median_delay_days"]
