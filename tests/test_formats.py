"""What older versions have stored is read, means the same, and is rewritten; what nobody knows is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.journeys import JOURNAL_VERSION, JOURNAL_VERSIONS, unpack_journal
from models.rows import ROW_VERSION, ROW_VERSIONS, SEGMENTS, UnknownFormat, unpack_rows
from tests.golden import FILES, LARGE, LATEST, Golden, catalogue, counted, fees_beside, meaning, story
from tests.partition import NOON_MS, Partition

#: Before today's rules for when a wallet moves: these files tell the story the same way, and newer ones another.
OLDER = [number for number, row_version in FILES.items() if row_version < 3]
TODAY = Golden.read(LATEST)


def test_there_is_a_golden_file_of_every_version_that_is_read() -> None:
    rows = {bytes.fromhex(one["row"])[0] for number in FILES for one in Golden.read(number).wallets.values()}
    journals = {
        bytes.fromhex(one["journal"])[0]
        for number in FILES
        for one in Golden.read(number).wallets.values()
        if one["journal"]
    }
    assert (rows, journals) == (set(ROW_VERSIONS), set(JOURNAL_VERSIONS))


@pytest.mark.parametrize("number", FILES)
def test_a_stored_wallet_means_what_it_meant(number: int) -> None:
    for name, one in Golden.read(number).wallets.items():
        found = meaning(bytes.fromhex(one["row"]), bytes.fromhex(one["journal"]), fees_beside(one))
        assert found.pop("features") == pytest.approx(one["features"], rel=1e-12), name
        assert found == {field: one[field] for field in found}, name


@pytest.mark.parametrize("number", FILES)
def test_a_partition_goes_on_from_any_layout_to_the_same_integers(number: int) -> None:
    """To those that the program which stored it came to. In a crash of the market nobody moves, whatever the rules."""
    golden, (_, after) = Golden.read(number), story()
    told = golden.partition()
    told.catalogue = replace(catalogue(), held_from_ms=NOON_MS, held_until_ms=1 << 62)
    told.take(after)
    assert counted(told) == golden.content["after"]
    touched = {record.key for _, record in after}
    for name, row in told.rows.items():
        assert row[0] == (ROW_VERSION if name in touched else FILES[number]), name
    for name, journal in told.journals.items():
        was = bytes.fromhex(golden.wallets[name.decode()]["journal"] or "00")[0]
        assert journal[0] == (JOURNAL_VERSION if name in touched else was)


@pytest.mark.parametrize("number", FILES)
def test_a_partition_goes_on_from_any_layout_to_the_same_money_where_wallets_may_move(number: int) -> None:
    """Who is in which segment is for the rules of today to say; what was earned and spent is not."""
    golden, (_, after) = Golden.read(number), story()
    told, expected = golden.partition().take(after), Partition()
    expected.cells = {name.encode(): cell.encode() for name, cell in golden.content["after"]["cells"].items()}
    assert told.by_campaign() == expected.by_campaign()
    assert without_segments(counted(told)) == without_segments(golden.content["after"])
    assert counted(told) == counted(Golden.read(OLDER[0] if number in OLDER else LATEST).partition().take(after))


def without_segments(told: dict[str, Any]) -> dict[str, Any]:
    """The totals that do not depend on where wallets are placed."""
    return {name: count for name, count in json.loads(told["totals"]).items() if "segment" not in name}


def test_the_story_told_today_is_the_one_of_today_s_file() -> None:
    """Who changes the layout changes the version with it, and adds a file."""
    before, after = story()
    told = Partition(catalogue()).take(before, 50)
    assert counted(told) == {name: TODAY.content[name] for name in ("totals", "cells")}
    assert {name.decode(): len(row) for name, row in told.rows.items()} == dict.fromkeys(TODAY.wallets, 768)
    for name, one in TODAY.wallets.items():
        found = meaning(*(part.get(name.encode()) or b"" for part in (told.rows, told.journals, told.fees)))
        assert found.pop("features") == pytest.approx(one["features"], rel=1e-9)
        assert found == {field: one[field] for field in found}
    assert counted(told.take(after)) == TODAY.content["after"]


def test_rows_of_all_versions_are_read_in_one_batch() -> None:
    stored: list[bytes | None] = [None]
    for name in TODAY.wallets:
        stored += [bytes.fromhex(Golden.read(number).wallets[name]["row"]) for number in FILES]
    rows = unpack_rows(stored)
    assert rows["version"].tolist() == [0, *[ROW_VERSION] * (len(stored) - 1)]
    assert rows.tobytes() == b"".join(unpack_rows([row]).tobytes() for row in stored)
    by_version = rows[1:].reshape(len(TODAY.wallets), len(FILES))
    for of_one, name in zip(by_version, TODAY.wallets, strict=True):
        assert {row.tobytes() for row in of_one[: len(OLDER)]} == {of_one[0].tobytes()}
        assert of_one[-1].tobytes() == bytes.fromhex(TODAY.wallets[name]["row"])


@pytest.mark.parametrize(
    ("number", "other"), [(1, {"recent_fees", "rebased_s"}), (2, {"rebased_s"}), (3, set()), (5, {"flags"})]
)
def test_an_older_row_keeps_everything_but_what_its_version_had_otherwise(number: int, other: set[str]) -> None:
    """How fees are packed in version 1; an amount where there is now the time at which the slow scale began anew.

    With those of version 4 whose fees are on a page, that they have some.
    """
    stored = [bytes.fromhex(one["row"]) for one in Golden.read(number).wallets.values()]
    rows, were = unpack_rows([*stored]), np.frombuffer(b"".join(stored), unpack_rows([]).dtype)
    changed = {name for name in rows.dtype.names or () if rows[name].tobytes() != were[name].tobytes()}
    assert changed - {"version"} == other
    assert were["rebased_s"].any()
    assert rows["rebased_s"].any() == (number >= 3)


@pytest.mark.parametrize("version", [0, max(*ROW_VERSIONS, *JOURNAL_VERSIONS) + 1, 255])
def test_an_unknown_version_is_refused_by_its_name(version: int) -> None:
    one = TODAY.wallets["mover"]
    with pytest.raises(UnknownFormat, match=f"row of version {version}"):
        unpack_rows([None, bytes([version]) + bytes.fromhex(one["row"])[1:]])
    with pytest.raises(UnknownFormat, match=f"journal of version {version}"):
        unpack_journal(bytes([version]) + bytes.fromhex(one["journal"])[1:])
    with pytest.raises(UnknownFormat):
        unpack_journal(b"")


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize(("place", "damage"), [(1, bytes(4)), (1, b"\xff" * 4), (5, b"\x09"), (7, b"\x09"), (20, b"")])
def test_a_damaged_journal_of_an_older_version_is_refused(number: int, place: int, damage: bytes) -> None:
    """Bytes up to the fees, touches, those of the path that was stored, and a head that is cut off."""
    stored = bytes.fromhex(Golden.read(number).wallets["mover"]["journal"])
    assert unpack_journal(stored)[0] == JOURNAL_VERSION
    with pytest.raises(UnknownFormat, match="damaged wallet journal"):
        unpack_journal(stored[:place] + (damage + stored[place + len(damage) :] if damage else b""))


@pytest.mark.parametrize("number", [LARGE + 1, SEGMENTS - 1])
def test_a_segment_s_number_may_be_as_large_as_a_row_can_hold(number: int) -> None:
    """Version 1 had 13 bits for it beside a fee: a larger one changed both the money and the segment."""
    before, after = story()
    told = counted(Partition(catalogue(number)).take(before, 50).take(after))
    expected = TODAY.content["after"]
    renamed = {name.replace(f"s{LARGE}|", f"s{number}|"): cell for name, cell in expected["cells"].items()}
    assert told == {"totals": expected["totals"].replace(f'"{LARGE}"', f'"{number}"'), "cells": renamed}
