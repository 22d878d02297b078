"""Commands about segments: what there is, their names, a map of them, and how they drift."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streams import console
from streams.errors import WrongSettings

AsJson = Annotated[bool, typer.Option("--json", help="For programs: JSON instead of a table.")]
Picture = Annotated[Path | None, typer.Option(help="The picture to write: its name ends in .png or .svg.")]

segments_app = typer.Typer(invoke_without_command=True)


def add_to(app: typer.Typer) -> None:
    """Make these commands part of the command line."""
    app.add_typer(segments_app, name="segments")
    app.command("map")(draw_map)
    app.command("drift")(draw_drift)


@segments_app.callback()
def segments(
    context: typer.Context,
    export: Annotated[Path | None, typer.Option(help="Write the catalogue here, for TIDEMARK_CATALOGUE.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """The segments with names, wallets, revenue and centre, `unassigned` included; `rename` gives one a name.

    Example: `tidemark segments --export catalogue.json`
    """
    if context.invoked_subcommand:
        if export or as_json:
            raise WrongSettings((f"--export and --json do not go with `segments {context.invoked_subcommand}`",))
        return
    from streams import readouts, tables

    settings = console.read_settings()
    if export:
        catalogue = readouts.catalogue(settings)
        console.write(export, catalogue.to_json() + b"\n")
        console.say(f"catalogue {catalogue.version} ({catalogue.hash}) written to {export}")
        return
    console.show(readouts.segments(settings), tables.segments, as_json=as_json)


@segments_app.command()
def rename(
    segment: Annotated[str, typer.Argument(metavar="ID", help="The segment, such as s3.")],
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Its new name.", show_default=False)] = None,
    description: Annotated[
        str | None, typer.Option(help='What people should know about it, in one line; "" takes it away.')
    ] = None,
    *,
    reset: Annotated[bool, typer.Option("--reset", help="Take a given name back: the automatic one returns.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give a segment a name of your own, and a description; read-outs show it at once, announced changes in seconds.

    No worker needs to run. The name stays while the segment lives, its description until another one is given.
    Two segments never have the same name.

    Example: `tidemark segments rename s3 "steady savers" --description "hold for years, open to staking"`

    Take it back: `tidemark segments rename s3 --reset`
    """
    from streams import renaming

    if reset == (name is not None):
        raise WrongSettings(("give a NAME, or --reset to take a given one back: `tidemark segments rename --help`",))
    if reset and description is not None:
        raise WrongSettings(("--description goes with a NAME, not with --reset",))
    settings = console.read_settings()
    if name is None:
        done = renaming.take_back(settings, segment)
    else:
        done = renaming.rename(settings, segment, name, description)
    if as_json:
        console.print_json(done._asdict())
    elif reset:
        console.print_lines([f"{segment} is no longer called {done.before}, but {done.name}"])
    else:
        about = f": {done.description}" if done.description else ""
        console.print_lines([f"{segment} is called {done.name} (before: {done.before}){about}"])


def draw_map(
    out: Picture = None,
    wallets: Annotated[int, typer.Option(min=100, help="Wallets looked at, at most.")] = 50_000,
    *,
    as_json: AsJson = False,
) -> None:
    """Draw where wallets are, as density, the segments with their names, and the whales, in two principal components.

    The next map is turned as the last one, so that pictures can be compared. Needs Redis, no worker.

    Example: `tidemark map --out map.png`
    """
    from streams import landscape

    _refuse_nothing(out, as_json=as_json)
    found = landscape.survey(console.read_settings(), wallets, console.say)
    if out:
        landscape.draw(found, out, console.say)
        console.say(f"{len(found.points):,} wallets and {len(found.catalogue.segments)} segments drawn to {out}")
    if as_json:
        console.print_json(landscape.described(found))


def draw_drift(out: Picture = None, *, as_json: AsJson = False) -> None:
    """Draw how the shares of segments moved over time, when segments were born, and market regimes.

    It counts all announced changes (Kafka) and reads the catalogues (Kafka, Redis). Needs no worker.

    Example: `tidemark drift --out drift.svg`
    """
    from streams import drifting

    _refuse_nothing(out, as_json=as_json)
    found = drifting.survey(console.read_settings(), console.say)
    if out:
        drifting.draw(found, out, console.say)
        console.say(f"{len(found.segments)} segments over {len(found.times_ms):,} steps in time drawn to {out}")
    if as_json:
        console.print_json(drifting.described(found))


def _refuse_nothing(out: Path | None, *, as_json: bool) -> None:
    """Wrong usage is known before any work is done."""
    if out is not None:
        console.refuse_picture(out)
    elif not as_json:
        raise WrongSettings(("say where the picture goes: --out FILE.png or --out FILE.svg; or --json",))
