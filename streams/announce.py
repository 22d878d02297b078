"""Messages to other topics: packed into a partition's pending slot, then sent until Kafka has them.

A message is sent only after the commit that holds it. The next commit clears the slot; after a crash the next owner
sends it again, so a message may come twice, with the same content, and never not at all.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import structlog

from streams.errors import Refused, Unavailable

if TYPE_CHECKING:
    from models.effects import Quarantined

#: First byte of a pending slot that is not empty.
FORMAT = 1
#: How long messages wait for Kafka before the worker gives up, and the pause between two tries.
GIVE_UP_S, PAUSE_S = 600.0, 1.0
#: An acknowledgement takes milliseconds; later than this, the log says so.
SLOW_S = 5.0
#: What Kafka adds to a message; one this much below the limit fits.
FRAMING = 4096
#: More than the producer's batch size: a larger message is alone in its batch, so "too large" can only mean itself.
ALONE = 32 * 1024
SHA256 = "tidemark.rejected.sha256"

_NONE = 0xFFFFFFFF
_length = struct.Struct(">I")

log = structlog.get_logger("tidemark.announce")


class Message(NamedTuple):
    """One message for Kafka; `value` None is a null value."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()

    @property
    def size(self) -> int:
        headers = sum(len(name.encode()) + len(value or b"") for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers


#: Hands a message to Kafka's client; what it returns is done when Kafka has acknowledged it.
Send = Callable[[Message], Awaitable[Awaitable[object]]]


def pack(messages: Sequence[Message]) -> bytes:
    """Messages -> the content of a pending slot; none -> empty."""
    if not messages:
        return b""
    frames = [bytes([FORMAT])]
    for topic, key, value, headers in messages:
        frames += (_length.pack(3 + 2 * len(headers)), _text(topic), _frame(key), _frame(value))
        for name, content in headers:
            frames += (_text(name), _frame(content))
    return b"".join(frames)


def unpack(packed: bytes) -> list[Message]:
    """The messages of a pending slot. Raises `Refused` on a format this program does not know."""
    if not packed:
        return []
    if packed[0] != FORMAT:
        raise Refused(
            "Redis holds pending messages of another version: run the version that wrote them until it is idle"
        )
    messages, at = [], 1
    while at < len(packed):
        (count,) = _length.unpack_from(packed, at)
        parts: list[bytes | None] = []
        at += 4
        for _ in range(count):
            part, at = _part(packed, at)
            parts.append(part)
        messages.append(_message(parts))
    return messages


def quarantine(found: Quarantined, source: tuple[str, int], topic: str, largest: int) -> Message:
    """A rejected record as it came, its own headers after ours; without its value if it is larger than `largest` bytes.

    `source`: the topic and partition it came from. `topic`: where it goes.
    """
    record, (origin, partition) = found.record, source
    ours = {
        "reason": found.reason,
        "detail": found.detail,
        "topic": origin,
        "partition": str(partition),
        "offset": str(record.offset),
    }
    headers = tuple((f"tidemark.rejected.{name}", text.encode(errors="replace")) for name, text in ours.items())
    value = record.value
    if record.key is None and value is None:  # Kafka's client does not send a record without key and value
        value, headers = b"", (*headers, NULL_VALUE)
    message = Message(topic, record.key, value, headers + tuple(record.headers))
    if message.size + FRAMING <= largest:
        return message
    message = shortened(message)
    return message if message.size + FRAMING <= largest else message._replace(key=b"", headers=(*headers, KEY_LEFT_OUT))


def shortened(message: Message) -> Message:
    """The message with an empty value and the SHA-256 of the value it had, after our own headers."""
    ours = [header for header in message.headers if header[0].startswith("tidemark.rejected.")]
    digest = hashlib.sha256(message.value or b"").hexdigest().encode()
    headers = (*ours, (SHA256, digest), *message.headers[len(ours) :])
    return message._replace(value=b"", headers=headers)


NULL_VALUE = ("tidemark.rejected.null_value", b"true")
KEY_LEFT_OUT = ("tidemark.rejected.left_out", b"key, headers and value: too large")


class Outbox:
    """Sends messages and waits for every acknowledgement; repeats what failed, in its order.

    The idempotent producer keeps the order within a partition: where a message fails for good, those after it do too.
    It also keeps trying for ever without a word, so how long to wait is decided here.

    `too_large`: whether Kafka refused a message for its size. `stuck`: whether this producer can send nothing more.
    """

    def __init__(
        self,
        send: Send,
        too_large: Callable[[BaseException], bool],
        give_up_s: float = GIVE_UP_S,
        stuck: Callable[[BaseException], bool] = lambda _: False,
    ) -> None:
        self._send, self._too_large, self._stuck, self._give_up_s = send, too_large, stuck, give_up_s
        self._began: list[float] = []
        self._problem = ""  # why Kafka does not take messages; empty while it does

    @property
    def waiting_since(self) -> float | None:
        """Since when (monotonic seconds) the oldest messages on their way wait for Kafka; None: none do."""
        return min(self._began, default=None)

    async def announce(self, messages: Iterable[Message]) -> None:
        """Raises `Unavailable` when Kafka has not taken all of them in time, `Refused` if it never will."""
        left = list(messages)
        if not left:
            return
        self._began.append(began := time.monotonic())
        slow = asyncio.get_running_loop().call_later(SLOW_S, self._note, left[0].topic)
        try:
            async with asyncio.timeout(self._give_up_s):
                await self._until_taken(left)
        except TimeoutError:
            topic, why = left[0].topic, self._problem or "no answer"
            raise Unavailable(
                f"Kafka has not taken messages for {topic} for {self._give_up_s:.0f} s ({why}): bring it back, then "
                "start again; they are still pending"
            ) from None
        finally:
            slow.cancel()
            self._began.remove(began)
        if self._problem:
            log.warning("kafka takes messages again", after_s=round(time.monotonic() - began, 1))
            self._problem = ""

    async def _until_taken(self, left: list[Message]) -> None:
        while left:
            failed = [(m, problem) for m, problem in zip(left, await self._try(left), strict=True) if problem]
            left = [self._again(message, problem) for message, problem in failed]
            for message, problem in failed:
                self._note(message.topic, repr(problem))
                if self._stuck(problem):
                    raise Unavailable(
                        f"Kafka's producer can send nothing more to {message.topic} ({problem!r}): start the worker "
                        "again; the messages are still pending"
                    )
            if failed:
                await asyncio.sleep(PAUSE_S)

    def _note(self, topic: str, problem: str = "") -> None:
        """Say once that messages wait; why may become known later."""
        if not self._problem:
            log.warning("kafka takes no messages, they wait", topic=topic, problem=problem or "no answer")
        self._problem = problem or self._problem or "no answer"

    async def _try(self, messages: list[Message]) -> list[BaseException | None]:
        """One try of each; None where Kafka has it."""
        outcomes: list[BaseException | None] = [None] * len(messages)
        sent = []
        for number, message in enumerate(messages):
            try:
                sent.append((number, await self._send(message)))
            except Exception as problem:  # noqa: BLE001 -- whatever it is, the message is not in Kafka
                outcomes[number] = problem
        results = await asyncio.gather(*(ack for _, ack in sent), return_exceptions=True)
        for (number, _), result in zip(sent, results, strict=True):
            outcomes[number] = result if isinstance(result, BaseException) else None
        return outcomes

    def _again(self, message: Message, problem: BaseException | None) -> Message:
        if problem is None or not self._too_large(problem) or message.size < ALONE:
            return message
        rejected = message.headers[:1] and message.headers[0][0].startswith("tidemark.rejected.")
        if not rejected or not message.value:
            raise Refused(
                f"{message.topic} does not take a message of {message.size} bytes: raise its max.message.bytes "
                "(`tidemark topics check`)"
            )
        return shortened(message)


def _frame(part: bytes | None) -> bytes:
    return _length.pack(_NONE) if part is None else _length.pack(len(part)) + part


@lru_cache(maxsize=1024)
def _text(text: str) -> bytes:
    """The frame of a topic or of a header's name: few of them come again and again."""
    return _frame(text.encode())


def _part(packed: bytes, at: int) -> tuple[bytes | None, int]:
    (length,) = _length.unpack_from(packed, at)
    at += 4
    return (None, at) if length == _NONE else (packed[at : at + length], at + length)


def _message(parts: list[bytes | None]) -> Message:
    topic, key, value, *headers = parts
    names = [(name or b"").decode() for name in headers[::2]]
    pairs = tuple(zip(names, headers[1::2], strict=True))
    return Message((topic or b"").decode(), key, value, pairs)  # type: ignore[arg-type]  # Kafka knows headers without value
