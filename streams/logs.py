"""What a worker says on stderr: one line an event, JSON when nobody is watching a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

#: Libraries that would tell of every step, or show a traceback for what we say in one line ourselves.
CHATTY = {
    "streams": "ERROR",
    "aiokafka": "ERROR",
    "faust": "ERROR",
    "mode": "ERROR",
    "kafka": "CRITICAL",
    "asyncio": "ERROR",
}


def configure(level: str) -> None:
    """Send our events and the libraries' log records to stderr in one form. Call once, at the start of a worker."""
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


def _briefly(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A library's message is one line: what goes wrong foreseeably is explained at the end of the program."""
    event.pop("exc_info", None)
    record = event.get("_record")
    if record is not None:
        record.exc_info = record.exc_text = None
    event["event"] = str(event["event"]).splitlines()[0] if event["event"] else ""
    return event
