"""One partition from claim to hand-over, on a real Redis; a list is a Kafka topic, a cancelled task is a crash."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest

from models.journeys import EMPTY_JOURNAL, has_fees
from models.layout import FEE
from models.observe import Digest
from models.records import Record
from models.rows import FEES, HAS_JOURNAL, LOOK_EVERY, unpack_rows
from models.rules import DAY_MS, Rules
from models.segments import Catalogue, Segment
from models.state import TOUCHES, TRANSACTIONS
from streams.announce import Message, Outbox
from streams.catalogue import CatalogueWatch
from streams.errors import Foreign, Refused, Unavailable
from streams.intake import Inbox, Merge, lanes_of
from streams.ledger import Ledger, Mark
from streams.ledger_reader import LedgerReader
from streams.partition import Partition, Surroundings
from streams.settings import Settings
from streams.tenure import Tenure, nonce
from tests.journals import as_version_4
from tests.kafka.cluster import RedisServer
from tests.test_intake import Arrival
from tests.test_ledger import redis_server, store, stored

__all__ = ["redis_server", "store"]  # fixtures

DAY_ONE = 1_700_000_000_000
IDS = ("id-x", "id-t")


def two_segments() -> Catalogue:
    """Spot traders here, stakers there."""
    centres = np.zeros((2, 16))
    centres[0, 8] = centres[1, 10] = 1.0
    ones = np.ones(16)
    segments = (Segment(1, 0, "spot traders", 0.5, 1), Segment(2, 1, "stakers", 0.5, 1))
    return Catalogue(
        mean=np.zeros(16), sd=ones, centres=centres, variances=np.full((2, 16), 0.1), shares=np.array([0.5, 0.5]),
        version=1, segments=segments,
    )  # fmt: skip


def transaction(offset: int, wallet: str, day: float, product: str) -> Record:
    event: dict[str, Any] = {
        "event_id": f"x{offset}",
        "wallet_id": wallet,
        "occurred_at": DAY_ONE + int(day * DAY_MS),
        "kind": "trade",
        "product": product,
        "asset": "ETH",
        "usd_value": "100",
        "fee_usd": "0.1",
    }
    return Record(offset, event["occurred_at"], wallet.encode(), json.dumps(event).encode())


def touch(offset: int, wallet: str, day: float) -> Record:
    event: dict[str, Any] = {
        "event_id": f"t{offset}",
        "wallet_id": wallet,
        "occurred_at": DAY_ONE + int(day * DAY_MS),
        "campaign_id": f"c{offset % 3}",
        "channel": "email",
        "cost_usd": "0.01",
    }
    return Record(offset, event["occurred_at"], wallet.encode(), json.dumps(event).encode())


def season(days: int = 30, wallets: int = 6) -> tuple[list[Record], list[Record]]:
    """Transactions and touches of both topics; after a quarter everybody goes from spot to staking. One is no event."""
    transactions: list[Record] = []
    touches: list[Record] = []
    for day in range(days):
        for number in range(wallets):
            product = "spot" if day < days // 4 else "staking"
            transactions.append(transaction(len(transactions), f"w{number}", day + number / 100, product))
            if day % 5 == number % 5:
                touches.append(touch(len(touches), f"w{number}", day + number / 100 - 0.5))
    transactions[40] = Record(40, transactions[40].timestamp, b"w1", b"{bad", (("trace", b"1"),))
    return transactions, touches


def busy_hour(wallets: int = 2, fees: int = 40) -> tuple[list[Record], list[Record]]:
    """So many fees of each wallet within an hour that most spill; now and then a touch."""
    transactions: list[Record] = []
    touches: list[Record] = []
    for number in range(fees):
        for wallet in range(wallets):
            transactions.append(transaction(len(transactions), f"w{wallet}", number / 2000, "spot"))
            if wallet and number % 15 == 7:
                touches.append(touch(len(touches), f"w{wallet}", number / 2000))
    return transactions, touches


@dataclass
class Kafka:
    """Topics as lists. `deaf`: from then on nothing is acknowledged, until it `hears`."""

    sent: list[Message] = field(default_factory=list)
    deaf: bool = False
    unheard: list[tuple[Message, asyncio.Future[None]]] = field(default_factory=list)

    async def send(self, message: Message) -> Awaitable[object]:
        if self.deaf:
            self.unheard.append((message, asyncio.get_running_loop().create_future()))
            return self.unheard[-1][1]
        self.sent.append(message)
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def hear(self) -> None:
        """Take what was sent meanwhile."""
        self.deaf = False
        for message, taken in self.unheard:
            self.sent.append(message)
            taken.set_result(None)

    def of(self, topic: str) -> list[Message]:
        return [message for message in self.sent if message.topic == f"tidemark.{topic}"]


class Known:
    """Both logs have ended, and everything has been taken."""

    position = stable = taken = 0
    polled_ms = 1 << 62


class Gates:
    """Nothing is held back here."""

    def hold(self, lane: int) -> None: ...
    def release(self, lane: int) -> None: ...


class House:
    """A worker's surroundings without Kafka, which is waited for `patience_s` seconds."""

    patience_s = 600.0

    def __init__(self, store: RedisServer, kafka: Kafka, pinned: Catalogue | None, **settings: Any) -> None:
        self.ledger = Ledger(store.url, give_up_s=20)
        self.kafka = kafka
        given = Settings(partitioner="off", **settings)
        self.watch = CatalogueWatch(self.ledger, pinned)
        self.around = Surroundings(given, given.rules(), self.ledger, self.watch, 1 << 20)

    async def claim(self, logs: Sequence[list[Record]]) -> tuple[Partition, Tenure]:
        """Partition 0 with everything in its inbox from where its mark stands."""
        mark, pending = await self.ledger.claim(0, Mark(0, (0, 0), IDS, 1, nonce()))
        tenure = Tenure(0, self.ledger, Outbox(self.kafka.send, lambda _: False, self.patience_s), mark)
        await tenure.inherit(pending)
        inbox = Inbox(Merge(*lanes_of(mark.offsets), lambda _: Known()), Gates(), 10_000)
        for lane in (TRANSACTIONS, TOUCHES):
            if rest := logs[lane][mark.offsets[lane] :]:
                inbox.put(lane, Arrival(rest, mark.offsets[lane]))
        return Partition(0, tenure, inbox, self.around, 1000), tenure

    async def work(self, logs: Sequence[list[Record]]) -> Tenure:
        """Claim, work through both logs, hand over."""
        partition, tenure = await self.claim(logs)
        running = asyncio.create_task(partition.run())
        try:
            await until(lambda: running.done() or tenure.mark.offsets == tuple(len(log) for log in logs))
        finally:
            partition.inbox.close()
        await running
        return tenure


