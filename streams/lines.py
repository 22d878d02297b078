"""One line of NDJSON, as `simulate` and `convert` write it and `produce` reads it, becomes one record to send."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from models.events import EARLIEST_MS, LATEST_MS, to_ms
from streams.errors import TidemarkError


class BadLine(TidemarkError):
    """A line is not what `produce` reads. Everything before it has been delivered, nothing after it was sent."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One line as a record. `at_ms`: None when the line tells no time."""

    topic: str
    key: bytes | None
    value: bytes | None
    at_ms: int | None
    headers: list[tuple[str, bytes]]


BLANK = re.compile(r"[ \t\r\n]*")
#: A line as `simulate` and `convert` write it.
USUAL = re.compile(r'\{"topic":"([^"\\]*)","key":"([^"\\]*)","value":(\{.*\}),"timestamp":(\d{1,15})\}\s*', re.ASCII)
DECODER = json.JSONDecoder()


def read_line(line: str, number: int, topics: Mapping[str, str]) -> Outgoing:
    """One line as a record for the broker's topic of that name, or `BadLine`."""
    if (usual := USUAL.fullmatch(line)) and usual[1] in topics and _is_json(usual[3]):
        return Outgoing(topics[usual[1]], usual[2].encode(), usual[3].encode(), int(usual[4]), [])
    try:
        found, value_text = members(line)
        return Outgoing(
            topic=_topic(found, topics),
            key=_key(found),
            value=_value(found, value_text),
            at_ms=_time(found),
            headers=_headers(found),
        )
    except (ValueError, TypeError, RecursionError) as problem:
        raise BadLine(f"line {number}: {_why(problem)}") from None


def _why(problem: Exception) -> str:
    """In words; where JSON ends is a place in this line, and not in a line of its own."""
    if isinstance(problem, json.JSONDecodeError):
        return f"not a JSON object: {problem.msg} at character {problem.pos + 1}"
    return str(problem) if isinstance(problem, ValueError) else "not a JSON object"


def _is_json(text: str) -> bool:
    """Whether the text is one JSON value: then the pattern cut the line where JSON does."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def members(line: str) -> tuple[dict[str, Any], str | None]:
    """The members of the line's object, and the very text of its `value`: reading and writing it could change it."""
    found: dict[str, Any] = {}
    value_text = None
    at = _after(line, 0, "{")
    more = line[at : at + 1] != "}"
    while more:
        name, at = DECODER.raw_decode(line, _skip(line, at))
        begin = _after(line, at, ":")
        found[name], at = DECODER.raw_decode(line, begin)
        if name == "value":
            value_text = line[begin:at]
        at = _skip(line, at)
        more = line[at : at + 1] == ","
        at += more
    if line[_after(line, at, "}") :].strip():
        raise ValueError("more than one JSON object")
    return found, value_text


def _after(line: str, at: int, expected: str) -> int:
    at = _skip(line, at)
    if line[at : at + 1] != expected:
        raise ValueError(f"not a JSON object: {expected} expected at character {at + 1}")
    return _skip(line, at + 1)


def _skip(line: str, at: int) -> int:
    match = BLANK.match(line, at)
    return match.end() if match else at


def _topic(found: dict[str, Any], topics: Mapping[str, str]) -> str:
    name = found.get("topic")
    if not isinstance(name, str) or name not in topics:
        raise ValueError(f"topic must be {' or '.join(topics)}")
    return topics[name]


def _key(found: dict[str, Any]) -> bytes | None:
    key = found.get("key")
    if not isinstance(key, str | None):
        raise ValueError("key must be a text or null")
    return None if key is None else key.encode()


def _value(found: dict[str, Any], value_text: str | None) -> bytes | None:
    if ("value" in found) == ("value_base64" in found):
        raise ValueError('either "value" or "value_base64" must be there (null for a null value)')
    if value_text is not None:
        return None if value_text == "null" else value_text.encode()
    try:
        return base64.b64decode(found["value_base64"], validate=True)
    except (TypeError, binascii.Error):
        raise ValueError("value_base64 is not base64") from None


def _time(found: dict[str, Any]) -> int | None:
    at_ms = found.get("timestamp")
    if at_ms is not None:
        if type(at_ms) is not int or not 0 <= at_ms <= LATEST_MS:
            raise ValueError("timestamp must be integer epoch milliseconds")
        return at_ms
    value = found.get("value")
    when = value.get("occurred_at") if isinstance(value, dict) else None
    if type(when) is not int and not isinstance(when, str):
        return None
    with suppress(TypeError):  # a text without an offset
        at_ms = to_ms(when)
    return at_ms if at_ms is not None and EARLIEST_MS <= at_ms <= LATEST_MS else None


def _headers(found: dict[str, Any]) -> list[tuple[str, bytes]]:
    headers = found.get("headers") or {}
    if not isinstance(headers, dict) or not all(isinstance(text, str) for text in headers.values()):
        raise ValueError("headers must be an object of texts")
    return [(name, text.encode()) for name, text in headers.items()]
