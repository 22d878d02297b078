"""Which catalogue this worker places wallets with: the newest the overview has published, or a pinned one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import structlog

from models.segments import EMPTY_CATALOGUE, Catalogue, UnusableCatalogue
from streams.errors import Refused, WrongSettings, readable
from streams.ledger import OVERVIEW, Ledger

if TYPE_CHECKING:
    from pathlib import Path

LOOK_S, LOOK_IMPATIENTLY_S = 0.25, 0.02

log = structlog.get_logger("tidemark.catalogue")


class Pointer(NamedTuple):
    """What the overview says beside its catalogue; without a pointer, what holds before there is one.

    `hash`: of the catalogue that is published. `learned_until_ms`: event time up to which it has learned. `heard`:
    partition -> number of the newest digest that was learned. `crash`: event time [from, to) of the newest flash crash,
    (0, 0) none.
    """

    hash: str = EMPTY_CATALOGUE.hash
    learned_until_ms: int = 0
    heard: Mapping[int, int] = {}
    crash: tuple[int, int] = (0, 0)

    @classmethod
    def read(cls, text: bytes | None) -> Self:
        """Raises `Refused` on what no overview has written."""
        if not text:
            return cls()
        with readable(OVERVIEW):
            found: dict[str, Any] = dict(json.loads(text))
            return cls(
                str(found["hash"]) if found["version"] else EMPTY_CATALOGUE.hash,
                int(found["learned_until_ms"]),
                {int(partition): int(number) for partition, number in dict(found["heard"]).items()},
                (int(found.get("regime_from_ms", 0)), int(found.get("regime_until_ms", 0))),
            )


class CatalogueWatch:
    """Follows the overview's pointer in Redis; partitions look at `catalogue` between two commits.

    `learned_until_ms`, `heard`: as in `Pointer`. `pinned`: a catalogue given by the settings, which then never changes.
    """

    def __init__(self, ledger: Ledger, pinned: Catalogue | None = None) -> None:
        self.pinned = pinned is not None
        self.catalogue = pinned or EMPTY_CATALOGUE
        self.learned_until_ms = 0
        self.heard: Mapping[int, int] = {}
        self._ledger = ledger
        self._impatient = 0
        self._last: bytes | None = None
        self._looking = asyncio.Lock()

    async def run(self) -> None:
        """Look again and again; never returns."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_IMPATIENTLY_S if self._impatient else LOOK_S)

    async def look(self) -> None:
        """Read the pointer, and the catalogue if it is another one. Nothing there any more: nothing is known any more.

        One look at a time: a claim looks too, and the older of two answers could come last.
        """
        async with self._looking:
            (pointer,) = await self._ledger.read_strings(OVERVIEW, b"pointer")
            if pointer != self._last:
                await self._follow(pointer)

    async def _follow(self, pointer: bytes | None) -> None:
        found = Pointer.read(pointer)
        if not self.pinned and found.hash != self.catalogue.hash:
            # Both in one step: they are of one commit, which may be a newer one than that of the first look.
            pointer, text = await self._ledger.read_strings(OVERVIEW, b"pointer", b"catalogue")
            found = Pointer.read(pointer)
            if found.hash != self.catalogue.hash:
                self.catalogue = _published(text, found.hash)
                log.info("catalogue", version=self.catalogue.version, segments=len(self.catalogue.segments))
        if not self.pinned:  # what is pinned shall decide the same again, whenever a crash is noticed
            self.catalogue = self.catalogue.held(*found.crash)
        self.learned_until_ms, self.heard, self._last = found.learned_until_ms, found.heard, pointer

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """While somebody waits for the overview, look more often."""
        self._impatient += 1
        try:
            yield
        finally:
            self._impatient -= 1


def _published(text: bytes | None, digest: str) -> Catalogue:
    """The catalogue of `text`, which has to be the one with this hash."""
    if digest == EMPTY_CATALOGUE.hash:
        return EMPTY_CATALOGUE
    try:
        catalogue = Catalogue.from_json(text or b"")
    except UnusableCatalogue as problem:
        raise Refused(
            f"the catalogue in Redis cannot be used ({problem}): run the version of Tidemark that published it"
        ) from problem
    if catalogue.hash != digest:
        raise Refused(f"the catalogue in Redis is not the one published ({digest}): restore Redis")
    return catalogue


def pinned_catalogue(path: Path) -> Catalogue:
    """The catalogue of a file made by `tidemark segments --export`. Raises `WrongSettings`."""
    try:
        return Catalogue.from_json(path.read_bytes())
    except (OSError, UnusableCatalogue) as problem:
        raise WrongSettings(
            (f"TIDEMARK_CATALOGUE: {path} is no catalogue ({problem}): make one with `tidemark segments --export`",)
        ) from problem
