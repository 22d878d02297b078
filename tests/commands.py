"""Words of commands as Redis reads them, there and back."""

from __future__ import annotations

from streams.cache import Changed
from streams.ledger import Words, pack_command


def words(*each: bytes) -> Words:
    """Words as a commit has them packed."""
    return Words(len(each), pack_command(*each).partition(b"\r\n")[2])


def unpacked(packed: bytes) -> list[bytes]:
    """The words again. Raises unless they are words, end to end."""
    found, place = [], 0
    while place < len(packed):
        begin = packed.index(b"\r\n", place) + 2
        assert packed[place : place + 1] == b"$"
        end = begin + int(packed[place + 1 : begin - 2])
        assert packed[end : end + 2] == b"\r\n"
        found.append(packed[begin:end])
        place = end + 2
    return found


def written(changed: Changed) -> tuple[dict[bytes, bytes], dict[bytes, tuple[int, bytes]]]:
    """What is written of wallets: key -> row of those that are stored whole, key -> (place, patch) of the others."""
    stored = changed.stored
    whole, parts = unpacked(stored.whole.tobytes()), unpacked(stored.parts.tobytes())
    assert (len(whole), len(parts)) == (2 * stored.wholes, 3 * stored.patched)
    rows = dict(zip(whole[::2], whole[1::2], strict=True))
    return rows, {key: (int(at), patch) for key, at, patch in zip(parts[::3], parts[1::3], parts[2::3], strict=True)}
