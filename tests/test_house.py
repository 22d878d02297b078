"""What surrounds the code: compose file, image, licence, contracts. No Docker engine is needed to read them."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PINNED = re.compile(r"[a-z/]+:v?\d+\.\d+\.\d+[a-z0-9.-]*")
OURS = ("topics", "worker")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return parsed


@pytest.fixture(scope="module")
def dockerfile() -> list[tuple[str, str]]:
    joined = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """Every file that is or would be part of a commit."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("no git here to say which files belong to the repository")
    listed = subprocess.run(
        [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    return [path for path in (ROOT / name for name in listed.stdout.decode().split("\0") if name) if path.is_file()]


def test_every_setting_in_compose_is_one_that_settings_know(compose: dict[str, Any]) -> None:
    from streams.settings import Settings

    known = {f"TIDEMARK_{name.upper()}" for name in Settings.model_fields}
    for service in compose["services"].values():
        given = {name for name in service.get("environment", {}) if name.startswith("TIDEMARK_")}
        assert given <= known


def test_the_values_in_compose_are_valid_settings(compose: dict[str, Any]) -> None:
    from streams.settings import Settings

    for name in OURS:
        environment = compose["services"][name]["environment"]
        settings = Settings(**{key.removeprefix("TIDEMARK_").lower(): value for key, value in environment.items()})
        assert settings.kafka.split(":")[0] in compose["services"]
        assert settings.redis_url.split("/")[2].split(":")[0] in compose["services"]


def test_workers_read_the_topics_that_were_provisioned(compose: dict[str, Any]) -> None:
    topics, worker = (compose["services"][name] for name in OURS)
    assert topics["command"] == ["topics", "create"]
    assert topics["environment"] == worker["environment"]
    assert worker["depends_on"]["topics"] == {"condition": "service_completed_successfully"}


def test_workers_wait_until_kafka_and_redis_are_healthy(compose: dict[str, Any]) -> None:
    for name in ("kafka", "redis"):
        assert compose["services"]["worker"]["depends_on"][name] == {"condition": "service_healthy"}
    assert compose["services"]["topics"]["depends_on"]["kafka"] == {"condition": "service_healthy"}
    assert compose["services"]["worker"]["deploy"]["replicas"] >= 2


def test_everything_that_keeps_running_has_a_health_check(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        one_shot = service.get("restart") == "no"
        assert one_shot or service["healthcheck"]["test"][0] == "CMD", name


def test_redis_loses_nothing_it_has_answered(compose: dict[str, Any]) -> None:
    command = " ".join(compose["services"]["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--appendfsync always" in command
    assert "--auto-aof-rewrite-min-size 2gb" in command
    assert "--maxmemory-policy noeviction" in command


def test_what_must_survive_is_on_named_volumes(compose: dict[str, Any]) -> None:
    mounted = {volume for service in compose["services"].values() for volume in service.get("volumes", [])}
    assert {name.split(":")[0] for name in mounted} == set(compose["volumes"]) == {"kafka", "redis"}
    assert f"kafka:{compose['services']['kafka']['environment']['KAFKA_LOG_DIRS']}" in mounted


def test_nothing_is_published_beyond_this_machine(compose: dict[str, Any]) -> None:
    ports = [str(port) for service in compose["services"].values() for port in service.get("ports", [])]
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []
    assert all(service.get("network_mode") != "host" for service in compose["services"].values())


def test_images_are_pinned(compose: dict[str, Any], dockerfile: list[tuple[str, str]]) -> None:
    images = [service["image"] for service in compose["services"].values()]
    images += [rest.split()[0] for word, rest in dockerfile if word == "FROM"]
    assert [image for image in images if not PINNED.fullmatch(image)] == []


def test_compose_runs_the_version_of_this_tree(compose: dict[str, Any], pyproject: dict[str, Any]) -> None:
    for name in OURS:
        assert compose["services"][name]["image"] == f"tidemark:{pyproject['project']['version']}"


def test_containers_of_ours_may_do_nothing_they_need_not(compose: dict[str, Any]) -> None:
    for name in OURS:
        service = compose["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_image_runs_tidemark_as_nobody_in_particular(dockerfile: list[tuple[str, str]]) -> None:
    said = dict(dockerfile)
    assert said["ENTRYPOINT"] == '["tidemark"]'
    user = said["USER"].split(":")[0]
    assert user.isdecimal()
    assert int(user) > 0
    assert [word for word, _ in dockerfile].index("USER") > max(
        number for number, (word, _) in enumerate(dockerfile) if word == "RUN"
    )


def test_the_image_brings_compiled_code_that_any_container_of_it_can_read(
    compose: dict[str, Any], dockerfile: list[tuple[str, str]]
) -> None:
    """Else a container with a read-only file system compiles for half a minute at every start."""
    at = {word: number for number, (word, _) in enumerate(dockerfile)}
    variables = dict(pair.split("=", 1) for word, rest in dockerfile if word == "ENV" for pair in rest.split())
    folder = variables["NUMBA_CACHE_DIR"]
    (fills,) = [number for number, (word, rest) in enumerate(dockerfile) if word == "RUN" and "rehearse()" in rest]
    assert at["ENV"] < fills < at["USER"]
    assert at["COPY"] < fills  # what is compiled is what is installed
    assert dockerfile[fills][1].endswith(f"&& chmod -R a+rX {folder}")
    assert variables["NUMBA_CPU_NAME"] == "generic"  # the machine that builds need not be the one that runs
    for name in OURS:
        service = compose["services"][name]
        assert not set(service["environment"]) & {"NUMBA_CACHE_DIR", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"}
        mounted = [*service["tmpfs"], *(volume.split(":")[1] for volume in service.get("volumes", []))]
        assert [place for place in mounted if Path(folder).is_relative_to(place.split(":")[0])] == []


def test_the_image_installs_the_pinned_versions(dockerfile: list[tuple[str, str]]) -> None:
    installs = [rest for word, rest in dockerfile if word == "RUN" and "pip install" in rest]
    assert installs
    assert all("-c constraints.txt" in rest for rest in installs)


def test_the_image_gets_what_it_copies(dockerfile: list[tuple[str, str]]) -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for word, rest in dockerfile if word == "COPY" for name in rest.split()[:-1]}
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)


def test_docker_compose_accepts_the_file() -> None:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("no docker-compose here")
    done = subprocess.run([program, "-f", "docker-compose.yml", "config"], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_every_requirement_is_pinned(pyproject: dict[str, Any]) -> None:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, _, version = line.partition("==")
            assert re.fullmatch(r"[\w.-]+", name), line
            assert re.fullmatch(r"[\w.]+", version), line
            pins[_normal(name)] = version
    extras = pyproject["project"]["optional-dependencies"]
    wanted = [*pyproject["project"]["dependencies"], *extras["embedded"], *extras["dev"]]
    names = {_normal(re.split(r"[<>=!;\[ ]", requirement)[0]) for requirement in wanted}
    assert names <= set(pins)
    for exact in ("faust-streaming", "mode-streaming", "aiokafka"):
        assert f"{exact}=={pins[exact]}" in wanted


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_an_installed_package_has_every_file_it_reads(pyproject: dict[str, Any], files: list[Path]) -> None:
    """`pip install .` leaves out, in silence, what `package-data` does not name; an editable install hides that."""
    setuptools = pyproject["tool"]["setuptools"]
    for package in setuptools["packages"]:
        globs = ["*.py", *setuptools["package-data"][package]]
        inside = [path for path in files if path.is_relative_to(ROOT / package)]
        assert all(path.parent == ROOT / package and any(map(path.match, globs)) for path in inside), package


def test_every_shell_script_can_be_read_by_bash(files: list[Path]) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    shell = [path for path in files if b"bash" in path.read_bytes().split(b"\n", 1)[0]]
    assert {"test", "demo", "kafka", "venv", "run"} <= {path.name for path in shell}
    for path in shell:
        done = subprocess.run([bash, "-n", path], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()


def test_the_licence_is_apache_2(pyproject: dict[str, Any]) -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert pyproject["project"]["license"] == "Apache-2.0"


def test_the_promises_of_the_folders_are_checked(pyproject: dict[str, Any]) -> None:
    contracts = {contract["id"]: contract for contract in pyproject["tool"]["importlinter"]["contracts"]}
    assert contracts["pure"]["source_modules"] == ["models"]
    assert contracts["pure"]["forbidden_modules"] == ["streams"]
    kept_out = {
        "aiokafka",
        "asyncio",
        "faust",
        "kafka",
        "logging",
        "os",
        "random",
        "redis",
        "rich",
        "structlog",
        "time",
    }
    assert kept_out <= set(contracts["nothing-waits"]["forbidden_modules"])
    behind_doors = {name for key, found in contracts.items() if "door" in key for name in found["forbidden_modules"]}
    assert {"aiokafka", "faust", "kafka", "pydantic", "redis", "rich", "river", "typer"} <= behind_doors


def test_a_reason_stands_behind_every_exception_of_the_linter() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    section = text[text.index("\nignore = [") : text.index("[tool.ruff.lint.mccabe]")]
    unexplained = re.findall(r'^\s+"[A-Z]+\d*",\s*$', section, flags=re.MULTILINE)
    assert unexplained == []


def test_a_reason_stands_behind_every_exception_in_the_code(files: list[Path]) -> None:
    """`# noqa: X - why` and `# type: ignore[x] # why`; a bare one hides the next mistake too."""
    noqa = r"#\s*noqa(?!: [A-Z]+\d+(, [A-Z]+\d+)*( --? |\s+# )\w)"
    ignore = r"#\s*type:\s*ignore(?!\[[a-z-]+(, ?[a-z-]+)*\]( --? |\s+# )\w)"
    bare = re.compile(f"{noqa}|{ignore}")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        if path.suffix == ".py" and path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if bare.search(line)
    ]
    assert found == []


def test_no_file_names_a_machine_or_a_registry(files: list[Path]) -> None:
    """A path of one machine or the host of a package registry would tie the repository to where it was written."""
    hosts = r"pypi\.|pythonhosted\.|repo\d?\.maven|crates\.io|registry\.npmjs|proxy\.golang|deb\.debian|archive\.ubuntu"
    told = re.compile(rf"({hosts}|/home/\w|/root/|/Users/\w|/work/\w)".encode())
    found = [str(path.relative_to(ROOT)) for path in files if path != Path(__file__) and told.search(path.read_bytes())]
    assert found == []


def test_ci_runs_the_same_as_a_person(files: list[Path]) -> None:
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line and not line.startswith("#")]
    assert commands == ['exec "$(dirname "${BASH_SOURCE[0]}")/../scripts/test"']
    for path in files:
        if path.read_bytes().startswith(b"#!"):
            assert path.stat().st_mode & 0o111, f"{path.name} cannot be run"
