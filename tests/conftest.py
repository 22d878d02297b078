"""What every test gets: no settings from outside, Hypothesis without deadlines; real data and servers, if it asks."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from streams.embedded import Embedded, servers

# Two cores shared with a broker make any deadline a coin toss.
settings.register_profile("tidemark", deadline=None, print_blob=True)
settings.load_profile("tidemark")

# A shell has its background jobs ignore Ctrl-C, and children inherit that: our commands shall hear it even there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

for _name in [name for name in os.environ if name.startswith("TIDEMARK_")]:
    del os.environ[_name]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the repository; tests that need it skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared here: real data is not part of the repository")
    return folder


@pytest.fixture(scope="module")
def embedded() -> Iterator[Embedded]:
    """A broker without topics and an empty Redis, of its own for each file of tests."""
    with servers() as found:
        yield found
