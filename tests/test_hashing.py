"""Hashes of columns equal the hashes of their texts, and Kafka's own."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as kafkas_murmur2

from models.hashing import bucket, hash64, murmur2, partitions_of

texts = st.lists(st.binary(max_size=40), max_size=20)


@pytest.mark.parametrize(
    ("key", "signed"),
    [  # of the tests of Apache Kafka's own client
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_gives_kafkas_published_values(key: bytes, signed: int) -> None:
    assert murmur2([key]).tolist() == [signed & 0x7FFFFFFF]


@given(texts)
def test_murmur2_of_a_column_is_that_of_kafkas_client(keys: list[bytes]) -> None:
    assert murmur2(keys).tolist() == [kafkas_murmur2(key) & 0x7FFFFFFF for key in keys]


@given(texts)
def test_a_hash_does_not_depend_on_its_neighbours(keys: list[bytes]) -> None:
    assert hash64(keys).tolist() == [hash64([key]).tolist()[0] for key in keys]


@given(texts)
def test_different_texts_have_different_hashes_and_none_is_zero(keys: list[bytes]) -> None:
    hashes = hash64(keys).tolist()
    assert len(set(hashes)) == len(set(keys))
    assert 0 not in hashes


def test_a_hash_knows_how_many_zero_bytes_there_are() -> None:
    assert len(set(hash64([bytes(size) for size in range(50)]).tolist())) == 50


def test_hashes_are_the_same_for_ever() -> None:
    """They are stored: another value would make every remembered id new."""
    assert hash64([b"", b"e1", b"a-little-bit-long-string"]).tolist() == [
        0xE2399855D6D3A452,
        0xC820ADA9552535C9,
        0xDC9CDB3E86E483A3,
    ]
    assert [bucket(asset, 8) for asset in ("BTC", "ETH", "USDC", "")] == [2, 3, 4, 2]


@given(texts, st.integers(1, 100))
def test_a_partition_is_the_hash_modulo_their_number(keys: list[bytes], partitions: int) -> None:
    assert partitions_of(keys, partitions, "murmur2").tolist() == [murmur2([k])[0] % partitions for k in keys]
    assert partitions_of(keys, partitions, "crc32").tolist() == [zlib.crc32(k) % partitions for k in keys]
