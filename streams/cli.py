"""The command line: reads arguments, calls one function per command, prints. Results on stdout, the rest on stderr."""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from models.rows import UnknownFormat
from streams import cli_judging, cli_segments, console
from streams.cli_segments import AsJson
from streams.errors import TidemarkError, WrongSettings

if TYPE_CHECKING:
    from streams.settings import Settings

app = typer.Typer(
    name="tidemark",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Live wallet segments and exact campaign ROI from Kafka streams.

    See it first: `tidemark demo` needs no Kafka and no Redis.

    On your own: `tidemark topics create`, then `tidemark work` (as many as you like), then
    `tidemark roi`, `tidemark segments`, `tidemark watch`.

    Every setting is an environment variable `TIDEMARK_…`: `tidemark settings` lists them.
    Exit codes: 0 done, 1 failed (one line on stderr says why), 2 wrong usage or settings.
    """,
)
topics_app = typer.Typer(no_args_is_help=True, help="Make or check the Kafka topics.")
convert_app = typer.Typer(no_args_is_help=True, help="Turn real data into NDJSON for `tidemark produce`.")
contract_app = typer.Typer(no_args_is_help=True, help="The generated contract of the input topics.")
app.add_typer(topics_app, name="topics")
app.add_typer(convert_app, name="convert")
app.add_typer(contract_app, name="contract")
cli_segments.add_to(app)
cli_judging.add_to(app)


def main() -> NoReturn:
    """Run the command line and exit; what can be foreseen ends in one line on stderr, never in a traceback."""
    try:
        app()
    except WrongSettings as error:
        console.end(error.lines, error.exit_code)
    except TidemarkError as error:
        console.end((str(error),), error.exit_code)
    except OSError as error:
        console.end((console.one_line(error),), 1)
    except UnknownFormat as error:
        console.end((f"Redis holds {console.one_line(error)}: use the version of Tidemark that wrote it",), 1)
    except SystemExit:
        console.flush()
        raise
    sys.exit(0)


@app.command()
def demo(
    events: Annotated[int, typer.Option(min=1000, help="How many events the simulated season has.")] = 200_000,
    *,
    headless: Annotated[bool, typer.Option("--headless", help="No view: run to the end and print one JSON.")] = False,
) -> None:
    r"""Show everything on this machine: a broker, a Redis, a simulated tax season, a worker, a live view.

    Ctrl-C ends it and leaves nothing behind. With `--headless` it checks every total against the simulator\'s truth:
    `tidemark demo --headless --events 200000`
    """
    from streams import demo as season

    signal.signal(signal.SIGTERM, console.interrupt)
    console.log_to_stderr("WARNING")
    if not headless:
        season.show(events)
        return
    outcome = season.run(events, console.say)
    console.print_json(outcome)
    if not outcome["matches"]:
        raise TidemarkError("the totals differ from the simulator's truth: compare `totals` with `expected`")


@topics_app.command("create")
def topics_create(
    *, print_only: Annotated[bool, typer.Option("--print", help="Print shell lines and ACLs instead.")] = False
) -> None:
    """Make the topics that are missing; what exists is left as it is.

    For a cluster that somebody else administers: `tidemark topics create --print > topics.sh`
    """
    from streams import topics

    console.print_lines(
        topics.printed(console.read_settings()) if print_only else topics.create(console.read_settings())
    )


@topics_app.command("check")
def topics_check() -> None:
    """Verify topics, configuration, partition counts, keys and partitioner; exit 1 if anything is wrong."""
    from streams.topics_check import check

    found = check(console.read_settings())
    console.print_lines([*found.notes, *found.wrong])
    if found.wrong:
        raise TidemarkError(f"{len(found.wrong)} of the topics' properties are wrong, see above")
    console.print_lines(["all topics are as they should be"])


@app.command()
def work() -> None:
    """Run one worker until SIGTERM; start as many as there are partitions at most.

    Example: `TIDEMARK_KAFKA=broker:9092 TIDEMARK_REDIS=redis://store:6379/0 tidemark work`
    """
    # Until the worker has its own: nothing is owned yet. Not `sys.exit`: an import in progress would swallow it.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

    from streams.worker import run

    if code := run(console.read_settings()):
        raise typer.Exit(code)


@app.command()
def produce(
    file: Annotated[Path | None, typer.Argument(help="NDJSON; default: standard input.", show_default=False)] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Events per second; default: all at once.")] = None,
    *,
    now: Annotated[bool, typer.Option("--now", help="Record timestamps are the wall clock.")] = False,
) -> None:
    """Send NDJSON lines to the input topics, exactly as they are.

    A line: `{"topic": "wallet.transactions", "key": "w1", "value": {…}}`; also `value_base64`, `timestamp`, `headers`.

    Example: `tidemark simulate --seed 1 | tidemark produce --rate 1000`
    """
    from streams import produce as producing

    settings = console.read_settings()
    with console.opened(file) as lines:
        done = producing.produce(lines, _target(settings), rate=rate, now=now, progress=console.progress)
    console.say(f"{done.sent:,} records sent in {done.seconds:.1f} s")


@app.command()
def simulate(  # noqa: PLR0917 - typer gives them by name
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same bytes.")] = 1,
    wallets: Annotated[int, typer.Option(min=1, help="How many wallets.")] = 1000,
    days: Annotated[int, typer.Option(min=1, help="How many days.")] = 60,
    start: Annotated[str | None, typer.Option(help="First day, YYYY-MM-DD; default: today - days - 1.")] = None,
    late: Annotated[float, typer.Option(min=0, max=1, help="Share that arrives late, within the lateness.")] = 0.0,
    duplicates: Annotated[float, typer.Option(min=0, max=1, help="Share that comes twice.")] = 0.0,
    bad: Annotated[float, typer.Option(min=0, max=1, help="Share that is no valid event.")] = 0.0,
    truth: Annotated[Path | None, typer.Option(help="Write personas and every total here, as JSON.")] = None,
) -> None:
    """Write a simulated tax season as NDJSON, in order of arrival.

    Example: `tidemark simulate --seed 7 --wallets 2000 --days 90 --late .01 --bad .01 --truth truth.json`
    """
    from streams import simulate as simulating

    today = datetime.now(UTC).date()
    with console.usage():
        first = date.fromisoformat(start) if start else simulating.default_start(today, days)
        plan = simulating.SimulationPlan(seed, wallets, days, first, late, duplicates, bad)
        simulating.refuse_future(plan, today)
    if truth:
        console.write(truth, b"")  # a file that cannot be written is known before the season, not after it
    simulating.write(plan, sys.stdout, truth)


@convert_app.command("prism-terra")
def convert_prism_terra(
    path: Annotated[Path, typer.Argument(help="The folder of the data set.")],
    fee_bps: Annotated[str, typer.Option(help="Assumed fee of dex rows in 1/10,000 of their value.")] = "30",
) -> None:
    """Turn the PRISM Terra data (transactions and campaign ledger) into NDJSON.

    Example: `tidemark convert prism-terra prism/ | tidemark produce`
    """
    from streams import prism

    with console.usage():
        if not fee_bps.replace(".", "", 1).isdigit():
            raise ValueError("--fee-bps must be a number, 0 or more")
    try:
        console.print_lines(prism.convert(path, Decimal(fee_bps)))
    except ValueError as error:
        raise TidemarkError(console.one_line(error)) from error


@app.command()
def watch(
    *, as_json: AsJson = False, from_start: Annotated[bool, typer.Option(help="All there are, not only new.")] = False
) -> None:
    """Follow the segment changes as they happen, with their reasons; Ctrl-C ends it.

    Example: `tidemark watch --json | jq 'select(.to.name == "leveraged traders")'`
    """
    from streams import tables
    from streams import watch as watching

    settings = console.read_settings()
    for change in watching.follow(settings, from_start=from_start):
        if as_json:
            console.print_json(change)
        else:
            console.print_table(tables.change(change))


@app.command()
def totals(*, as_json: AsJson = False) -> None:
    """What was counted since the beginning: events, repeats, late ones, rejected ones, money."""
    from streams import readouts, tables

    found = readouts.totals(console.read_settings())
    console.show(found, tables.totals, as_json=as_json)


@app.command()
def roi(*, as_json: AsJson = False) -> None:
    """Revenue, cost and return of every segment, campaign and channel, by five rules of credit.

    Example: `tidemark roi --json | jq '.[] | select(.rule == "position")'`
    """
    from streams import readouts, tables

    found = readouts.roi(console.read_settings())
    console.show(found, tables.roi, as_json=as_json)


@app.command()
def wallet(wallet_id: Annotated[str, typer.Argument(metavar="ID")], *, as_json: AsJson = False) -> None:
    """One wallet: its segment and since when, what is known of it, its features, the touches it remembers."""
    from streams import readouts, tables

    found = readouts.wallet(console.read_settings(), wallet_id)
    console.show(found, tables.wallet, as_json=as_json)


@app.command()
def wallets(
    segment: Annotated[str | None, typer.Option(help="Only this one, such as s3 or unassigned.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Every wallet with its segment, one line each; `--json` gives NDJSON.

    Example: `tidemark wallets --segment s3 --json > audience.ndjson`
    """
    from streams import readouts, tables

    for found in readouts.wallets(console.read_settings(), segment):
        if as_json:
            console.print_json(found)
        else:
            console.print_lines([tables.wallet_line(found)])


@app.command()
def lag(*, as_json: AsJson = False) -> None:
    """How far the commits are behind the topics: records and event time, for each topic and partition."""
    from streams import readouts, tables

    found = readouts.lag(console.read_settings())
    console.show(found, tables.lag, as_json=as_json)


@app.command()
def repartition() -> None:
    """Move every wallet to its partition after partitions were added; stop all workers first.

    The new number must be a multiple of the old one. Killed in the middle, run it again: it goes on.
    """
    from streams import repartition as moving

    done = moving.repartition(console.read_settings(), console.say)
    if done.before == done.after:
        console.print_lines([f"nothing to do: {done.after} partitions, as counted"])
        return
    what = f"{done.counted:,} records counted, {done.moved:,} wallets moved"
    console.print_lines([f"{done.after} partitions instead of {done.before}: {what}"])


@contract_app.command("json-schema")
def contract_json_schema() -> None:
    """The JSON Schema of both inputs."""
    from models.events import json_schema

    console.print_lines([json.dumps(json_schema(), indent=2)])


@app.command()
def settings(*, as_json: AsJson = False) -> None:
    """Every setting with its value, default, unit, bounds and meaning; secrets masked."""
    from streams import tables
    from streams.settings import explain

    found = explain(console.read_settings())
    if as_json:
        console.print_json([entry.model_dump() for entry in found])
    else:
        console.print_table(tables.settings(found))


def _target(settings: Settings) -> Any:
    """Where `produce` sends."""
    from streams.access import connection
    from streams.produce import Target

    security = connection(settings)
    security.pop("bootstrap_servers")
    return Target(settings.kafka, settings.topic_names, security)
