"""Messages in the pending slot and on their way: nothing lost, nothing changed, order kept."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.effects import Quarantined
from models.records import Record
from models.state import TOUCHES
from streams import announce
from streams.announce import ALONE, FRAMING, SHA256, Message, Outbox, pack, quarantine, shortened, unpack
from streams.errors import Refused, Unavailable

headers = st.lists(st.tuples(st.text(max_size=9), st.binary(max_size=9)), max_size=3).map(tuple)
messages = st.builds(
    Message,
    st.text(min_size=1, max_size=9),
    st.none() | st.binary(max_size=9),
    st.none() | st.binary(max_size=99),
    headers,
)


@given(st.lists(messages, max_size=5))
def test_a_pending_slot_gives_back_what_was_packed(sent: list[Message]) -> None:
    packed = pack(sent)
    assert unpack(packed) == sent
    assert bool(packed) == bool(sent)


def test_a_pending_slot_of_another_version_is_refused() -> None:
    with pytest.raises(Refused, match="another version"):
        unpack(b"\x09rest")


def rejected(value: bytes | None = b"{bad", **changed: object) -> Quarantined:
    record = Record(17, 5, b"w1", value, (("trace", b"1"), ("trace", b"2")))
    return Quarantined(TOUCHES, record, "not_json", "line 1, é")


OURS = (
    ("tidemark.rejected.reason", b"not_json"),
    ("tidemark.rejected.detail", "line 1, é".encode()),
    ("tidemark.rejected.topic", b"campaign.touches"),
    ("tidemark.rejected.partition", b"3"),
    ("tidemark.rejected.offset", b"17"),
)


@pytest.mark.parametrize("value", [b"{bad", b"", None])
def test_a_rejected_record_goes_on_as_it_came_with_our_headers_first(value: bytes | None) -> None:
    message = quarantine(rejected(value), ("campaign.touches", 3), "rejected", 1 << 20)
    assert message == Message("rejected", b"w1", value, (*OURS, ("trace", b"1"), ("trace", b"2")))


def test_a_rejected_record_that_does_not_fit_goes_without_its_value() -> None:
    value = b"x" * 100_000
    whole = quarantine(rejected(value), ("campaign.touches", 3), "rejected", 200_000)
    fits = whole.size + FRAMING
    assert quarantine(rejected(value), ("campaign.touches", 3), "rejected", fits).value == value
    message = quarantine(rejected(value), ("campaign.touches", 3), "rejected", fits - 1)
    digest = (SHA256, hashlib.sha256(value).hexdigest().encode())
    assert message == Message("rejected", b"w1", b"", (*OURS, digest, ("trace", b"1"), ("trace", b"2")))


def test_a_record_without_key_and_value_goes_with_an_empty_value_because_kafka_takes_no_other() -> None:
    record = Record(17, 5, None, None)
    message = quarantine(Quarantined(TOUCHES, record, "null_value", ""), ("campaign.touches", 3), "rejected", 1 << 20)
    assert (message.key, message.value) == (None, b"")
    assert message.headers[-1] == ("tidemark.rejected.null_value", b"true")


def test_a_messages_size_counts_the_bytes_of_its_headers_names() -> None:
    assert Message("t", b"ke", b"val", (("\ufffd\ufffd", b"1"), ("ß", b""))).size == 2 + 3 + 6 + 1 + 2


def test_a_key_larger_than_any_message_is_left_out_and_that_is_said() -> None:
    record = Record(17, 5, bytes(300_000), b"x", (("trace", b"1"),))
    message = quarantine(Quarantined(TOUCHES, record, "key_mismatch", ""), ("campaign.touches", 3), "rejected", 200_000)
    assert (message.key, message.value) == (b"", b"")
    assert message.size < 1000
    assert message.headers[-1][0] == "tidemark.rejected.left_out"


class TooLarge(Exception):
    """What Kafka says to a message beyond its limit."""


class Topic:
    """A list is a Kafka topic; every attempt may fail at once, or when it is acknowledged."""

    def __init__(self, fails: Callable[[Message, int], str] = lambda *_: "") -> None:
        self.messages: list[Message] = []
        self.tries = 0
        self._fails = fails

    async def send(self, message: Message) -> Awaitable[object]:
        self.tries += 1
        how = self._fails(message, self.tries)
        if how == "at once":
            raise OSError(how)

        async def acknowledged() -> None:
            if how == "too large":
                raise TooLarge
            if how:
                raise OSError(how)
            self.messages.append(message)

        return acknowledged()


def outbox(topic: Topic, give_up_s: float = 60) -> Outbox:
    return Outbox(topic.send, lambda problem: isinstance(problem, TooLarge), give_up_s)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announce, "PAUSE_S", 0)


@given(st.lists(st.sampled_from(["", "", "at once", "later"]), max_size=30))
def test_every_message_arrives_once_whatever_fails_before(outcomes: list[str]) -> None:
    topic = Topic(lambda _, attempt: outcomes[attempt - 1] if attempt <= len(outcomes) else "")
    sent = [Message("t", b"%d" % n, b"v") for n in range(5)]
    asyncio.run(outbox(topic).announce(sent))
    assert sorted(topic.messages) == sent
    if not any(outcomes):
        assert topic.messages == sent


def test_a_rejected_record_too_large_for_its_topic_is_shortened() -> None:
    topic = Topic(lambda message, _: "too large" if message.size > ALONE else "")
    large = quarantine(rejected(bytes(2 * ALONE)), ("campaign.touches", 3), "rejected", 1 << 20)
    small = Message("changes", b"w", b"{}")
    asyncio.run(outbox(topic).announce([large, small]))
    assert sorted(topic.messages) == sorted([shortened(large), small])


def test_another_message_too_large_for_its_topic_is_refused() -> None:
    topic = Topic(lambda *_: "too large")
    with pytest.raises(Refused, match=r"max\.message\.bytes"):
        asyncio.run(outbox(topic).announce([Message("digests", b"0", bytes(2 * ALONE))]))


def test_a_broker_that_stays_away_is_unavailable_in_one_line() -> None:
    topic = Topic(lambda *_: "later")
    with pytest.raises(Unavailable, match=r"Kafka has not taken messages for t .*OSError") as caught:
        asyncio.run(outbox(topic, give_up_s=0.05).announce([Message("t", b"k", b"v")]))
    assert "\n" not in str(caught.value)


def test_a_producer_that_is_stuck_is_not_waited_for() -> None:
    topic = Topic(lambda _, attempt: "later" if attempt > 1 else "")
    stuck = Outbox(topic.send, lambda _: False, stuck=lambda problem: isinstance(problem, OSError))
    with pytest.raises(Unavailable, match="start the worker again; the messages are still pending") as caught:
        asyncio.run(stuck.announce([Message("t", b"1", b"v"), Message("t", b"2", b"v")]))
    assert "\n" not in str(caught.value)
    assert topic.tries == 2


@pytest.mark.parametrize("where", ["sending", "the acknowledgement"])
def test_a_client_that_waits_for_ever_is_given_up_in_time(where: str) -> None:
    # An idempotent producer never lets a batch expire: while the broker is away it neither fails nor succeeds.
    async def scenario() -> None:
        never: asyncio.Future[object] = asyncio.get_running_loop().create_future()

        async def send(_: Message) -> Awaitable[object]:
            if where == "sending":
                await asyncio.Event().wait()
            return never

        waiting = Outbox(send, lambda _: False, give_up_s=0.2)
        since = [waiting.waiting_since]
        announcing = asyncio.create_task(waiting.announce([Message("t", b"k", b"v")]))
        await asyncio.sleep(0.05)
        since.append(waiting.waiting_since)
        with pytest.raises(Unavailable, match="still pending"):
            await asyncio.wait_for(announcing, 5)
        since.append(waiting.waiting_since)
        assert [each is None for each in since] == [True, False, True]

    asyncio.run(scenario())


def test_a_broker_that_comes_back_sooner_is_waited_for() -> None:
    async def scenario() -> None:
        acknowledged: list[asyncio.Future[object]] = []

        async def send(_: Message) -> Awaitable[object]:
            acknowledged.append(asyncio.get_running_loop().create_future())
            return acknowledged[-1]

        waiting = Outbox(send, lambda _: False, give_up_s=5)
        announcing = asyncio.gather(*(waiting.announce([Message("t", b"k", b"v")]) for _ in range(2)))
        await asyncio.sleep(0.05)
        since = waiting.waiting_since
        acknowledged[0].set_result(None)
        await asyncio.sleep(0.05)
        assert since is not None
        assert waiting.waiting_since is not None
        assert waiting.waiting_since >= since  # the other one still waits
        acknowledged[1].set_result(None)
        await announcing
        assert waiting.waiting_since is None

    asyncio.run(scenario())
