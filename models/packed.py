"""Values with arrays as bytes, and back: a JSON head and the arrays behind it, never pickle."""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from models.rows import UnknownFormat

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

MAGIC = b"TMK1"
_LENGTH = struct.Struct("<I")
#: The only element types that are written; always little-endian.
_TYPES = ("<f4", "<f8", "|u1")


def pack(head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """`MAGIC`, length of the head, head as canonical JSON, arrays one after the other. Same values, same bytes."""
    written = {name: np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for name, array in arrays.items()}
    shapes = [[name, array.dtype.str, list(array.shape)] for name, array in written.items()]
    text = json.dumps({"head": head, "arrays": shapes}, separators=(",", ":"), sort_keys=True).encode()
    return b"".join([MAGIC, _LENGTH.pack(len(text)), text, *(array.tobytes() for array in written.values())])


def unpack(packed: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Head and arrays (copies, writable) of `pack`. Raises `UnknownFormat`."""
    try:
        return _unpack(packed)
    except (ValueError, KeyError, TypeError, struct.error) as problem:
        raise UnknownFormat(f"packed value of {len(packed)} bytes cannot be read: {problem}") from problem


def _unpack(packed: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    if packed[: len(MAGIC)] != MAGIC:
        raise ValueError(f"it begins with {packed[: len(MAGIC)]!r}, not {MAGIC!r}")
    position = len(MAGIC) + _LENGTH.size
    (length,) = _LENGTH.unpack(packed[len(MAGIC) : position])
    content = json.loads(packed[position : position + length])
    position += length
    arrays = {}
    for name, dtype, shape in content["arrays"]:
        if dtype not in _TYPES:
            raise ValueError(f"array {name} has elements of type {dtype}")
        count = math.prod(shape)
        arrays[name] = np.frombuffer(packed, dtype, count, position).reshape(shape).copy()
        position += arrays[name].nbytes
    if position != len(packed):
        raise ValueError(f"{len(packed) - position} bytes are left over")
    if not isinstance(content["head"], dict):
        raise TypeError("its head is no object")
    return content["head"], arrays
