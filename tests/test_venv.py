"""Which Python the scripts take: a supported one, the one that is named, or none with a line that says so."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kafka.processes import REPOSITORY

NAMES = ("python3.11", "python3.12", "python3.13", "python3")
#: Has the version it is given; makes an environment of itself, and installs nothing.
PRETENDER = """#!/bin/sh
case "$*" in
    --version) echo "Python {version}" ;;
    *version_info*) exec {python} -S -c 'import sys; sys.version_info = {parts}; exec(sys.argv[1])' "$2" ;;
    *venv*) mkdir -p .venv/bin && cp "$0" .venv/bin/python && cp "$0" .venv/bin/tidemark ;;
esac
"""


def pretend(place: Path, version: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(
        PRETENDER.format(version=version, parts=tuple(map(int, version.split("."))), python=sys.executable)
    )
    place.chmod(0o700)


def sourced(checkout: Path, versions: dict[str, str], named: str | None = None) -> subprocess.CompletedProcess[str]:
    """What `scripts/venv` says in a checkout; `versions` by the name on the path, 2.7.18 where none is given."""
    (checkout / "scripts").mkdir(exist_ok=True)
    shutil.copy(REPOSITORY / "scripts" / "venv", checkout / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        (checkout / name).touch()
    for name in NAMES:
        pretend(checkout / "bin" / name, versions.get(name, "2.7.18"))
    environment = {"PATH": f"{checkout / 'bin'}:/usr/bin:/bin"} | ({"PYTHON": named} if named else {})
    return subprocess.run(
        ["/bin/bash", "-c", "set -euo pipefail; source scripts/venv"],
        cwd=checkout, env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("version", ["3.11.0", "3.12.1", "3.13.9"])
def test_a_supported_python_is_found_by_whatever_name_it_has(version: str, tmp_path: Path) -> None:
    for name in (f"python{version.rpartition('.')[0]}", "python3"):
        shutil.rmtree(tmp_path / ".venv", ignore_errors=True)
        found = sourced(tmp_path, {name: version})
        assert found.returncode == 0
        assert f"Making .venv with Python {version}," in found.stderr


@pytest.mark.parametrize("version", ["3.10.13", "3.14.0", "4.0.0"])
def test_no_other_python_is_taken_and_one_line_says_so(version: str, tmp_path: Path) -> None:
    found = sourced(tmp_path, dict.fromkeys(NAMES, version))
    wanted = "No Python 3.11, 3.12 or 3.13 was found: install one, or say where it is with PYTHON=/path/to/python3\n"
    assert (found.returncode, found.stderr) == (1, wanted)


@pytest.mark.parametrize(("named", "why"), [("python3", "Python 3.14.0"), ("python3.15", "No such file or directory")])
def test_one_that_is_named_and_does_not_serve_is_refused_though_others_would(
    named: str, why: str, tmp_path: Path
) -> None:
    named = str(tmp_path / "bin" / named)
    found = sourced(tmp_path, {"python3.12": "3.12.1", "python3": "3.14.0"}, named)
    assert found.returncode == 1
    assert found.stderr.startswith(f"PYTHON={named} is not Python 3.11, 3.12 or 3.13: ")
    assert found.stderr.count("\n") == 1
    assert why in found.stderr


def test_an_environment_is_made_once_and_anew_for_another_version_that_is_named(tmp_path: Path) -> None:
    versions = {"python3.12": "3.12.1", "python3.13": "3.13.0"}
    assert "Making .venv with Python 3.12.1," in sourced(tmp_path, versions).stderr
    for same in (None, "python3.12"):
        assert sourced(tmp_path, versions, same).stderr == ""
    assert "Making .venv with Python 3.13.0," in sourced(tmp_path, versions, "python3.13").stderr
    assert sourced(tmp_path, versions).stderr == ""
