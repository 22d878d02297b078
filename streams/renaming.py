"""`tidemark segments rename`: a user's own name for a segment, and what he has to say about it.

It is kept in Redis beside the overview's model, works with no worker running, and read-outs show it at once; the
overview takes it up with the next rows it learns, and from then on announced changes have it too.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from models.names import GivenName, WrongName, give, read_given
from models.segments import Catalogue
from streams.errors import TidemarkError, WrongSettings
from streams.ledger_reader import LedgerReader
from streams.readouts import published
from streams.store import Address

if TYPE_CHECKING:
    from streams.settings import Settings


def rename(settings: Settings, segment: str, given: GivenName) -> str:
    """Give a segment, alive or retired, a name; what it was called before.

    Raises `WrongSettings` for a name that cannot be given, `TidemarkError` while there are no segments.
    """
    number = number_of(segment)
    with closing(LedgerReader(Address.of(settings))) as reader:
        catalogue = _known(settings, reader)
        try:
            value = give(catalogue, number, given, read_given(reader.names()))
        except WrongName as wrong:
            raise WrongSettings((str(wrong),)) from wrong
        reader.give_name(number, value)
    return catalogue.name_of(number)


def take_back(settings: Settings, segment: str) -> str:
    """Let a segment have its automatic name again; the given one, which is gone.

    Raises `TidemarkError` where none was given.
    """
    number = number_of(segment)
    with closing(LedgerReader(Address.of(settings))) as reader:
        given = read_given(reader.names())
        if number not in given:
            raise TidemarkError(f"{segment} has no given name: there is nothing to take back")
        reader.give_name(number, None)
    return given[number].name


def number_of(segment: str) -> int:
    """The number in an id such as s3. Raises `WrongSettings`."""
    digits = segment.removeprefix("s")
    if segment == digits or not digits.isascii() or not digits.isdecimal() or int(digits) == 0:
        raise WrongSettings((f"{segment} is no segment's id: these are s1, s2 and so on, see `tidemark segments`",))
    return int(digits)


def _known(settings: Settings, reader: LedgerReader) -> Catalogue:
    catalogue = published(settings, reader)
    if not catalogue.segments:
        raise TidemarkError("there are no segments yet to be renamed: they come with the first catalogue")
    return catalogue
