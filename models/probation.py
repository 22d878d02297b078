"""A change of the clusters is made only when refits in a row have wished for it: chance does not insist."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: Refits in a row that must wish for the same change of the clusters: one more, one less, or all begun afresh.
PATIENCE = 3
#: Two wishes are for the same cluster if their centres are this near: squared, scaled, averaged over the features.
SAME_WISH = 0.5


class Wish(NamedTuple):
    """A change of the clusters on probation: components more (1), less (-1) or all afresh (0); `centre` (d,) of it."""

    change: int
    times: int
    centre: Floats

    @property
    def is_granted(self) -> bool:
        """Whether it has come often enough."""
        return self.times >= PATIENCE


def wish_again(before: Wish | None, change: int, centre: Floats, sd: Floats) -> Wish:
    """The wish of a refit, and how often in a row it has come. `before`: of the refit before; `sd`: (d,) of today."""
    if before is None or before.change != change:
        return Wish(change, 1, centre)
    apart = float((((centre - before.centre) / sd) ** 2).mean())
    return Wish(change, before.times + 1 if apart <= SAME_WISH else 1, centre)
