"""Which new cluster is which old segment: identities that stay over refits, and are never given to another.

Hungarian assignment on the Jaccard overlap of mass; survival from one half as in MONIC (Spiliopoulou et al.,
KDD 2006).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from models.rows import SLOTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: A segment survives in a cluster that holds this share of its mass, or whose mass it holds this share of.
SURVIVES = 0.5


@dataclass(frozen=True, slots=True)
class Lineage:
    """Who is who after a refit.

    `numbers`: the segment of every new column. `born`: those of them that are new. `retired`: number of a segment
    that is no more -> the segment that took most of its mass, 0 if nobody took any.
    """

    numbers: tuple[int, ...]
    born: tuple[int, ...]
    retired: dict[int, int]


def overlap(
    old: NDArray[np.int64], new: NDArray[np.int64], weights: NDArray[np.float64], shape: tuple[int, int]
) -> NDArray[np.float64]:
    """Mass (old columns, new columns) that lies in both; labels and weights (m,) of the same points."""
    mass = np.zeros(shape)
    np.add.at(mass, (old, new), weights)
    return mass


def trace(numbers: tuple[int, ...], mass: NDArray[np.float64], next_number: int) -> Lineage:
    """Carry `numbers` of the old columns over to the new ones; new segments count from `next_number`.

    `mass` float64 (old, new), with a row and a column for each, also where it is empty.
    """
    old_mass, new_mass = mass.sum(axis=1, keepdims=True), mass.sum(axis=0, keepdims=True)
    jaccard = mass / np.maximum(old_mass + new_mass - mass, 1e-300)
    held = np.maximum(mass / np.maximum(old_mass, 1e-300), mass / np.maximum(new_mass, 1e-300))
    pairs = zip(*linear_sum_assignment(-jaccard), strict=True)
    heir_of = {int(new): numbers[old] for old, new in pairs if held[old, new] >= SURVIVES}
    unclaimed = [column for column in range(mass.shape[1]) if column not in heir_of]
    born = dict(zip(unclaimed, range(next_number, next_number + len(unclaimed)), strict=True))
    carried = tuple((heir_of | born)[column] for column in range(mass.shape[1]))
    gone = [row for row, number in enumerate(numbers) if number not in carried]
    retired = {numbers[row]: carried[mass[row].argmax()] if mass[row].any() else 0 for row in gone}
    return Lineage(carried, tuple(born.values()), retired)


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
