"""Compiled code: a rehearsal compiles everything, and a folder to keep it in saves time and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

#: Signatures by function, of everything in models/ that is compiled.
SIGNATURES = """
import importlib, pkgutil, models
def signatures():
    modules = [importlib.import_module(f"models.{each.name}") for each in pkgutil.iter_modules(models.__path__)]
    return {
        (module.__name__, name): len(value.signatures)
        for module in modules for name, value in vars(module).items() if hasattr(value, "signatures")
    }
"""
A_SEASON = """
from models.rehearsal import rehearse
from tests.partition import Partition, Season, drawn_catalogue, learned
rehearse()
after = signatures()
arrivals = Season(events=600).arrivals()
Partition(drawn_catalogue(learned(arrivals))).take(arrivals, 100)
assert signatures() == after, sorted(set(signatures().items()) - set(after.items()))
print("rehearsed", sum(after.values()))
"""


def answer(code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    words = [sys.executable, "-W", "error", "-c", code]
    run = subprocess.run(words, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_after_a_rehearsal_nothing_more_is_compiled() -> None:
    assert answer(SIGNATURES + A_SEASON).startswith("rehearsed ")


def test_code_that_can_be_kept_nowhere_is_compiled_all_the_same() -> None:
    """A folder that is a file can be written by nobody, root included."""
    code = """
import numba
numba.config.CACHE_DIR = "/dev/null/x"
import models.compiled as door
numba.config.CACHE_LOCATOR_CLASSES = "models.compiled.Given"
@door.compiled
def twice(number: int) -> int:
    return number + number
print(twice(4), type(twice._cache).__name__)
"""
    assert answer(code) == "8 NullCache\n"


def test_read_outs_of_numbers_do_not_load_the_compiler() -> None:
    code = "import sys, streams.cli, streams.readouts, streams.view; print('numba' in sys.modules)"
    assert answer(code) == "False\n"


def test_a_change_anywhere_in_models_makes_kept_code_void(tmp_path: Path) -> None:
    """Numba itself looks at one file only; a constant of another would stay what it was."""
    code = "import models.compiled as door; print(door.stamp().hex())"
    before = answer(code)
    (tmp_path / "models").symlink_to(ROOT / "models")
    assert answer(code, PYTHONPATH=str(tmp_path)) == before
    copied = tmp_path / "copy" / "models"
    copied.mkdir(parents=True)
    for source in (ROOT / "models").glob("*.py"):
        (copied / source.name).write_bytes(source.read_bytes())
    with (copied / "rules.py").open("a") as rules:
        rules.write("# changed\n")
    changed = f"import sys; sys.path.insert(0, {str(copied.parent)!r})\n" + code
    assert answer(changed) != before
