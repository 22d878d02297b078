"""The one door to Numba: loops over events, compiled to machine code.

A compiled function is pure like any other here: arrays and numbers in, the arrays it is told to fill out. It is
compiled at its first call and kept on disk: in NUMBA_CACHE_DIR if that is set, beside the source, or in the home. It is
read wherever it is found, and written to the first of these that takes it; where none does, it works all the same.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib import resources
from typing import Any, Self, TypeVar, cast

import numba
from numba.core.caching import (
    CompileResultCacheImpl,
    FunctionCache,
    InTreeCacheLocator,
    NullCache,
    UserProvidedCacheLocator,
    UserWideCacheLocator,
)

Function = TypeVar("Function", bound=Callable[..., object])
#: Half a file, or one of another version that names classes this one lacks: it is written anew.
UNREADABLE = (EOFError, pickle.UnpicklingError, AttributeError, ImportError)
#: Or a folder that is away, or may not be read or written: as if nothing were kept there.
NOT_KEPT = (OSError, *UNREADABLE)


def compiled(function: Function) -> Function:
    """Compile a function; one that other compiled functions call is compiled into them.

    Divisions by zero give inf and NaN as NumPy's do; the order of additions is the written one, to the last bit.
    """
    return _compile(function)


def leaf(function: Function) -> Function:
    """Compile a function that makes no array: it does not count who holds its arguments, which short loops feel."""
    return _compile(function, _nrt=False)


def inlined(function: Function) -> Function:
    """Compile a leaf into each function that calls it, however large: an array is handed over in seven parts."""
    return _compile(function, _nrt=False, forceinline=True)


def _compile(function: Function, **options: Any) -> Function:
    dispatcher = numba.njit(nogil=True, error_model="numpy", **options)(function)
    # Not `cache=True`: Numba reads no folder it cannot write to, so in a read-only container each start would compile.
    dispatcher._cache = Kept(function)  # noqa: SLF001 -- what `enable_caching` does, which takes no other cache
    return cast("Function", dispatcher)


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

    @classmethod
    def from_function(cls, function: Callable[..., object], file: str) -> Self | None:
        """The place, whether or not it can be written; None where there is no such folder."""
        return cast("Self", cast("Any", cls)(function, file))


class Given(Stamped, UserProvidedCacheLocator):
    """NUMBA_CACHE_DIR."""

    @classmethod
    def from_function(cls, function: Callable[..., object], file: str) -> Self | None:
        return super().from_function(function, file) if cast("Any", numba.config).CACHE_DIR else None


class Beside(Stamped, InTreeCacheLocator):
    """__pycache__ beside the source."""


class OfUser(Stamped, UserWideCacheLocator):
    """The user's folder for caches."""

    @classmethod
    def from_function(cls, function: Callable[..., object], file: str) -> Self | None:
        found: Any = super().from_function(function, file)
        return None if found.get_cache_path().startswith("~") else found  # no home: it would be a folder of that name


class Only(CompileResultCacheImpl):
    """Compiled code as Numba writes it, in one place. Raises RuntimeError where there is no such place."""

    def __init__(self, place: type[Stamped], function: Callable[..., object]) -> None:
        self._locator_classes = [place]
        super().__init__(function)  # type: ignore[no-untyped-call] # Numba tells no types


class Folder(FunctionCache):
    """What one place keeps of one function."""

    _impl_class: Any

    def __init__(self, place: type[Stamped], function: Callable[..., object]) -> None:
        self._impl_class = partial(Only, place)
        super().__init__(function)  # type: ignore[no-untyped-call] # Numba tells no types


class Kept(NullCache):
    """What all places keep of one function, as Numba asks for it."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.folders: list[Any] = list(_folders(function))

    def load_overload(self, sig: object, target_context: object) -> object:
        """The machine code for these types of arguments and this processor, None if no place has it."""
        for folder in self.folders:
            try:
                found = folder.load_overload(sig, target_context)
            except NOT_KEPT:
                continue
            if found is not None:
                return found
        return None

    def save_overload(self, sig: object, data: object) -> None:
        """Keep it in the first place that can be written, if there is one."""
        for folder in self.folders:
            try:
                _save(folder, sig, data)
            except NOT_KEPT:
                continue
            return


def _save(folder: Any, sig: object, data: object) -> None:
    try:
        folder.save_overload(sig, data)
    except UNREADABLE:
        folder.flush()
        folder.save_overload(sig, data)


def _folders(function: Callable[..., object]) -> Iterator[Folder]:
    for place in (Given, Beside, OfUser):
        try:
            yield Folder(place, function)
        except RuntimeError:  # Numba's word for: no such place
            continue
