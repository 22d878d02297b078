"""What every test gets: no settings from outside, Hypothesis without deadlines, and ../shared or a skip."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Two cores shared with a broker make any deadline a coin toss.
settings.register_profile("tidemark", deadline=None, print_blob=True)
settings.load_profile("tidemark")

for _name in [name for name in os.environ if name.startswith("TIDEMARK_")]:
    del os.environ[_name]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the repository; tests that need it skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared here: real data is not part of the repository")
    return folder
