"""How fast is it? `tidemark work` on a real Kafka and Redis, part by part, beside the peers, in one run: --help."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.bench_parts import PARTS, QUICK, USUAL, Found, Run, measured
from scripts.bench_stage import Stage, say
from scripts.words import names_of
from tests.kafka.cluster import KafkaServer
from tests.kafka.processes import Missing


def main() -> None:
    """Measure what was asked for, print it, and leave nothing behind but what `.cache/` keeps."""
    given = parse()
    load = os.getloadavg()[0]
    if load > 0.5:
        say(f"this machine is not quiet (load {load:.1f}): figures will be worse than they are")
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-") as name, KafkaServer(Path(name), brief=False) as kafka:
        kafka.start()
        result = measured(Run(Stage(kafka, Path(name), given.set), given))
    result["machine"] = {"cores": os.cpu_count(), "load_before": round(load, 2), "at": f"{datetime.now(UTC):%F %R}Z"}
    report(result, as_json=given.json)


def report(result: Found, *, as_json: bool) -> None:
    """One JSON object, or the same for people."""
    if as_json:
        print(json.dumps(result))
        return
    for name, value in flat(result):
        print(f"{name:58} {value}")


def flat(found: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """Nested names joined by dots, in order."""
    out: list[tuple[str, Any]] = []
    for name, value in found.items():
        out += flat(value, f"{above}{name}.") if isinstance(value, dict) else [(f"{above}{name}", value)]
    return out


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The command line; `parts` are the names of what is to be measured, in order."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench", formatter_class=argparse.RawDescriptionHelpFormatter, description=DESCRIPTION
    )
    add = parser.add_argument
    add("--quick", action="store_true", help=f"under 5 minutes: {', '.join(QUICK)}, fewer records, two peers, one rate")
    add("--only", type=names_of(PARTS), metavar="NAME,…", help="these parts only")
    add("--json", action="store_true", help="one JSON object on stdout; what was not measured is null")
    add("--events", type=int, default=1_000_000, help="records of a backlog (%(default)s)")
    add("--wallets", type=int, default=10_000, help="wallets of the traffic (%(default)s)")
    add("--known", type=numbers, default=[10**4, 10**5, 10**6], help="wallets known beforehand (10000,100000,1000000)")
    add("--stream", choices=("peers", "season"), default="peers", help="whole, phases, batches: whose traffic")
    add("--no-peers", action="store_true", help="leave the Python peers out")
    add("--jvm", action="store_true", help="also Kafka Streams and Flink (Maven builds them once into .cache)")
    add("--rates", type=numbers, default=[1000, 20_000], help="latency: records a second (1000,20000)")
    add("--seconds", type=float, default=60.0, help="latency: measured at each rate, after 12 s (%(default)g)")
    add("--soak", type=float, metavar="MINUTES", help="also the soak, this long; usual: 10")
    add(
        "--workers", type=numbers, metavar="N,…", help="also so many workers together, and the rebalances; usual: 1,2,4"
    )
    add("--set", type=setting, action="append", default=[], metavar="NAME=VALUE", help="a setting of every worker")
    given = parser.parse_args(words)
    given.set = dict(given.set)
    asked = {"jvm": given.jvm, "soak": given.soak, "workers": given.workers, "rebalance": given.workers}
    more = [name for name, wanted in asked.items() if wanted]
    given.parts = given.only or [*(QUICK if given.quick else USUAL), *more]
    return given


def numbers(text: str) -> list[int]:
    """Whole numbers above 0, with commas between."""
    found = [int(part.replace("_", "")) for part in text.split(",")]
    if min(found) < 1:
        raise argparse.ArgumentTypeError("numbers must be above 0")
    return found


def setting(text: str) -> tuple[str, str]:
    """A setting as a worker is given it: `fetch_min_bytes=65536`, with or without TIDEMARK_."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("write NAME=VALUE, as in fetch_min_bytes=65536")
    return name.lower().removeprefix("tidemark_"), value


DESCRIPTION = """\
How fast Tidemark is: `tidemark work` as a process, on an Apache Kafka and a Redis (appendfsync always) of its own.

parts:
""" + "\n".join(f"  {name:10} {(part.__doc__ or '').splitlines()[0]}" for name, part in PARTS.items())

DESCRIPTION += """

examples:
  scripts/bench --quick --json
  scripts/bench --only latency --rates 1000 --seconds 20 --set fetch_min_bytes=65536
  scripts/bench --only wallets --events 600000
  scripts/bench --jvm --soak 10 --workers 1,2,4 --json > figures.json
"""

if __name__ == "__main__":
    try:
        main()
    except Missing as missing:
        sys.exit(str(missing))
