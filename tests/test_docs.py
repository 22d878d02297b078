"""What the documents say exists: commands and their options, files, settings, links, tests."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer.main

from streams.cli import app
from streams.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
#: A path of the repository as it is written in a text; `../shared` is not part of it.
FILE = re.compile(r"(?<![\w./-])((?:models|streams|tests|scripts|docs|\.ci)/[\w./-]*\w)(?![\w*])")
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
SETTING = re.compile(r"TIDEMARK_[A-Z_]*[A-Z]")
#: What ends a worker in one line.
ENDS = {"TidemarkError", "WrongSettings", "Unavailable", "Denied", "Refused", "Foreign"}
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def blocks(text: str) -> Iterator[str]:
    """Lines of code blocks, fenced or indented; of fenced ones only what follows a prompt."""
    for block in FENCE.findall(text):
        yield from (line[2:] for line in block.splitlines() if line.startswith("$ "))
    yield from (line.strip() for line in FENCE.sub("", text).splitlines() if line.startswith("    "))


def commands(text: str) -> Iterator[list[str]]:
    """Every call of tidemark in the code blocks and in `code` of a text, as words without what a shell takes away."""
    for line in [*blocks(text), *re.findall(r"`(tidemark [^`]+)`", text)]:
        for part in re.split(r"[|&>]|\s#", line):
            if part.strip().startswith("tidemark "):
                yield shlex.split(part)[1:]


def fault(words: list[str]) -> str | None:
    """What is wrong with a call of tidemark; None when its command and all its options exist."""
    command: Any = typer.main.get_command(app)
    for word in words:
        if word.startswith("--"):
            known = {option for parameter in command.params for option in parameter.opts}
            if word not in known | {"--help"}:
                return f"{command.name} has no option {word}"
        elif hasattr(command, "commands"):
            if word not in command.commands:
                return f"{command.name} has no command {word}"
            command = command.commands[word]
    return None


def anchor(heading: str) -> str:
    """A heading as the end of a link to it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@every_document
def test_every_command_exists_with_its_options(document: Path) -> None:
    wrong = [(words, why) for words in commands(document.read_text(encoding="utf-8")) if (why := fault(words))]
    assert wrong == []


def test_the_readme_calls_what_a_newcomer_needs() -> None:
    called = {words[0] for words in commands((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert {"topics", "simulate", "produce", "work", "totals", "roi", "segments", "watch", "wallet", "lag"} <= called


@every_document
def test_every_file_named_exists(document: Path) -> None:
    named = set(FILE.findall(document.read_text(encoding="utf-8")))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@every_document
def test_every_number_of_a_module_named_exists(document: Path) -> None:
    """As `scripts/quality --set` takes it."""
    named = re.findall(r"\b((?:models|streams)(?:\.\w+)+)\.([A-Z][A-Z_]+)\b", document.read_text(encoding="utf-8"))
    assert [(module, name) for module, name in named if not hasattr(import_module(module), name)] == []


@every_document
def test_every_setting_named_exists(document: Path) -> None:
    known = {f"TIDEMARK_{name.upper()}" for name in Settings.model_fields}
    assert set(SETTING.findall(document.read_text(encoding="utf-8"))) <= known


def test_every_setting_that_operators_choose_is_in_operations() -> None:
    told = set(SETTING.findall((ROOT / "docs" / "operations.md").read_text(encoding="utf-8")))
    ours = {"TIDEMARK_EMBEDDED"}  # the demo's own
    assert {f"TIDEMARK_{name.upper()}" for name in Settings.model_fields} - told == ours


@every_document
def test_links_resolve(document: Path) -> None:
    for link in LINK.findall(document.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        file, _, place = link.partition("#")
        target = document.parent / file if file else document
        assert target.is_file(), link
        if place:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert place in map(anchor, headings), link


@every_document
def test_no_document_names_a_place_of_one_machine(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.~:/])/(home|work|root|tmp|usr|opt|var)/", text)


def test_every_test_named_in_contributing_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    written = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert named
    assert [name for name in sorted(named) if f"def {name}(" not in written] == []


def test_every_part_of_scripts_test_exists() -> None:
    script = (ROOT / "scripts" / "test").read_text(encoding="utf-8")
    for document in DOCUMENTS:
        for part in re.findall(r"\./scripts/test (\w+)", document.read_text(encoding="utf-8")):
            assert re.search(rf"^{part}\(\)", script, re.MULTILINE), part


def test_every_script_named_is_executable() -> None:
    for document in DOCUMENTS:
        for name in re.findall(r"\./(scripts/[\w-]+)", document.read_text(encoding="utf-8")):
            assert shutil.which(ROOT / name), name


def _imported(module: str, seen: dict[str, ast.Module]) -> dict[str, ast.Module]:
    """A module of streams/ and all of them that it imports, with what they import, by name."""
    if module in seen or not (path := ROOT / "streams" / f"{module}.py").is_file():
        return seen
    seen[module] = tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "streams":
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("streams."):
            names = [str(node.module).removeprefix("streams.")]
        else:
            continue
        for name in names:
            _imported(name, seen)
    return seen


def _said(node: ast.expr) -> str | None:
    """A literal text, what is filled in as `…`; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return None


def refusals() -> Iterator[str]:
    """Every line a worker can end with."""
    for tree in _imported("worker", {}).values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ENDS and node.args:
                given = node.args[0].elts[0] if isinstance(node.args[0], ast.Tuple) else node.args[0]
                if said := _said(given):
                    yield said


def test_operations_says_what_to_do_about_every_refusal_and_of_none_that_is_not() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    table = text.partition("\n## When it refuses\n")[2].partition("\n## ")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    told = [fragment for row in rows for fragment in re.findall(r"`([^`]+)`", row)]
    patterns = {each: re.compile(".*".join(map(re.escape, each.split("…")))) for each in told}
    said = list(refusals())
    assert len(said) > 30
    assert [line for line in said if not any(pattern.search(line) for pattern in patterns.values())] == []
    code = "\n".join(said) + "".join(path.read_text(encoding="utf-8") for path in (ROOT / "streams").glob("*.py"))
    assert [each for each in told if not all(part.strip() in code for part in each.split("…"))] == []
