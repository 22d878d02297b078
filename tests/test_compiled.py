"""Compiled code: a rehearsal compiles everything, and a folder to keep it in saves time and nothing else."""

from __future__ import annotations

import inspect
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numba
import pytest

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
from models.records import Record, records_of, together
from models.rehearsal import rehearse
from streams.intake import Alone, Lane, Merge, Now
from streams.unpacking import Batches, PartitionColumns
from tests.answers import Written, answer
from tests.test_intake import Arrival
from tests.partition import Partition, Season, drawn_catalogue, learned
rehearse()
after = signatures()
arrivals = Season(events=600).arrivals()
Partition(drawn_catalogue(learned(arrivals))).take(arrivals, 100)
parts = [Written([Record(0, 5, b"w", None, (("a", b"b"),)), Record(1, 5, None, b"v")], compression=n) for n in (0, 1)]
found = list(PartitionColumns(None, Batches(answer(parts)[0]), [], 1, None, None, True, 1))
log, now = [*found[0], *together(found)[1:]], Now(0.0, 0)
for span_ms in (5, 5.0):
    lanes = [Lane(number, 1, now) for number in (0, 1)]
    for lane in lanes:
        lane.put(Arrival(log[:1], 1))
        lane.put(Arrival(log[1:], 2))
    assert len(Merge(*lanes, lambda _: None).take(9, Now(0.0, 1 << 40), span_ms).records)
    assert len(Alone(lanes[0]).take(9, now).records)
assert signatures() == after, sorted(set(signatures().items()) - set(after.items()))
print("rehearsed", sum(after.values()))
"""
DOUBLING = """
from models.compiled import compiled, leaf

@leaf
def plus(one: int, other: int) -> int:
    return one + other

@compiled
def twice(number: int) -> int:
    return plus(number, number)
"""
#: All that is loaded at a first call is loaded before the rights are gone: a stranger may not see our Python.
TRIED = """
import os, sys
import numba, numpy
from numba.core.registry import cpu_target
import models.compiled
numba.njit(lambda numbers: numbers.sum() + 1.5)(numpy.zeros(3))
cpu_target.target_context.refresh()
{rights}
sys.path.insert(0, {shelf!r})
sys.dont_write_bytecode = True
import doubling
result = doubling.twice(4)
both = [doubling.plus.stats, doubling.twice.stats]
read, compiled = (sum(sum(getattr(each, name).values()) for each in both) for name in ("cache_hits", "cache_misses"))
print(result, "read", read, "compiled", compiled)
"""
SAID = {"load_overload": ["sig", "target_context"], "save_overload": ["sig", "data"]}

only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")


def answer(code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    words = [sys.executable, "-W", "error", "-c", code]
    run = subprocess.run(words, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_after_a_rehearsal_nothing_more_is_compiled() -> None:
    assert answer(SIGNATURES + A_SEASON).startswith("rehearsed ")


@pytest.fixture
def shelf() -> Iterator[Path]:
    """A folder that every user can look into, with a module that has two compiled functions."""
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are the user's alone
    folder.chmod(0o755)
    (folder / "doubling.py").write_text(DOUBLING)
    yield folder
    shutil.rmtree(folder)


def tried(shelf: Path, *, stranger: bool, cache: str = "cache", **environment: str) -> str:
    """What is doubled, and how many functions were read from disk and how many compiled, by us or by a stranger."""
    rights = "os.setgroups([]); os.setgid(10001); os.setuid(10001)" if stranger else ""
    places = {"NUMBA_CACHE_DIR": str(shelf / cache), "HOME": "/nonexistent", "XDG_CACHE_HOME": ""} | environment
    return answer(TRIED.format(rights=rights, shelf=str(shelf)), **places)


@only_root
def test_code_kept_where_it_can_only_be_read_is_not_compiled_again(shelf: Path) -> None:
    """An image with a read-only file system, and a service user without a home."""
    assert tried(shelf, stranger=False) == "8 read 0 compiled 2\n"
    assert tried(shelf, stranger=True) == "8 read 1 compiled 0\n"


@only_root
def test_code_that_can_be_kept_nowhere_is_compiled_all_the_same(shelf: Path) -> None:
    for _ in range(2):
        assert tried(shelf, stranger=True) == "8 read 0 compiled 2\n"
    tried(shelf, stranger=False)
    (shelf / "cache").chmod(0o700)  # it may not even be read
    assert tried(shelf, stranger=True) == "8 read 0 compiled 2\n"


@only_root
def test_what_is_kept_for_another_processor_is_compiled_into_the_next_folder(shelf: Path) -> None:
    home = shelf / "home"
    home.mkdir()
    home.chmod(0o777)
    tried(shelf, stranger=False, NUMBA_CPU_NAME="generic")
    assert tried(shelf, stranger=True, NUMBA_CPU_NAME="generic") == "8 read 1 compiled 0\n"
    assert tried(shelf, stranger=True, XDG_CACHE_HOME=str(home)) == "8 read 0 compiled 2\n"
    assert tried(shelf, stranger=True, XDG_CACHE_HOME=str(home)) == "8 read 1 compiled 0\n"


def test_half_a_file_is_as_good_as_none(shelf: Path) -> None:
    """A machine lost its power while the file was written."""
    tried(shelf, stranger=False)
    for index in (shelf / "cache").rglob("*.nb?"):
        index.write_bytes(index.read_bytes()[:7])
    assert tried(shelf, stranger=False) == "8 read 0 compiled 2\n"
    assert tried(shelf, stranger=False) == "8 read 1 compiled 0\n"


def test_what_names_a_class_that_is_gone_is_compiled_and_written_anew(shelf: Path) -> None:
    tried(shelf, stranger=False)
    for index in (shelf / "cache").rglob("*.nbi"):
        index.write_bytes(pickle.dumps(numba.__version__) + b"cmodels.rows\nNoMore\n.")
    assert tried(shelf, stranger=False) == "8 read 0 compiled 2\n"
    assert tried(shelf, stranger=False) == "8 read 1 compiled 0\n"


def test_numba_takes_its_cache_as_we_give_it() -> None:
    """`models.compiled` gives Numba's dispatcher a cache of ours: the part of Numba that says no word of that."""
    from numba.core import caching, dispatcher

    enabling = inspect.getsource(dispatcher.Dispatcher.enable_caching)
    assert enabling.split() == ["def", "enable_caching(self):", "self._cache", "=", "FunctionCache(self.py_func)"]
    for name in ("load_overload", "save_overload"):
        assert list(inspect.signature(getattr(caching.FunctionCache, name)).parameters)[1:] == SAID[name]


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
