"""`tidemark map`: wallets and segments in the plane of two principal components, which stays from picture to picture.

The plane is kept in Redis under `{overview}:map`, so that whoever draws the next map, of whatever catalogue, turns it
to lie as this one. Nothing else reads or writes it; without it, or where Redis may only be read, a map is turned as a
first one is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from models.changes import segment_id
from models.features import row_features
from models.projection import Projection, projection
from models.rows import WHALE, UnknownFormat, blank_rows, unpack_rows
from models.segments import Catalogue
from streams.errors import TidemarkError
from streams.ledger import OVERVIEW
from streams.ledger_reader import LedgerReader
from streams.readouts import published
from streams.store import Address

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from streams.settings import Settings

    Floats = NDArray[np.float64]

#: Rows made into positions at once.
PAGE = 5_000


@dataclass(frozen=True, slots=True, eq=False)
class Landscape:
    """What a map shows. `points`: float64 (n, 2), wallets that have a segment.

    `segment_of`: int64 (n,), numbers; `is_whale`: bool (n,).
    """

    catalogue: Catalogue
    projection: Projection
    points: Floats
    segment_of: NDArray[np.int64]
    is_whale: NDArray[np.bool_]

    def places(self) -> Floats:
        """The segments' centres on the map, (k, 2), in the order of the catalogue."""
        return self.projection.place(self.catalogue.centres)

    def shares(self) -> list[float]:
        """The part of the wallets on the map that each segment has, in the order of the catalogue."""
        all_of_them = max(len(self.segment_of), 1)
        return [float((self.segment_of == each.number).sum()) / all_of_them for each in self.catalogue.segments]

    def whales(self) -> list[int]:
        """How many of the wallets on the map are whales, of each segment, in the order of the catalogue."""
        whales = self.segment_of[self.is_whale]
        return [int((whales == each.number).sum()) for each in self.catalogue.segments]


def survey(settings: Settings, most: int, say: Callable[[str], None]) -> Landscape:
    """Look at up to `most` wallets, as the scan gives them: Redis keeps keys by their hash, so they are a fair sample.

    Raises `TidemarkError` while there is no catalogue.
    """
    with closing(LedgerReader(Address.of(settings))) as reader:
        catalogue = published(settings, reader)
        if not catalogue.segments:
            raise TidemarkError("there is nothing to map yet: segments come with the first wallets, see `tidemark lag`")
        flat = _kept(reader, catalogue, say)
        points, shown = _positions((row for _, _, row in islice(reader.wallets(), most)), catalogue, flat)
    is_whale = shown["flags"] & WHALE > 0
    return Landscape(catalogue, flat, points, shown["segment"].astype(np.int64), is_whale)


def draw(found: Landscape, file: Path, say: Callable[[str], None]) -> None:
    """Write the map as PNG or SVG; `say` hears in one line of names that no font here can write."""
    from streams import lettering, pictures

    flat, catalogue = found.projection, found.catalogue
    shown = f"{len(found.points):,} wallets in {len(catalogue.segments)} segments, catalogue {catalogue.version}"
    captions = (_caption(flat, 0, "→"), _caption(flat, 1, "↑"))
    names, ids = [each.name for each in catalogue.segments], [segment_id(each.number) for each in catalogue.segments]
    pictures.wallet_map(
        file,
        pictures.MapView(
            title=f"Where wallets are: {shown}",
            points=found.points,
            places=found.places(),
            names=lettering.legible(names, ids, say),
            shares=found.shares(),
            axes=captions,
            whales=found.points[found.is_whale],
            whale_counts=found.whales(),
        ),
    )


def described(found: Landscape) -> dict[str, Any]:
    """The map for programs: segments with their positions, and what the axes are made of."""
    places, flat = found.places(), found.projection
    return {
        "catalogue_version": found.catalogue.version,
        "wallets": len(found.points),
        "axes": [{"explained": round(flat.explained[axis], 4), "features": flat.meaning(axis)} for axis in range(2)],
        "segments": [
            {"segment": segment_id(each.number), "name": each.name, "share": share, "x": x, "y": y, "whales": whales}
            for each, share, (x, y), whales in zip(
                found.catalogue.segments, found.shares(), places.tolist(), found.whales(), strict=True
            )
        ],
    }


def _caption(flat: Projection, axis: int, arrow: str) -> str:
    """What grows along an axis, in words."""
    told = [name.removeprefix("-").replace("_", " ") for name in flat.meaning(axis)]
    signs = ["less " if name.startswith("-") else "more " for name in flat.meaning(axis)]
    grows = ", ".join(sign + name for sign, name in zip(signs, told, strict=True))
    return f"{grows} {arrow}  (standard deviations; {flat.explained[axis]:.0%} of the variance)"


def _kept(reader: LedgerReader, catalogue: Catalogue, say: Callable[[str], None]) -> Projection:
    """The projection of this catalogue, turned as the one of the last map; kept for the next."""
    stored = reader.string(OVERVIEW, b"map")
    try:
        before = Projection.from_json(stored) if stored else None
    except UnknownFormat:
        before = None  # of another version's features: there is nothing to be turned by
    if before is not None and before.catalogue == catalogue.hash:
        return before
    flat = projection(catalogue, before)
    try:
        reader.put(OVERVIEW, b"map", flat.to_json())
    except TidemarkError as problem:
        say(f"the next map may be turned otherwise, this one could not be kept: {problem}")
    return flat


def _positions(rows: Iterable[bytes], catalogue: Catalogue, flat: Projection) -> tuple[Floats, NDArray[np.void]]:
    """Positions (n, 2) of the stored rows that have a segment, and `segment` and `flags` of each (n,)."""
    rows = iter(rows)
    points, shown = [np.zeros((0, 2))], [blank_rows(0)[["segment", "flags"]]]
    while page := list(islice(rows, PAGE)):
        wallets = unpack_rows(list(page))
        wallets = wallets[wallets["segment"] > 0]
        points.append(flat.place(catalogue.scale(row_features(wallets))))
        shown.append(wallets[["segment", "flags"]])
    return np.concatenate(points), np.concatenate(shown)