async def until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.005)


def at_home(store: RedisServer, scenario: Callable[[House], Awaitable[Any]], **options: Any) -> Kafka:
    kafka = options.pop("kafka", None) or Kafka()

    async def run() -> None:
        house = House(store, kafka, options.pop("pinned", two_segments()), **options)
        try:
            await scenario(house)
        finally:
            await house.ledger.close()

    asyncio.run(run())
    return kafka


def content(store: RedisServer) -> dict[bytes, Any]:
    """Everything in Redis but what tells how often was committed: number and nonce of the mark, patches of rows."""
    found = stored(store)
    rows = {key: unpack_rows([row]).tobytes() for key, row in found.items() if key.startswith(b"{0}:w:")}
    mark = Mark.unpack(found.pop(b"{0}:mark"))
    cells = found.get(b"{0}:roi", {})
    found[b"{0}:roi"] = {
        name: cell for name, cell in cells.items() if set(cell.split()) != {b"0"}
    }  # none and 0 are one
    return found | rows | {b"mark": (mark.offsets, mark.clock_ms, mark.catalogue, mark.topics)}


def test_a_partition_counts_announces_and_leaves_nothing_pending(store: RedisServer) -> None:
    logs = season()
    kafka = at_home(store, lambda house: house.work(logs))
    with closing(LedgerReader(store.url)) as reader:
        mark, totals, roi, _ = reader.snapshot(0)
        assert mark is not None
        counted = json.loads(totals or b"")
        assert mark.offsets == (len(logs[0]), len(logs[1]))
        assert mark.catalogue == (1, two_segments().hash)
        assert counted["transactions"] == len(logs[0]) - 1
        assert counted["touches"] == len(logs[1])
        assert counted["rejected"] == {"not_json": 1}
        assert counted["revenue_micros"] == 100_000 * (len(logs[0]) - 1)
        assert sum(int(cell.split()[0]) for cell in roi.values()) == counted["cost_micros"] == 10_000 * len(logs[1])
        for rule in range(5):
            assert sum(int(cell.split()[1 + rule]) for cell in roi.values()) == counted["revenue_micros"]
    assert content(store)[b"{0}:pending"] == b""
    changes = kafka.of("segment.changes")
    assert len(changes) == counted["segment_changes"] > 6
    assert [message.key for message in changes[:6]] == [b"w%d" % n for n in range(6)]
    (bad,) = kafka.of("events.rejected")
    assert (bad.key, bad.value, bad.headers[-1]) == (b"w1", b"{bad", ("trace", b"1"))
    assert ("tidemark.rejected.offset", b"40") in bad.headers


