"""Which server a partition's keys are on, and that nothing shows a password."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from redis.crc import key_slot
from redis.exceptions import ClusterDownError, MovedError, NoPermissionError, ResponseError

from streams.errors import WrongSettings
from streams.ledger import OVERVIEW, Ledger, tag
from streams.ledger_reader import LedgerReader
from streams.settings import Settings
from streams.store import Address, Server, Slots, refusal, slot_of

owners = st.integers(0, 10_000) | st.just(OVERVIEW)


@given(owners, st.binary(max_size=40))
def test_every_key_of_a_partition_has_one_slot_whatever_its_name(owner: int | str, name: bytes) -> None:
    assert key_slot(tag(owner) + name) == slot_of(tag(owner))


def test_a_partition_is_where_its_slot_is_and_nowhere_when_nobody_has_it() -> None:
    slot = slot_of(tag(3))
    reply = [[0, slot - 1, [b"a", 1, b"id"]], [slot, slot, [b"", 2, b"id"], [b"replica", 9, b"id"]]]
    slots = Slots.read(reply, ("asked", 5))
    assert slots.place_of(tag(3)) == slots.place_of(tag(3)) == ("asked", 2)  # a node that does not know its own name
    assert slots.places == [("a", 1), ("asked", 2)]
    with pytest.raises(ClusterDownError):
        Slots(slots.ranges[:1]).place_of(tag(3))


def test_no_password_is_shown() -> None:
    address = Address("redis://user:SECRET@host:1/0", "SECRET")
    for shown in (address, Ledger(address), LedgerReader(address), Server(address)):
        assert "SECRET" not in repr(shown)


def test_what_a_url_says_wins_over_nothing_and_a_node_differs_by_its_place_only() -> None:
    address = Address("redis://user@host:1/3", "word")
    assert address.place == ("host", 1)
    assert Address("redis://").place == ("localhost", 6379)
    options = address.options({"host": "host", "port": 1, "db": 3, "username": "user"}, ("other", 2))
    assert (options["host"], options["port"], options["db"], options["password"]) == ("other", 2, 3, "word")


def test_certificates_that_cannot_be_read_are_wrong_settings() -> None:
    with pytest.raises(WrongSettings, match="TIDEMARK_REDIS_CA"):
        Address.of(Settings(redis=SecretStr("rediss://host"), redis_ca=Path(__file__)))


@pytest.mark.parametrize(
    ("problem", "word"),
    [
        (MovedError("1 127.0.0.1:1"), "TIDEMARK_REDIS_CLUSTER=true"),
        (ResponseError("This instance has cluster support disabled"), "no cluster"),
        (NoPermissionError("this user has no permissions to run the 'get' command"), r"docs/operations\.md"),
        (ResponseError("WRONGTYPE"), "WRONGTYPE"),
    ],
)
def test_an_answer_no_repeat_makes_better_says_what_to_do(problem: Exception, word: str) -> None:
    with pytest.raises(type(refusal(problem)), match=word):
        raise refusal(problem)
