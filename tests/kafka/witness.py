"""`tidemark` with a witness: `python -m tests.kafka.witness FILE work` writes down in which order it takes records.

Which of two topics a record came from first is nobody's decision but that of the moment: Redis and the logs do not
tell it afterwards. A line of JSON for each commit of records, when it is about to be sent and when it is done.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from streams import cli
from streams.intake import next_offsets
from streams.partition import Partition
from streams.tenure import Tenure

if TYPE_CHECKING:
    from streams.intake import Taken
    from streams.ledger import Mark


class Commit(NamedTuple):
    """Records that were committed together: `lanes` has a digit for each. `clock_ms`: of the partition, before it."""

    partition: int
    first: tuple[int, ...]
    next: tuple[int, ...]
    clock_ms: int
    lanes: str
    offsets: list[int]


def watch(file: Path) -> None:
    """Wrap what commits, in this process."""
    fold: Any = Partition._fold
    commit: Any = Tenure.commit
    under_way: dict[int | str, Taken] = {}

    def write(kind: str, line: Mapping[str, object]) -> None:
        out = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(out, json.dumps({"kind": kind, **line}).encode() + b"\n")  # at once, so that writers do not mix
        os.close(out)

    async def folded(self: Partition, taken: Taken) -> tuple[int, int]:
        under_way[self.number] = taken
        try:
            return await fold(self, taken)  # type: ignore[no-any-return]  # as it is annotated
        finally:
            under_way.pop(self.number, None)

    async def committed(self: Tenure, mark: Mark, *rest: Any) -> None:
        before, taken = self.mark, under_way.get(self.name)
        if taken is None or mark.offsets == before.offsets:
            await commit(self, mark, *rest)
            return
        many = how_many(taken, before.offsets, mark.offsets)
        line = Commit(
            int(self.name),
            before.offsets,
            mark.offsets,
            before.clock_ms,
            "".join(map(str, taken.lanes[:many])),
            [record.offset for record in taken.records[:many]],
        )._asdict()
        write("asked", line)
        await commit(self, mark, *rest)
        write("done", line)

    Partition._fold = folded  # type: ignore[method-assign]  # that is what this program is for
    Tenure.commit = committed  # type: ignore[method-assign, assignment]  # the same


def how_many(taken: Taken, first: tuple[int, ...], stop: tuple[int, ...]) -> int:
    """How many of these records lead from offsets to offsets; every record moves one."""
    for many in range(1, len(taken.records) + 1):
        if next_offsets(first, taken.part(0, many)) == stop:
            return many
    raise AssertionError(f"a commit leads from {first} to {stop}, its records do not")


def witnessed(lines: Iterable[str], ends: Mapping[int, tuple[int, ...]]) -> list[Commit]:
    """What was committed, in its order, old partitions first. `ends`: next offsets by partition, as in Redis.

    Of two commits that lead to the same place the last one that was done counts: others lost the race, or what Redis
    had of them was rolled back. Raises `LookupError` where a commit was seen by nobody.
    """
    by_end: dict[tuple[int, tuple[int, ...]], Commit] = {}
    for line in lines:
        _note(json.loads(line), by_end)
    found: list[Commit] = []
    for partition, end in sorted(ends.items()):
        found += _chain(by_end, partition, end)
    return found


def _note(found: dict[str, Any], by_end: dict[tuple[int, tuple[int, ...]], Commit]) -> None:
    kind = found.pop("kind")
    found |= {name: tuple(found[name]) for name in ("first", "next")}
    commit = Commit(**found)
    if kind == "done":
        by_end[commit.partition, commit.next] = commit
    else:
        by_end.setdefault((commit.partition, commit.next), commit)


def _chain(by_end: Mapping[tuple[int, tuple[int, ...]], Commit], partition: int, end: tuple[int, ...]) -> list[Commit]:
    chain: list[Commit] = []
    while any(end):
        if (commit := by_end.get((partition, end))) is None:
            raise LookupError(f"nobody saw the commit that led partition {partition} to {end}")
        chain.append(commit)
        end = commit.first
    return chain[::-1]


def main() -> None:
    """`tidemark` with the other words."""
    watch(Path(sys.argv[1]))
    sys.argv[:] = ["tidemark", *sys.argv[2:]]
    cli.main()


if __name__ == "__main__":
    main()
