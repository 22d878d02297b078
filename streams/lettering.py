"""Names of users as a picture can show them: short enough, and in letters that a font here has."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

#: What every matplotlib brings; it has no letters of East Asia.
OURS = "DejaVu Sans"
#: Fonts whose letters are no letters: boxes for everything, glyphs at places of others.
_NO_LETTERS = ("Last Resort", "STIXNonUnicode", "STIXSize", "cm")
#: Columns of a line, and of what a name that is cut keeps of its end: two names often differ there.
WIDTH, END = 24, 10


def columns(text: str) -> int:
    """How wide a text is, in letters of Latin: those of East Asia take two, accents none."""
    return sum(_columns(letter) for letter in text)


def brief(name: str, lines: int = 2) -> str:
    """A name in one or two lines of some `WIDTH` columns; what a longer one loses is its middle."""
    room = lines * WIDTH
    if columns(name) > room:
        name = f"{_head(name, room - END - 1).rstrip()}…{_head(name[::-1], END)[::-1].lstrip()}"
    if lines == 1 or columns(name) <= WIDTH:
        return name
    spaces = [place for place, letter in enumerate(name) if letter == " "]
    fitting = [place for place in spaces if max(columns(name[:place]), columns(name[place + 1 :])) <= WIDTH]
    if fitting:
        return f"{name[: fitting[-1]]}\n{name[fitting[-1] + 1 :]}"
    first = _head(name, WIDTH)
    return f"{first}\n{name[len(first) :]}"


def legible(names: Sequence[str], ids: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """Names for a picture; the id instead of one that no font here can write, which `say` is told in one line."""
    missing = set(fonts_for(names)[1])
    if not missing:
        return list(names)
    unwritten = [bool(missing & set(name)) for name in names]
    instead = ", ".join(segment for segment, is_so in zip(ids, unwritten, strict=True) if is_so)
    letters = " ".join(sorted(missing)[:8]) + (" …" if len(missing) > 8 else "")
    say(f"no font here has {letters}, so {instead} has its id in the picture: install one, such as Noto Sans CJK")
    return [segment if is_so else name for name, segment, is_so in zip(names, ids, unwritten, strict=True)]


def fonts_for(texts: Iterable[str]) -> tuple[list[str], str]:
    """Families that together have the letters of all texts, ours first; and the letters that none of them has."""
    families, missing = _families(frozenset().union(*texts))
    return list(families), missing


@lru_cache(maxsize=32)
def _families(letters: frozenset[str]) -> tuple[tuple[str, ...], str]:
    families, missing = [OURS], {ord(letter) for letter in letters if not letter.isspace()}
    missing -= _letters(font_manager.findfont(OURS))
    for family, file in _others() if missing else ():
        if found := missing & _letters(file):
            families.append(family)
            missing -= found
        if not missing:
            break
    return tuple(families), "".join(map(chr, sorted(missing)))


def _others() -> Iterator[tuple[str, str]]:
    """Family and file of every other upright font: those matplotlib knows, then those that came since it looked."""
    known = font_manager.fontManager.ttflist
    for font in sorted(known, key=lambda font: (font.name, str(font.weight) != "400", font.fname)):
        if font.style == "normal" and not font.name.startswith(_NO_LETTERS):
            yield font.name, font.fname
    for file in sorted({*font_manager.findSystemFonts()} - {font.fname for font in known}):
        try:
            font_manager.fontManager.addfont(file)
        except (OSError, RuntimeError):
            continue  # of a format it does not read
        yield known[-1].name, file


@lru_cache(maxsize=256)
def _letters(file: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()  # gone, or damaged


def _columns(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _head(text: str, width: int) -> str:
    """The first letters of a text that fit a width, in columns."""
    end = next((place for place in range(len(text)) if columns(text[: place + 1]) > width), len(text))
    return text[:end]
