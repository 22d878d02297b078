"""What scripts take on their command lines, as argparse reads it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection


def at_least(least: int) -> Callable[[str], int]:
    """Reads a whole number from `least` on."""

    def read(text: str) -> int:
        found = int(text)
        if found < least:
            raise argparse.ArgumentTypeError(f"{found} is below {least}")
        return found

    return read


def names_of(known: Collection[str]) -> Callable[[str], list[str]]:
    """Reads some of the `known` parts, by their names with commas between."""

    def read(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"no part {unknown[0]!r}; there are {', '.join(known)}")
        return found

    return read
