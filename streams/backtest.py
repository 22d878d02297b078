"""`tidemark backtest`: would the changes of a past window have held, was their confidence right, what would flap less.

History is walked forward: a change is decided with what was known when it was, as on a live stream, and judged by what
came after. Nothing is applied: settings are proposed, with what they would have cost.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from statistics import median
from typing import TYPE_CHECKING, Any

from models.rules import DAY_MS
from models.timeline import (
    FLAP_MS,
    departures,
    flaps,
    held,
    miscalibration,
    moves,
    reliability,
    returns,
    stayed_away,
    wallet_months,
)
from streams.compare import Run, replayed
from streams.errors import TidemarkError
from streams.settings import within_bounds
from streams.survey import survey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from models.rules import Rules
    from streams.replay import Told

#: A change is judged by where its wallet is so many days later.
HORIZONS = (7, 30)
#: A setting is proposed if it flaps at most this share of today's flaps, and keeps this share of the changes that last.
FEWER_FLAPS, KEEPS = 0.9, 0.9
TODAY = "today's settings"
#: A date as it is written here; Python takes weeks and dates without dashes for dates, too.
WRITTEN = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Window:
    """Days from the first to the last, both included, UTC. Raises ValueError, one line."""

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise ValueError(f"--to {self.last} is before --from {self.first}: the window needs at least one day")

    @property
    def begin_ms(self) -> int:
        return _midnight_ms(self.first)

    @property
    def end_ms(self) -> int:
        return _midnight_ms(self.last) + DAY_MS


def window(first: str, last: str) -> Window:
    """The window of two dates as text. Raises ValueError, one line that says which is wrong."""
    days = []
    for option, text in (("--from", first), ("--to", last)):
        try:
            days.append(date.fromisoformat(text if WRITTEN.fullmatch(text) else ""))
        except ValueError:
            raise ValueError(f"{option} {text}: a date is written YYYY-MM-DD, such as 2026-03-01") from None
    return Window(*days)


def backtest(file: Path, window: Window, rules: Rules, say: Callable[[str], None]) -> dict[str, Any]:
    """What happened in the window with `rules`, and what would have with each of a few others; for `--json`.

    Raises `TidemarkError` where the file has no events in the window, or nothing changed in it.
    """
    refuse_elsewhere(file, window)
    until_ms = window.end_ms + (max(HORIZONS) + 1) * DAY_MS
    today = replayed(file, rules, lambda line: say(f"{TODAY}: {line}"), until_ms)
    refuse_unchanged(file, window, today)
    settings = [_figures(TODAY, {}, today, today, window)]
    for changed in variants(rules):
        name = ", ".join(_setting(field, value) for field, value in changed.items())
        other = replayed(file, replace(rules, **changed), lambda line, name=name: say(f"{name}: {line}"), until_ms)  # type: ignore[misc]  # mypy and defaults
        settings.append(_figures(name, changed, other, today, window))
    return {
        "from": str(window.first),
        "to": str(window.last),
        "changes": len(moves(today.told, window.begin_ms, window.end_ms)),
        "horizons": [_held(today, window, days) for days in HORIZONS],
        "left": len(departures(today.told, window.begin_ms, window.end_ms)),
        "absences": [_absent(today, window, days) for days in HORIZONS],
        "settings": settings,
        "proposal": proposal(settings),
    }


def variants(rules: Rules) -> Iterator[dict[str, Any]]:
    """What is tried: each setting for itself, more and less of it, as far as its bounds allow."""
    for field, factors in (("switch_at", (0.5, 2, 4)), ("evidence", (0.5, 2))):
        today = getattr(rules, field)
        tried = (within_bounds(field, type(today)(today * factor)) for factor in factors)
        yield from ({field: value} for value in dict.fromkeys(tried) if value != today)


def refuse_elsewhere(file: Path, window: Window) -> None:
    """Raise `TidemarkError` where the file has nothing of the window, before it is replayed."""
    found = survey(file)
    wanted = f"it has nothing of {window.first} to {window.last}"
    if found.begin_ms >= window.end_ms:
        raise TidemarkError(f"{file} begins on {_day(found.begin_ms)}: {wanted}")
    if found.end_ms < window.begin_ms:
        raise TidemarkError(f"{file} ends on {_day(found.end_ms)}: {wanted}")


def refuse_unchanged(file: Path, window: Window, run: Run) -> None:
    """Raise `TidemarkError` where there is nothing to judge."""
    if not moves(run.told, window.begin_ms, window.end_ms):
        raise TidemarkError(
            f"no wallet changed its segment from {window.first} to {window.last} ({file} begins on "
            f"{_day(run.begin_ms)}): choose a longer window, or one that begins later, when segments are known"
        )


def proposal(settings: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The setting that would have flapped least, if clearly less than today's and with the changes that last kept."""
    today, *others = settings
    fit = [
        each
        for each in others
        if each["flaps_per_wallet_month"] <= FEWER_FLAPS * today["flaps_per_wallet_month"]
        and today["flaps"] > 0
        and each["lasting"] >= KEEPS * today["lasting"]
    ]
    if not fit:
        return None
    best = min(fit, key=lambda each: (each["flaps_per_wallet_month"], -each["lasting"]))
    return {"environment": best["environment"], "instead_of": TODAY, "settings": best["settings"]}