@pytest.mark.parametrize("records", [1, 7])
def test_where_a_batch_is_cut_does_not_matter(store: RedisServer, records: int) -> None:
    logs = season()
    whole = at_home(store, lambda house: house.work(logs))
    expected = content(store)
    with closing(store.client()) as client:
        client.flushall()
    cut = at_home(store, lambda house: house.work(logs), batch_records=records)
    assert content(store) == expected
    assert cut.of("segment.changes") == whole.of("segment.changes")


@pytest.mark.parametrize("records", [1, 7])
def test_spilled_fees_lie_beside_touches_however_a_batch_is_cut(store: RedisServer, records: int) -> None:
    logs = busy_hour()
    at_home(store, lambda house: house.work(logs))
    expected = content(store)
    assert [len(expected[b"{0}:f:w%d" % wallet]) for wallet in range(2)] == [36 * FEE.size] * 2
    assert b"{0}:j:w0" not in expected
    assert not has_fees(expected[b"{0}:j:w1"])
    with closing(store.client()) as client:
        client.flushall()
    at_home(store, lambda house: house.work(logs), batch_records=records)
    assert content(store) == expected


@pytest.mark.parametrize("begun", [8, 20, 27])
def test_wallets_that_version_4_stored_are_gone_on_with(store: RedisServer, begun: int) -> None:
    """With a page alone, with one that was turned and left over, with both; to the last byte."""
    logs = busy_hour()
    until_ms = DAY_ONE + begun * DAY_MS // 2000
    first = [[record for record in log if record.timestamp < until_ms] for log in logs]
    at_home(store, lambda house: house.work(logs))
    expected = content(store)
    with closing(store.client()) as client:
        client.flushall()
    at_home(store, lambda house: house.work(first))
    store_as_version_4(store, b"w0", b"w1")
    at_home(store, lambda house: house.work(logs), batch_records=3)
    found = content(store)
    if begun >= LOOK_EVERY + FEES:  # version 4 wrote a journal for fees alone
        row = unpack_rows([expected[b"{0}:w:w0"]])
        row["flags"] |= HAS_JOURNAL
        expected |= {b"{0}:j:w0": EMPTY_JOURNAL, b"{0}:w:w0": row.tobytes()}
    assert found == expected


def store_as_version_4(store: RedisServer, *wallets: bytes) -> None:
    before = stored(store)
    with closing(store.client()) as client:
        for wallet in wallets:
            names = [b"{0}:%b:%b" % (kind, wallet) for kind in (b"w", b"j", b"f")]
            row, *more = map(before.get, names)
            for name, value in zip(names, as_version_4(row or b"", *more), strict=True):
                if value is None:
                    client.delete(name)
                else:
                    client.set(name, value)


def test_fees_that_are_gone_are_missed(store: RedisServer) -> None:
    logs = busy_hour()
    at_home(store, lambda house: house.work([logs[0][:40], logs[1]]))
    with closing(store.client()) as client:
        client.delete("{0}:f:w1")

    async def refused(house: House) -> None:
        partition, _ = await house.claim(logs)
        with pytest.raises(Refused, match="the fees of wallet b'w1' are gone"):
            await partition.run()

    at_home(store, refused)


