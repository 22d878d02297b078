"""`tidemark segments rename`: a user's own name for a segment, and what he has to say about it.

It is kept in Redis beside the overview's model, works with no worker running, and read-outs show it at once; the
overview takes it up with the next rows it learns, and from then on announced changes have it too.
"""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from models.changes import segment_number
from models.names import GivenName, WrongName, give, read_given
from models.segments import Catalogue
from streams.errors import TidemarkError, WrongSettings
from streams.ledger_reader import LedgerReader
from streams.readouts import no_id, published
from streams.store import Address

if TYPE_CHECKING:
    from streams.settings import Settings


class Renamed(NamedTuple):
    """What a segment is called from now on, and what users have to say about it; `before`: what it was called."""

    segment: str
    name: str
    description: str | None
    before: str


def rename(settings: Settings, segment: str, name: str, description: str | None = None) -> Renamed:
    """Give a segment, alive or retired, a name. `description`: None leaves what there is, an empty one takes it away.

    Raises `WrongSettings` for a name that cannot be given, `TidemarkError` while there are no segments.
    """
    number = number_of(segment)
    with closing(LedgerReader(Address.of(settings))) as reader:
        catalogue, given = _known(settings, reader), read_given(reader.names())
        if description is None:
            description = catalogue.description_of(number)
        try:
            value = give(catalogue, number, GivenName(name, description), given)
        except WrongName as wrong:
            raise WrongSettings((str(wrong),)) from wrong
        reader.give_name(number, value)
    stored = GivenName(**json.loads(value))
    return Renamed(segment, stored.name, stored.description or None, catalogue.name_of(number))


def take_back(settings: Settings, segment: str) -> Renamed:
    """Let a segment have its automatic name again, and no description; those of the pinned catalogue if it has any.

    Raises `TidemarkError` where none was given.
    """
    number = number_of(segment)
    with closing(LedgerReader(Address.of(settings))) as reader:
        given = read_given(reader.names())
        if number not in given:
            raise TidemarkError(f"{segment} has no given name: there is nothing to take back")
        reader.give_name(number, None)
        catalogue = published(settings, reader)
    return Renamed(segment, catalogue.name_of(number), catalogue.description_of(number) or None, given[number].name)


def number_of(segment: str) -> int:
    """The number in an id such as s3. Raises `WrongSettings`."""
    if not (number := segment_number(segment)):
        raise WrongSettings((no_id(segment),))
    return number


def _known(settings: Settings, reader: LedgerReader) -> Catalogue:
    catalogue = published(settings, reader)
    if not catalogue.segments:
        raise TidemarkError("there are no segments yet to be renamed: they come with the first catalogue")
    return catalogue
