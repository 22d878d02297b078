"""What a worker says on stderr: one line an event, JSON when nobody is watching a terminal."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

from streams.errors import TidemarkError

#: Libraries that would tell of every step, or show a traceback for what we say in one line ourselves.
CHATTY = {
    "streams": "ERROR",
    "aiokafka": "ERROR",
    "faust": "ERROR",
    "mode": "ERROR",
    "kafka": "CRITICAL",
    "asyncio": "ERROR",
}
#: A library may say the same at most this often; with Kafka away aiokafka would write 118 lines a second.
REPEAT_S = 1.0
#: Kinds of messages remembered: some hold what others give as arguments, so there is no end to them.
KINDS = 1000


def configure(level: str) -> None:
    """Send our events and the libraries' log records to stderr in one form. Call once, at the start of a worker."""
    threading.excepthook = _ended
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    watched = sys.stderr.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer() if watched else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        # What is below the level costs next to nothing: there is a line for each batch.
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Repeats())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _briefly],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name, least in CHATTY.items():
        # Faust leaves aiokafka at DEBUG: 3,000 records a second are then made and thrown away.
        logging.getLogger(name).setLevel(least)


class Repeats(logging.Filter):
    """Lets the same message of a library pass once a second; the next one that passes says how many were `left_out`.

    The same: the same logger and text, whatever is filled in. Our own events all pass. `clock`: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._passed_s: dict[tuple[str, str], float] = {}
        self._left_out: dict[tuple[str, str], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        if record.name.partition(".")[0] not in CHATTY:
            return True
        kind, now_s = (record.name, str(record.msg)), self._clock()
        if now_s - self._passed_s.get(kind, -REPEAT_S) < REPEAT_S:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return False
        if len(self._passed_s) >= KINDS:
            self._passed_s.clear()
            self._left_out.clear()
        self._passed_s[kind] = now_s
        record.left_out = self._left_out.pop(kind, 0)
        return True


def _briefly(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A library's message is one line: what goes wrong foreseeably is explained at the end of the program."""
    event.pop("exc_info", None)
    record = event.get("_record")
    if record is not None:
        record.exc_info = record.exc_text = None
        if left_out := getattr(record, "left_out", 0):
            event["left_out"] = left_out
    event["event"] = str(event["event"]).splitlines()[0] if event["event"] else ""
    return event


def _ended(thread: threading.ExceptHookArgs) -> None:
    """A thread that ends with one of our own errors ends the worker, which says it in one line."""
    if not isinstance(thread.exc_value, TidemarkError):
        threading.__excepthook__(thread)