def _held(run: Run, window: Window, days: int) -> dict[str, Any]:
    """Of the changes whose horizon lies within the stream: how many held, and how sure they were told."""
    due = _due(moves(run.told, window.begin_ms, window.end_ms), run, days)
    outcomes = [(change.confidence, held(run.told, change, days * DAY_MS)) for change in due]
    rights = [right for _, right in outcomes]
    by_origin = {
        origin: [right for change, right in zip(due, rights, strict=True) if change.origin == origin]
        for origin in _origins(due)
    }
    return {
        "days": days,
        "judged": len(due),
        "held": sum(rights),
        "held_share": _share(rights),
        "by_origin": {origin: {"judged": len(some), "held_share": _share(some)} for origin, some in by_origin.items()},
        **_sureness(outcomes),
    }


def _absent(run: Run, window: Window, days: int) -> dict[str, Any]:
    """Of the wallets that were told to have left, and whose horizon lies within the stream: how many stayed away."""
    due = _due(departures(run.told, window.begin_ms, window.end_ms), run, days)
    outcomes = [(change.confidence, stayed_away(run.told, change, days * DAY_MS)) for change in due]
    rights = [right for _, right in outcomes]
    return {
        "days": days,
        "judged": len(due),
        "stayed": sum(rights),
        "stayed_share": _share(rights),
        "told": _share([told for told, _ in outcomes]),
        **_sureness(outcomes),
    }


def _due(changes: Iterable[Told], run: Run, days: int) -> list[Told]:
    """The changes the stream has seen `days` more of: the others cannot be judged yet."""
    return [change for change in changes if change.decided_at_ms + days * DAY_MS <= run.end_ms]


def _sureness(outcomes: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    """Whether what was told with a confidence was right so often; outcomes as (confidence, right)."""
    bins = reliability(outcomes)
    return {"reliability": [each._asdict() for each in bins], "miscalibration": miscalibration(bins)}


def _figures(name: str, changed: dict[str, Any], run: Run, today: Run, window: Window) -> dict[str, Any]:
    """What one setting would have done in the window."""
    months = wallet_months(run.told, window.begin_ms, window.end_ms)
    inside = moves(run.told, window.begin_ms, window.end_ms)
    back, returned = (
        sum(window.begin_ms <= change.decided_at_ms < window.end_ms for change in some)
        for some in (flaps(run.told), returns(run.told))
    )
    lasting = [change for change in inside if lasts(run, change)]
    later = _later(lasting, today, window)
    return {
        "settings": name,
        "environment": {f"TIDEMARK_{field.upper()}": f"{value:.10g}" for field, value in changed.items()},
        "changes": len(inside),
        "flaps": back,
        "flaps_per_wallet_month": back / months if months else 0.0,
        "returns": returned,
        "lasting": len(lasting),
        "median_days_later": median(later) if later else None,
        "wallet_months": months,
    }


def lasts(run: Run, change: Told) -> bool:
    """Whether the wallet did not leave what it joined within the time of a flap, or before the stream ended."""
    end_ms = min(change.decided_at_ms + FLAP_MS, run.end_ms)
    return all(
        not change.decided_at_ms < other.decided_at_ms <= end_ms for other in run.told[change.wallet] if other != change
    )


def _later(lasting: Sequence[Told], today: Run, window: Window) -> list[float]:
    """By how many days changes came later than the same ones (wallet and segment) with today's settings."""
    known = {
        (change.wallet, change.joined): change.decided_at_ms
        for change in moves(today.told, window.begin_ms, window.end_ms)
        if lasts(today, change)
    }
    pairs = ((change, known.get((change.wallet, change.joined))) for change in lasting)
    return [(change.decided_at_ms - at_ms) / DAY_MS for change, at_ms in pairs if at_ms is not None]


def _setting(field: str, value: float) -> str:
    return f"{field.replace('_', ' ')} {value:g}"


def _origins(changes: Sequence[Told]) -> list[str]:
    return sorted({change.origin for change in changes})


def _share(outcomes: Sequence[float]) -> float | None:
    return sum(outcomes) / len(outcomes) if outcomes else None


def _midnight_ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000


def _day(at_ms: int) -> date:
    return datetime.fromtimestamp(at_ms / 1000, UTC).date()
