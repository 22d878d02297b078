"""Commands that judge on a file of events: clusterers side by side, and the changes of a past window."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streams import console
from streams.cli_segments import AsJson, Picture

Events = Annotated[Path, typer.Argument(metavar="FILE", help="NDJSON of `tidemark simulate` or `tidemark convert`.")]


def add_to(app: typer.Typer) -> None:
    """Make these commands part of the command line."""
    app.command("compare")(compare)
    app.command("backtest")(backtest)


def compare(
    file: Events,
    clusterers: Annotated[str, typer.Option(help="Which, with commas.")] = "tidemark,river.KMeans",
    params: Annotated[
        list[str] | None, typer.Option(help='Parameters of one: river.KMeans={"n_clusters": 8}. Again for others.')
    ] = None,
    truth: Annotated[Path | None, typer.Option(help="Personas, as `tidemark simulate --truth` writes them.")] = None,
    out: Picture = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Replay a stream through several clusterers and compare what comes out: quality, flaps, delay, speed.

    Everything but the clusterer is as in a worker: features, identity, decisions. Needs no Kafka and no Redis.

    Clusterers, with their parameters (bounds: docs/segments.md):

    tidemark: none

    river.KMeans: n_clusters, halflife, mu, sigma, p

    river.STREAMKMeans: n_clusters, halflife, mu, sigma, p, chunk_size

    river.DBSTREAM: clustering_threshold, fading_factor, cleanup_interval, intersection_factor, minimum_weight

    river.DenStream: decaying_factor, beta, mu, epsilon, n_samples_init, stream_speed

    river.CluStream: n_macro_clusters, max_micro_clusters, micro_cluster_r_factor, time_window, time_gap, halflife,
    mu, sigma, p

    Example: `tidemark simulate --truth truth.json > events.ndjson`, then
    `tidemark compare events.ndjson --clusterers tidemark,river.KMeans --truth truth.json --out compare.png`
    """
    from streams import compare as comparing
    from streams import tables

    if out:
        console.refuse_picture(out)
    rules_of = comparing.chosen(clusterers, params or [], console.read_settings())
    personas = comparing.personas_in(file, truth, console.say) if truth else None
    rows = comparing.compare(file, rules_of, personas, console.say)
    if out:
        comparing.draw(rows, file.name, out)
        console.say(f"drawn to {out}")
    console.show(rows, tables.comparison, as_json=as_json)


def backtest(
    file: Events,
    first: Annotated[str, typer.Option("--from", help="First day of the window, YYYY-MM-DD (UTC).")],
    last: Annotated[str, typer.Option("--to", help="Last day of the window.")],
    report: Annotated[Path | None, typer.Option(help="Folder for report.md and its pictures; it is made.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Judge the segment changes of a past window: which held 7 and 30 days later, was the confidence right.

    It also replays the window with a few other settings and proposes the one that flaps less. Nothing is applied.
    The file should begin well before the window, so that segments are known, and go on for 30 days after it.

    Example: `tidemark backtest events.ndjson --from 2026-03-01 --to 2026-03-31 --report backtest/`
    """
    from streams import backtest as testing
    from streams import backtest_report, tables

    with console.usage():
        window = testing.window(first, last)
    if report:
        backtest_report.make_folder(report)
    found = testing.backtest(file, window, console.read_settings().rules(), console.say)
    if report:
        console.say(f"written to {backtest_report.write(found, file.name, report)}")
    if as_json:
        console.print_json(found)
        return
    console.print_table(tables.held(found))
    console.print_table(tables.tried(found))
    console.print_lines(backtest_report.proposed(found))