def test_a_crash_after_the_commit_and_before_the_announcement_loses_nothing(store: RedisServer) -> None:
    logs = season()
    undisturbed = at_home(store, lambda house: house.work(logs))
    expected = content(store)
    with closing(store.client()) as client:
        client.flushall()
    kafka = Kafka()

    async def crash(house: House) -> None:
        partition, tenure = await house.claim(logs)
        running = asyncio.create_task(partition.run())
        await until(lambda: tenure.mark.number > 2)
        kafka.deaf = True
        await until(lambda: bool(tenure.mark.number) and stuck(store))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    at_home(store, crash, kafka=kafka, batch_records=7)
    assert content(store)[b"{0}:pending"]
    kafka.deaf = False
    at_home(store, lambda house: house.work(logs), kafka=kafka)
    assert content(store) == expected
    assert kafka.of("segment.changes") == undisturbed.of("segment.changes")
    assert kafka.of("events.rejected") == undisturbed.of("events.rejected")


def test_the_next_commit_waits_until_what_the_last_one_announces_is_in_kafka(store: RedisServer) -> None:
    logs = season()
    undisturbed = at_home(store, lambda house: house.work(logs), batch_records=7)
    expected = content(store)
    with closing(store.client()) as client:
        client.flushall()

    async def slow(house: House) -> None:
        kafka.deaf = True
        partition, tenure = await house.claim(logs)
        running = asyncio.create_task(partition.run())
        await until(lambda: bool(kafka.unheard))
        number = tenure.mark.number
        await asyncio.sleep(0.3)
        assert (tenure.mark.number, stuck(store)) == (number, True)  # a commit would take the slot
        assert partition.coming  # for it has records, and will step them when it may
        kafka.hear()
        await until(lambda: tenure.mark.offsets == tuple(len(log) for log in logs))
        partition.inbox.close()
        await running

    kafka = Kafka()
    at_home(store, slow, kafka=kafka, batch_records=7)
    assert content(store) == expected
    assert kafka.of("segment.changes") == undisturbed.of("segment.changes")


def test_a_partition_that_cannot_announce_ends_even_if_nothing_more_comes(store: RedisServer) -> None:
    transactions, _ = busy_hour()

    async def in_vain(house: House) -> None:
        house.kafka.deaf, house.patience_s = True, 0.3
        partition, tenure = await house.claim((transactions, []))
        with pytest.raises(Unavailable, match="Kafka has not taken messages"):
            await asyncio.wait_for(partition.run(), 10)
        assert stuck(store)
        assert tenure.mark.offsets == (len(transactions), 0)

    at_home(store, in_vain, batch_records=4000)


def test_newcomers_of_a_partition_that_is_all_in_memory_are_not_read(store: RedisServer) -> None:
    logs = season()
    forget_reads(store)
    at_home(store, lambda house: house.work(logs), batch_records=7)
    assert reads(store) == 1  # the totals
    expected = content(store)
    with closing(store.client()) as client:
        client.flushall()
    forget_reads(store)
    for day in (10, 31):  # of the second owner each wallet is read once, and its journal
        begun = [[record for record in log if record.timestamp < DAY_ONE + day * DAY_MS] for log in logs]
        at_home(store, partial(House.work, logs=begun), batch_records=1)
    assert reads(store) == 1 + 1 + 6 + 6
    assert content(store) == expected


def forget_reads(store: RedisServer) -> None:
    with closing(store.client()) as client:
        client.config_resetstat()


def reads(store: RedisServer) -> int:
    """How often Redis was asked for values."""
    with closing(store.client()) as client:
        return int(client.info("commandstats")["cmdstat_mget"]["calls"])


def stuck(store: RedisServer) -> bool:
    """Whether something is committed and not announced."""
    with closing(store.client()) as client:
        return bool(client.get("{0}:pending"))


