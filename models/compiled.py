"""The one door to Numba: loops over events, compiled to machine code.

A compiled function is pure like any other here: arrays and numbers in, the arrays it is told to fill out. It is
compiled at its first call and kept on disk: in NUMBA_CACHE_DIR if that is set, beside the source, or in the home.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import InTreeCacheLocator, UserProvidedCacheLocator, UserWideCacheLocator

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile a function; one that other compiled functions call is compiled into them.

    Divisions by zero give inf and NaN as NumPy's do; the order of additions is the written one, to the last bit.
    """
    return _compile(function)


def leaf(function: Function) -> Function:
    """Compile a function that makes no array: it does not count who holds its arguments, which short loops feel."""
    return _compile(function, _nrt=False)


def _compile(function: Function, **options: Any) -> Function:
    try:
        kept = numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    except RuntimeError:  # no folder to keep it in can be written: it is compiled anew in every process
        kept = numba.njit(nogil=True, error_model="numpy", **options)(function)
    return cast("Function", kept)


@cache
def stamp() -> bytes:
    """What compiled code depends on: all of models/. Numba looks at the file of a function, not at what that calls."""
    found = hashlib.sha256()
    for source in sorted(resources.files("models").iterdir(), key=lambda each: each.name):
        if source.name.endswith(".py"):
            found.update(source.read_bytes())
    return found.digest()


class Stamped:
    """A place for compiled code that is not used any more once anything in models/ has changed."""

    def get_source_stamp(self) -> bytes:
        return stamp()


class Given(Stamped, UserProvidedCacheLocator):
    """NUMBA_CACHE_DIR."""


class Beside(Stamped, InTreeCacheLocator):
    """__pycache__ beside the source."""


class OfUser(Stamped, UserWideCacheLocator):
    """The user's folder for caches."""


#: As the variable NUMBA_CACHE_LOCATOR_CLASSES would say it.
places = ",".join(f"{__name__}.{each.__name__}" for each in (Given, Beside, OfUser))
setattr(numba.config, "CACHE_LOCATOR_CLASSES", places)  # noqa: B010  # it is made from the environment, mypy cannot see it
