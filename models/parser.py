"""The fast tier of the contract: one pass of msgspec's JSON parser over a record, at most as strict as `models.events`.

Its types are made from the contract's own, so a field is written down once. What it refuses, `judge` decides; what it
lets through although the contract may not (texts as amounts, bytes in fields nobody reads), `models.columns` looks at
again by column. pydantic's own JSON parser takes three times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from types import UnionType
from typing import Annotated, Any, NotRequired, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from models.events import AmountRule, Touch, Transaction

#: The bounds both libraries have words for.
BOUNDS = ("ge", "le", "min_length", "max_length", "pattern")


def looser(kind: Any) -> Any:
    """A type of the contract in msgspec's words. An amount is a number or any text."""
    inner, *rules = get_args(kind) or (kind,)
    if get_origin(kind) is NotRequired:
        return looser(inner)
    if get_origin(kind) in (Union, UnionType):
        return Union[tuple(looser(each) for each in (inner, *rules))]  # noqa: UP007 -- the types are known only here
    if get_origin(kind) is not Annotated:
        return kind
    if any(isinstance(rule, AmountRule) for rule in rules):
        return float | str
    bounds = {
        name: bound
        for rule in rules
        for one in (rule, *getattr(rule, "metadata", ()))
        for name in BOUNDS
        if (bound := getattr(one, name, None)) is not None
    }
    return Annotated[looser(inner), Meta(**bounds)] if bounds else looser(inner)


def struct(contract: Any) -> type[msgspec.Struct]:
    """The fields of one topic; what is not required is None where it is absent."""
    fields: list[Any] = []
    for name, kind in get_type_hints(contract, include_extras=True).items():
        optional = get_origin(kind) is NotRequired
        fields.append((name, looser(kind), None) if optional else (name, looser(kind)))
    return msgspec.defstruct(contract.__name__, fields, gc=False)


#: In the order of the lanes: transactions, touches.
STRUCTS = (struct(Transaction), struct(Touch))
PARSE: tuple[Callable[[bytes], Any], ...] = tuple(msgspec.json.Decoder(each).decode for each in STRUCTS)
#: What `PARSE` raises, so that nobody else has to know msgspec.
NotAccepted = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def fields(lane: int, found: dict[str, Any]) -> Any:
    """Fields that were judged one by one, as `PARSE` would give them."""
    return STRUCTS[lane](**{name: found.get(name) for name in STRUCTS[lane].__struct_fields__})
