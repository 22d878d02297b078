"""What commands share: settings in, results to stdout, everything else to stderr, one line for a failure."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, TextIO, TypeVar

from streams.errors import TidemarkError, WrongSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from rich.console import RenderableType

    from streams.settings import Settings

T = TypeVar("T")
#: In a pipe there is no width: wide enough that no table is folded.
PIPE_WIDTH = 200


def read_settings() -> Settings:
    """The settings, read once; their log level holds from here on."""
    from streams.settings import load

    found = load()
    log_to_stderr(found.log_level)
    return found


def log_to_stderr(level: str) -> None:
    """Send log records of libraries to stderr, but for what ends in our own line anyway."""
    logging.basicConfig(stream=sys.stderr, level=level, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


@contextmanager
def opened(file: Path | None) -> Iterator[TextIO]:
    """The lines of a file, or of standard input without one."""
    try:
        if file is None:
            yield sys.stdin
        else:
            with _open(file) as lines:
                yield lines
    except UnicodeDecodeError as error:
        raise TidemarkError(f"{file or 'standard input'} is not UTF-8 ({error.reason}): NDJSON is") from error


def _open(file: Path) -> TextIO:
    try:
        return file.open(encoding="utf-8")
    except OSError as error:
        raise TidemarkError(f"cannot read {file}: {error.strerror}") from error


def write(file: Path, content: bytes) -> None:
    """Write a file. Raises `TidemarkError`."""
    try:
        file.write_bytes(content)
    except OSError as error:
        raise TidemarkError(f"cannot write {file}: {error.strerror}") from error


def refuse_picture(file: Path) -> None:
    """Refuse a picture that could not be written, before it is worked for; one that is there stays as it is.

    Raises `WrongSettings` for a name that does not say PNG or SVG, `TidemarkError` where no file can be.
    """
    if file.suffix.lower() not in {".png", ".svg"}:
        raise WrongSettings((f"--out {file}: the name of a picture ends in .png or .svg",))
    new = not file.exists()
    try:
        file.open("ab").close()
    except OSError as error:
        raise TidemarkError(f"cannot write {file}: {error.strerror}") from error
    if new:
        file.unlink()


@contextmanager
def usage() -> Iterator[None]:
    """A value the command refuses is wrong usage: one line, exit 2."""
    try:
        yield
    except ValueError as error:
        raise WrongSettings((one_line(error),)) from error


def interrupt(*_: object) -> NoReturn:
    """SIGTERM as Ctrl-C: everything that is open is closed on the way out."""
    raise KeyboardInterrupt


def one_line(error: Exception) -> str:
    """What an exception says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def say(line: str) -> None:
    """A line for people who wait, on stderr."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def progress(sent: int) -> None:
    """Say how far a producer is."""
    say(f"{time.strftime('%H:%M:%S')} {sent:,} records sent")


def print_lines(lines: Iterable[str]) -> None:
    """Lines of a result."""
    for line in lines:
        sys.stdout.write(line + "\n")


def print_json(found: object) -> None:
    """A result for programs, in one line that is there at once."""
    sys.stdout.write(json.dumps(found, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_table(table: RenderableType) -> None:
    """A result for people."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)


def show(found: T, table: Callable[[T], RenderableType], *, as_json: bool) -> None:
    """A result for whom it is asked."""
    if as_json:
        print_json(found)
    else:
        print_table(table(found))


def flush() -> None:
    """Whoever reads our output may have seen enough (`| head`): no complaint, nothing more to write."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def end(lines: Iterable[str], code: int) -> NoReturn:
    """Say why, and exit."""
    for line in lines:
        say(f"tidemark: {line}")
    sys.exit(code)
