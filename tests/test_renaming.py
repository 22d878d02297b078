"""Names and descriptions users give to segments, and the map, on a real Redis with no worker running."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from models.segments import Catalogue
from models.state import Totals
from streams import landscape, readouts, renaming
from streams.embedded import Embedded
from streams.errors import Refused, TidemarkError, Unavailable, WrongSettings
from streams.ledger import OVERVIEW, Writes
from streams.settings import Settings
from tests.test_projection import nudged
from tests.test_readouts import CATALOGUE, commit, emptied, publish, stored_row, with_totals


@pytest.fixture
def settings(embedded: Embedded) -> Settings:
    """A Redis with a published catalogue: s1 steady holders, s3 leveraged traders."""
    found = emptied(Settings(kafka=embedded.kafka, redis=SecretStr(embedded.redis)))
    publish(found)
    return found


def names(settings: Settings) -> dict[str, str]:
    return {row["segment"]: row["name"] for row in readouts.segments(settings)}


def descriptions(settings: Settings) -> dict[str, str | None]:
    return {row["segment"]: row["description"] for row in readouts.segments(settings)}


def test_a_given_name_is_shown_by_every_read_out_at_once(settings: Settings) -> None:
    commit(settings, 0, Writes({b"w:w1": stored_row(3), b"totals": Totals(wallets=1).to_json()}))
    cells = with_totals(Totals(wallets=1, wallets_by_segment={3: 1}), {b"s3||": (0, *[7] * 5, *[0] * 5)})
    commit(settings, 1, cells)
    assert renaming.rename(settings, "s3", "margin crowd", "open to lower fees").before == "leveraged traders"
    assert names(settings)["s3"] == "margin crowd"
    assert {row["name"] for row in readouts.roi(settings)} == {"margin crowd"}
    assert [row["name"] for row in readouts.wallets(settings)] == ["margin crowd"]
    assert descriptions(settings) == {"s1": None, "s3": "open to lower fees", "unassigned": None}
    anywhere = settings.model_copy(update={"partitioner": "off"})
    assert readouts.wallet(anywhere, "w1")["description"] == "open to lower fees"
    exported = readouts.catalogue(settings)
    assert Catalogue.from_json(exported.to_json()).name_of(3) == "margin crowd"


def test_a_name_stays_while_the_model_moves_on(settings: Settings) -> None:
    renaming.rename(settings, "s1", "savers")
    commit(settings, OVERVIEW, Writes({b"catalogue": nudged(CATALOGUE, 0.1).to_json()}))
    assert names(settings)["s1"] == "savers"


def test_a_name_taken_back_gives_the_automatic_one_back(settings: Settings) -> None:
    renaming.rename(settings, "s1", "savers")
    assert renaming.take_back(settings, "s1") == ("s1", "steady holders", None, "savers")
    assert names(settings)["s1"] == "steady holders"
    with pytest.raises(TidemarkError, match="s1 has no given name"):
        renaming.take_back(settings, "s1")


def test_a_description_stays_over_new_names_until_it_is_replaced_or_taken_away(settings: Settings) -> None:
    renaming.rename(settings, "s3", "a", "who borrows")
    assert renaming.rename(settings, "s3", "b") == ("s3", "b", "who borrows", "a")
    assert descriptions(settings)["s3"] == "who borrows"
    renaming.rename(settings, "s3", "b", "who borrows much")
    assert descriptions(settings)["s3"] == "who borrows much"
    assert renaming.rename(settings, "s3", "b", "") == ("s3", "b", None, "b")
    assert descriptions(settings)["s3"] is None
    renaming.rename(settings, "s3", "b", "again")
    renaming.take_back(settings, "s3")
    renaming.rename(settings, "s3", "c")
    assert descriptions(settings)["s3"] is None


def test_what_users_say_of_a_retired_segment_is_shown_and_exported(settings: Settings) -> None:
    retired = replace(CATALOGUE, retired={2: 3}, retired_names={2: "old friends"})
    commit(settings, OVERVIEW, Writes({b"catalogue": retired.to_json()}))
    commit(settings, 1, with_totals(Totals(wallets=1, wallets_by_segment={2: 1})))
    renaming.rename(settings, "s2", "the old guard", "who came first")
    assert descriptions(settings)["s2"] == "who came first"
    exported = Catalogue.from_json(readouts.catalogue(settings).to_json())
    assert (exported.name_of(2), exported.description_of(2)) == ("the old guard", "who came first")
    renaming.take_back(settings, "s2")
    assert (names(settings)["s2"], descriptions(settings)["s2"]) == ("old friends", None)


def test_a_pinned_catalogue_shows_the_names_it_was_exported_with_on_a_redis_that_has_none(
    settings: Settings, tmp_path: Path
) -> None:
    renaming.rename(settings, "s3", "margin crowd", "open to lower fees")
    exported = readouts.catalogue(settings)
    file = tmp_path / "catalogue.json"
    file.write_bytes(exported.to_json())
    pinned = emptied(settings).model_copy(update={"catalogue": file})
    assert names(pinned)["s3"] == "margin crowd"
    assert readouts.catalogue(pinned).hash == exported.hash
    assert renaming.rename(pinned, "s3", "borrowers") == ("s3", "borrowers", "open to lower fees", "margin crowd")
    assert names(pinned)["s3"] == "borrowers"
    assert renaming.take_back(pinned, "s3") == ("s3", "margin crowd", "open to lower fees", "borrowers")


def test_no_two_segments_have_one_name_whatever_its_case(settings: Settings) -> None:
    renaming.rename(settings, "s1", "savers")
    for taken in (
        "SAVERS",
        " savers ",
        "ｓａｖｅｒｓ",
        "whales",
        "–",
        "leveraged traders",
        "unassigned",
        "s7",
        "",
        "x" * 65,
        "two\nlines",
    ):
        with pytest.raises(WrongSettings) as refused:
            renaming.rename(settings, "s3" if taken != "leveraged traders" else "s1", taken)
        assert len(refused.value.lines) == 1
    assert names(settings)["s1"] == "savers"
    renaming.rename(settings, "s1", "Savers")  # its own name in other letters is no clash


@pytest.mark.parametrize(
    "wrong", ["s9", "3", "s", "s0", "s-1", "whales", "unassigned", "s²", "s03", "s65536", "s" + "9" * 5000]
)
def test_what_is_no_segment_is_wrong_usage(settings: Settings, wrong: str) -> None:
    for ask in (partial(renaming.rename, name="savers"), renaming.take_back):
        with pytest.raises((WrongSettings, TidemarkError), match=r"segment|no given name") as refused:
            ask(settings, wrong)
        assert len(str(refused.value)) < 120


def test_before_the_first_catalogue_and_without_redis_one_line_says_so(settings: Settings) -> None:
    with pytest.raises(TidemarkError, match="no segments yet"):
        renaming.rename(emptied(settings), "s1", "savers")
    with pytest.raises(Unavailable, match="check TIDEMARK_REDIS"):
        renaming.rename(Settings(redis=SecretStr("redis://127.0.0.1:1/0")), "s1", "savers")


def test_a_map_counts_the_wallets_that_have_a_segment_up_to_its_bound(settings: Settings) -> None:
    rows = {f"w:{n}".encode(): stored_row(n % 3 and 3, whale=n % 10 == 0) for n in range(300)}
    commit(settings, 1, Writes(rows))
    found = landscape.survey(settings, 1_000, print)
    assert (len(found.points), found.shares()) == (200, [0.0, 1.0])
    assert len(landscape.survey(settings, 90, print).points) < 90
    told = landscape.described(found)
    assert [each["segment"] for each in told["segments"]] == ["s1", "s3"]
    assert [each["whales"] for each in told["segments"]] == found.whales() == [0, 20]
    assert json.dumps(told)


def test_the_next_map_lies_as_the_last_one(settings: Settings) -> None:
    first = landscape.survey(settings, 100, print)
    assert landscape.survey(settings, 100, print).projection.axes.tobytes() == first.projection.axes.tobytes()
    commit(settings, OVERVIEW, Writes({b"catalogue": nudged(CATALOGUE, 0.02).to_json()}))
    then = landscape.survey(settings, 100, print)
    assert then.projection.catalogue != first.projection.catalogue
    assert then.places() == pytest.approx(first.places(), abs=0.2)


def test_a_map_needs_segments(settings: Settings, tmp_path: Path) -> None:
    found = landscape.survey(settings, 100, print)
    landscape.draw(found, tmp_path / "map.png", print)  # no wallet has a segment yet: the segments are drawn
    assert (tmp_path / "map.png").stat().st_size > 10_000
    with pytest.raises(TidemarkError, match="nothing to map yet"):
        landscape.survey(emptied(settings), 100, print)


def test_who_may_only_read_gets_a_map_and_is_told_that_it_is_not_kept(settings: Settings) -> None:
    with redis.Redis.from_url(settings.redis_url) as store:
        store.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@all", "-set", "-hset")
    reader = settings.model_copy(update={"redis": SecretStr(settings.redis_url.replace("//", "//reader:secret@"))})
    said: list[str] = []
    found = landscape.survey(reader, 100, said.append)
    assert len(found.places()) == 2
    (line,) = said
    assert "could not be kept" in line
    with pytest.raises(Refused, match="may not do what is needed"):
        renaming.rename(reader, "s1", "savers")
    assert names(settings)["s1"] == "steady holders"
