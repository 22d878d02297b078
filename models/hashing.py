"""Hashes of whole columns of strings at once: event ids, asset buckets, and the partitioners of Kafka's clients."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def words(texts: Sequence[bytes], unit: int) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
    """Bytes -> little-endian words of `unit` bytes, zero-padded, (n, w), and lengths (n,)."""
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    width = unit * (1 + int(sizes.max(initial=0)) // unit)
    return np.array(texts, dtype=f"S{width}").view(f"<u{unit}").reshape(len(texts), width // unit), sizes


def hash64(texts: Sequence[bytes]) -> NDArray[np.uint64]:
    """A 64-bit hash of each text, never 0 (0 is an empty place). Mixing steps after SplitMix64 and MurmurHash3."""
    column, sizes = words(texts, 8)
    hashed = (sizes.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    for place in range(column.shape[1]):
        mixed = (hashed ^ column[:, place]) * np.uint64(0xFF51AFD7ED558CCD)
        hashed = np.where(sizes > 8 * place, mixed ^ (mixed >> np.uint64(29)), hashed)
    hashed = (hashed ^ (hashed >> np.uint64(32))) * np.uint64(0xC4CEB9FE1A85EC53)
    hashed ^= hashed >> np.uint64(29)
    return np.where(hashed == 0, np.uint64(1), hashed)


@lru_cache(maxsize=50_000)
def bucket(text: str, buckets: int) -> int:
    """One of `buckets` for a text, the same everywhere and always."""
    return int(hash64([text.encode()])[0] % np.uint64(buckets))


def murmur2(keys: Sequence[bytes]) -> NDArray[np.int64]:
    """Kafka's default partitioner over a column of keys: the positive 32-bit MurmurHash2 of each."""
    column, sizes = words(keys, 4)
    m = np.uint32(0x5BD1E995)
    hashed = np.uint32(0x9747B28C) ^ sizes.astype(np.uint32)
    for place in range(column.shape[1]):
        word = column[:, place] * m
        word = (word ^ (word >> np.uint32(24))) * m
        whole, rest = sizes >= 4 * place + 4, sizes > 4 * place
        hashed = np.where(whole, (hashed * m) ^ word, np.where(rest, (hashed ^ column[:, place]) * m, hashed))
    hashed = (hashed ^ (hashed >> np.uint32(13))) * m
    return ((hashed ^ (hashed >> np.uint32(15))) & np.uint32(0x7FFFFFFF)).astype(np.int64)


def partitions_of(keys: Sequence[bytes], partitions: int | NDArray[np.int64], partitioner: str) -> NDArray[np.int64]:
    """The partition each key belongs to, out of so many. `partitioner`: murmur2 (Java's) or crc32 (librdkafka's)."""
    hashed = np.array([zlib.crc32(key) for key in keys], np.int64) if partitioner == "crc32" else murmur2(keys)
    return hashed % partitions
