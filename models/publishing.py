"""From a fitted model to the next version of the catalogue: slots, names, and what became of whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from models.identity import Lineage, give_slots
from models.names import GivenName, name_for, with_names
from models.segments import HISTORY, Catalogue, Happening, Mixture, Segment

if TYPE_CHECKING:
    from collections.abc import Collection

Value = TypeVar("Value")


def next_catalogue(before: Catalogue, mixture: Mixture, lineage: Lineage, moment: tuple[float, int]) -> Catalogue:
    """The version after `before`, its new segments without a name.

    `moment`: the size (log1p USD) from which a wallet is a whale, and the event time.
    """
    version, (whale_at, at_ms) = before.version + 1, moment
    held = {segment.number: segment.slot for segment in before.segments}
    known = {segment.number: segment for segment in before.segments}
    slots, slot_since = give_slots(lineage.numbers, held, before.slot_since, version)
    back = {number: before.automatic_name_of(number) for number in lineage.returned}
    segments = []
    for number, share in zip(lineage.numbers, mixture.shares.tolist(), strict=True):
        fresh = Segment(number, slots[number], back.get(number, ""), share, _born_version(before, number) or version)
        segments.append(replace(known.get(number, fresh), share=share))
    # Without what users said: it is given again to the new version.
    names = {number: before.automatic_name_of(number) for number in (*before.retired_names, *lineage.retired)}
    return Catalogue(
        mean=mixture.mean,
        sd=mixture.sd,
        centres=mixture.centres,
        variances=mixture.variances,
        shares=mixture.shares,
        version=version,
        segments=tuple(segments),
        slot_since=slot_since,
        whale_at=whale_at,
        retired=_without(before.retired, lineage.returned) | lineage.retired,
        retired_names=_without(names, lineage.returned),
        history=(*before.history, *happenings(lineage, version, at_ms))[-HISTORY:],
    )


def named(before: Catalogue, after: Catalogue, given: Mapping[int, GivenName], *, settled: bool) -> Catalogue:
    """The catalogue with a name for each segment: given by a user, or from its centre; all different.

    `settled`: a segment that has a name keeps it; else only one that returned does, the others follow their centres.
    """
    alive = {segment.number for segment in before.segments}
    kept = {
        each.number: after.automatic_name_of(each.number)
        for each in after.segments
        if each.name and (settled or each.number not in alive)
    }
    others = {*after.retired_names.values(), *(each.name for each in given.values())}
    segments = []
    for column, segment in enumerate(after.segments):
        if segment.number not in kept:
            kept[segment.number] = _fresh_name(after, column, {*kept.values(), *others})
        segments.append(replace(segment, name=kept[segment.number], automatic=""))
    return with_names(replace(after, segments=tuple(segments)), given)


def happenings(lineage: Lineage, version: int, at_ms: int) -> list[Happening]:
    """What became of segments with this version: who came, then who went."""
    parent = lineage.split
    told = [("split" if number in parent else "born", number, parent.get(number, 0)) for number in lineage.born]
    told += [("returned", number, parent.get(number, 0)) for number in lineage.returned]
    told += [("absorbed" if heir else "retired", number, heir) for number, heir in lineage.retired.items()]
    return [Happening(*each, version, at_ms) for each in told]


def _fresh_name(catalogue: Catalogue, column: int, taken: Collection[str]) -> str:
    return name_for(catalogue.centre(column), catalogue.centres[column], taken)


def _born_version(catalogue: Catalogue, number: int) -> int:
    """The version that first had a segment, 0 if nothing tells."""
    kinds = ("born", "split")
    return next((each.version for each in catalogue.history if each.segment == number and each.kind in kinds), 0)


def _without(kept: Mapping[int, Value], numbers: Collection[int]) -> dict[int, Value]:
    return {number: value for number, value in kept.items() if number not in numbers}
