"""Record batches for kafka-python whose headers may have any names: a command must not end at what no worker minds.

kafka-python takes a name that is no UTF-8 for a damaged batch and never gets past it. Should a version of it read
batches in another way, that is what happens again: an error in one line, nothing counted wrongly.
"""

from __future__ import annotations

from typing import Any

from kafka.record.default_records import DefaultRecordBatch


class Names(bytearray):
    """Bytes that are decoded whatever they are; what is wrong becomes U+FFFD, as where a worker reads headers."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return Names(found) if isinstance(at, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, errors)


class Lenient(DefaultRecordBatch):  # type: ignore[misc]  # kafka-python has no types
    """A batch of which a record with a name that cannot be read is read again, leniently, and so is the rest."""

    _buffer: bytearray

    def _read_msg(self) -> Any:
        try:
            return super()._read_msg()
        except UnicodeDecodeError:
            self._buffer = Names(self._buffer)
            return super()._read_msg()  # it had not moved on
