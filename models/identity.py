"""Which new cluster is which old segment: identities that stay over refits, and are never given to another.

Hungarian assignment on the Jaccard overlap of mass; survival from one half as in MONIC (Spiliopoulou et al.,
KDD 2006).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from models.rows import SLOTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: A segment survives in a cluster that holds this share of its mass, or whose mass it holds this share of.
SURVIVES = 0.5
#: A new cluster that took this share of an old one's mass is a part of it that split off.
SPLITS = 0.25
#: A cluster is elsewhere than a segment has been for long if its squared distance, in the segment's variances and
#: averaged over the features, is above this; segments that only drift stay below 0.4.
ELSEWHERE = 1.0
#: A new cluster is a retired one come back if their squared distance, in units of their variance and averaged over
#: the features, is below this: neighbours that differ in three of sixteen features by two deviations do not pass.
SAME = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """What tells newcomers from who was there before.

    `apart` (old, new): how far each new cluster is from where each old one has been for long. `newcomers` (new,): the
    new clusters whose mass has come lately.
    """

    apart: Floats
    newcomers: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Lineage:
    """Who is who after a refit.

    `numbers`: the segment of every new column. `born`: those of them that are new. `returned`: those that had
    retired and are back. `retired`: number of a segment that is no more -> the segment that took most of its mass,
    0 if nobody took any. `split`: a segment that is new or back -> the one it took a quarter of or more.
    """

    numbers: tuple[int, ...]
    born: tuple[int, ...] = ()
    returned: tuple[int, ...] = ()
    retired: dict[int, int] = field(default_factory=dict)
    split: dict[int, int] = field(default_factory=dict)


def overlap(
    old: NDArray[np.int64], new: NDArray[np.int64], weights: NDArray[np.float64], shape: tuple[int, int]
) -> NDArray[np.float64]:
    """Mass (old columns, new columns) that lies in both; labels and weights (m,) of the same points."""
    mass = np.zeros(shape)
    np.add.at(mass, (old, new), weights)
    return mass


def trace(
    numbers: tuple[int, ...],
    mass: NDArray[np.float64],
    next_number: int,
    returning: Mapping[int, int] = MappingProxyType({}),
    past: Past | None = None,
) -> Lineage:
    """Carry `numbers` of the old columns over to the new ones; new segments count from `next_number`.

    `mass` float64 (old, new), with a row and a column for each, also where it is empty. `returning`: new columns
    that are retired segments come back, if no living segment is their heir -> the number they had. Newcomers are
    counted to the nearest segment until they have one of their own. They are its heir only if half of it has gone
    to them, and not if they are far from its usual place and another part of it is nearer.
    """
    old_mass, new_mass = mass.sum(axis=1, keepdims=True), mass.sum(axis=0, keepdims=True)
    taken = mass / np.maximum(old_mass, 1e-300)
    jaccard = mass / np.maximum(old_mass + new_mass - mass, 1e-300)
    held = np.maximum(taken, mass / np.maximum(new_mass, 1e-300))
    if past is not None:
        held = np.where(past.newcomers & (taken < SURVIVES), 0.0, held)
    pairs = zip(*linear_sum_assignment(-np.where(held > 0, jaccard, 0.0)), strict=True)
    heirs = {int(old): int(new) for old, new in pairs if held[old, new] >= SURVIVES}
    if past is not None:
        heirs = _without_newcomers(heirs, mass, past.apart)
    known = {new: numbers[old] for old, new in heirs.items()}
    back = {column: number for column, number in returning.items() if column not in known}
    unclaimed = [column for column in range(mass.shape[1]) if column not in known | back]
    born = dict(zip(unclaimed, range(next_number, next_number + len(unclaimed)), strict=True))
    carried = tuple((known | back | born)[column] for column in range(mass.shape[1]))
    gone = [row for row, number in enumerate(numbers) if number not in carried]
    retired = {numbers[row]: carried[mass[row].argmax()] if mass[row].any() else 0 for row in gone}
    parts = {column: int(taken[:, column].argmax()) for column in (*back, *born) if len(numbers)}
    split = {carried[column]: numbers[row] for column, row in parts.items() if taken[row, column] >= SPLITS}
    return Lineage(carried, tuple(born.values()), tuple(back.values()), retired, split)


def _without_newcomers(heirs: dict[int, int], mass: Floats, apart: Floats) -> dict[int, int]:
    """Old rows -> new columns, where an heir that is far from the usual place gives way to a nearer part of the row.

    Such a part is a column that is nobody's heir, and most of it is the row's.
    """
    heirs = dict(heirs)
    for column in sorted({*np.flatnonzero(mass.any(axis=0)).tolist()} - {*heirs.values()}):
        row = int(mass[:, column].argmax())
        most = mass[row, column] >= SURVIVES * mass[:, column].sum()
        if most and row in heirs and apart[row, heirs[row]] > max(ELSEWHERE, apart[row, column]):
            heirs[row] = column
    return heirs


def recognise(
    clusters: tuple[NDArray[np.float64], NDArray[np.float64]], resting: Mapping[int, tuple[Floats, Floats]]
) -> dict[int, int]:
    """Which of these clusters are retired ones come back: column -> the number of the nearest that is near enough.

    `clusters`: centres and variances, (k, d) each. `resting`: number -> its centre and variances, (d,) each, in the
    same units.
    """
    centres, variances = clusters
    apart = [
        (float(2 * ((centre - centres[column]) ** 2 / (spread + variances[column])).mean()), column, number)
        for number, (centre, spread) in resting.items()
        for column in range(len(centres))
    ]
    found: dict[int, int] = {}
    for distance, column, number in sorted(apart):
        if distance < SAME and column not in found and number not in found.values():
            found[column] = number
    return found


def give_slots(
    numbers: tuple[int, ...], held: dict[int, int], slot_since: tuple[int, ...], version: int
) -> tuple[dict[int, int], tuple[int, ...]]:
    """A slot for every segment: its own if it has one in `held`, else the free one unused for longest.

    Returns number -> slot, and the versions in which each slot was last given to another segment.
    """
    slots = {number: held[number] for number in numbers if number in held}
    since = list(slot_since)
    free = sorted(set(range(SLOTS)) - set(slots.values()), key=lambda slot: (since[slot], slot))
    for number in numbers:
        if number not in slots:
            slots[number] = free.pop(0)
            since[slots[number]] = version
    return slots, tuple(since)