def test_what_a_partition_knew_dies_with_its_tenure(store: RedisServer) -> None:
    """A -> B -> A: the wallets that A remembers have been moved on by B."""
    thirds = [[[r for r in log if r.timestamp < DAY_ONE + day * DAY_MS] for log in season()] for day in (10, 20, 31)]
    at_home(store, lambda house: house.work(thirds[2]))
    expected = content(store)
    with closing(store.client()) as client:
        client.flushall()

    async def journey(a: House) -> None:
        b = House(store, Kafka(), two_segments())
        for house, logs in zip((a, b, a), thirds, strict=True):
            await house.work(logs)
        await b.ledger.close()

    at_home(store, journey)
    assert content(store) == expected


def test_a_partition_that_has_another_owner_ends_at_its_next_commit(store: RedisServer) -> None:
    async def thrown_out(house: House) -> None:
        partition, _ = await house.claim(season())
        await house.claim(season())
        with pytest.raises(Foreign):
            await partition.run()

    kafka = at_home(store, thrown_out)
    assert not kafka.sent  # nothing is announced that was not committed


@pytest.mark.parametrize(
    ("key", "value"), [("{0}:totals", "[]"), ("{0}:w:w1", "x"), ("{0}:j:w1", None), ("{0}:j:w1", "\2" * 99)]
)
def test_what_cannot_be_read_is_refused_in_one_line(store: RedisServer, key: str, value: str | None) -> None:
    logs = season()
    at_home(store, lambda house: house.work([logs[0][:60], logs[1][:5]]))
    with closing(store.client()) as client:
        if value is None:
            client.delete(key)
        else:
            client.set(key, value)

    async def refused(house: House) -> None:
        with pytest.raises(Refused, match="of partition 0 cannot be read"):
            await house.work(logs)

    at_home(store, refused)


def test_learning_rows_leave_with_a_digest_at_the_latest_at_the_hand_over(store: RedisServer) -> None:
    kafka = at_home(store, lambda house: house.work(season()))
    digests = [Digest.unpack(message.value or b"") for message in kafka.of("batch.digests")]
    assert digests
    assert {digest.partition for digest in digests} == {0}
    numbers = [digest.number for digest in digests]
    assert numbers == sorted(set(numbers))
    assert (
        sum(len(digest.rows) for digest in digests) == 6 * 29 - 1
    )  # a wallet's row on each later day; one is no event


def test_an_idle_partition_tells_what_it_learned_within_seconds_and_once(store: RedisServer) -> None:
    kafka = Kafka()

    def told() -> int:
        return sum(len(Digest.unpack(message.value or b"").rows) for message in kafka.of("batch.digests"))

    async def nothing_more_comes(house: House) -> None:
        partition, tenure = await house.claim(season())
        running = asyncio.create_task(partition.run())
        await until(lambda: told() == 6 * 29 - 1)
        number = tenure.mark.number
        await asyncio.sleep(1.5)
        assert tenure.mark.number == number  # who has nothing to tell commits nothing
        partition.inbox.close()
        await running

    at_home(store, nothing_more_comes, kafka=kafka)


def test_a_backlog_waits_for_the_model_then_goes_on_and_counts_it(
    store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.lessons.WAIT_S", 0.3)
    logs = season()

    async def nobody_learns(house: House) -> None:
        began = time.monotonic()
        await house.work(logs)
        assert house.around.tally.waits == 1  # and not again, as long as the overview stays silent
        assert time.monotonic() - began > 0.3

    at_home(store, nobody_learns, pinned=None, batch_records=7)


def test_a_backlog_goes_on_as_soon_as_the_overview_has_heard(store: RedisServer) -> None:
    logs = season()

    async def somebody_learns(house: House) -> None:
        async def overview() -> None:
            learned: set[int] = set()
            while True:
                for message in house.kafka.of("batch.digests"):
                    digest = Digest.unpack(message.value or b"")
                    if digest.number not in learned:
                        learned.add(digest.number)
                        house.watch.heard = {0: digest.number}
                        house.watch.learned_until_ms = digest.clock_ms
                await asyncio.sleep(0.01)

        listening = asyncio.create_task(overview())
        await house.work(logs)
        listening.cancel()
        assert house.around.tally.waits == 0

    kafka = at_home(store, somebody_learns, pinned=None, batch_records=7)
    assert len(kafka.of("batch.digests")) >= 10  # every second event-day at least


def test_the_rules_come_from_the_settings() -> None:
    assert Settings().rules() == Rules()
