"""Child processes whose output goes to a file: they can be stopped, killed, frozen and started again."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from streams.embedded import leashed

REPOSITORY = Path(__file__).resolve().parents[2]
#: What is to happen at all, whenever: on a machine with ten times the work it can do, a broker took a minute to start.
PATIENCE_S = 180.0


class Missing(Exception):
    """A program these tests need is not on this machine; the text says which and how to get it."""


#: Below the ports that Linux gives to outgoing connections: one of those would take a port while a broker is down.
_PORTS = range(10_000, 32_768)
#: While this process lives, a UDP socket on the same number tells every other test run that the port is taken.
_taken: list[socket.socket] = []


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on, given to nobody else while this process lives."""
    while True:
        port = secrets.choice(_PORTS)
        mark = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            mark.bind(("127.0.0.1", port))
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", port))
        except OSError:
            mark.close()
            continue
        _taken.append(mark)
        return port


def wait_until(true: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
    """Ask every 50 ms until it is true; `TimeoutError` names what did not happen."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)


class Child:
    """One program that may be started several times in a row; its output is appended to `log`.

    One that the main thread starts ends with this process, so that a test that is killed leaves no broker behind.
    """

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self._running: subprocess.Popen[bytes] | None = None
        self._began = 0  # characters in the log when it was started last

    def launch(self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
        """Start it, in a session of its own, so that Ctrl-C reaches only the one who has to clean up."""
        if self.alive:
            raise RuntimeError(f"{self.name} is running already")
        self._began = len(self.text)
        with self.log.open("ab") as out:
            self._running = subprocess.Popen(
                leashed([str(word) for word in command]),
                cwd=REPOSITORY,
                env=None if environment is None else dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        return self._running is not None and self._running.poll() is None

    @property
    def is_frozen(self) -> bool:
        """Whether it stands still, by whatever signal."""
        if not self.alive:
            return False
        ask = [str(shutil.which("ps")), "-o", "state=", "-p", str(self.pid)]
        return subprocess.run(ask, check=False, capture_output=True).stdout.startswith(b"T")

    @property
    def pid(self) -> int:
        if self._running is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._running.pid

    @property
    def text(self) -> str:
        """All it has written so far, of every start."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def text_since_start(self) -> str:
        """What it has written since it was started last."""
        return self.text[self._began :]

    def wait(self, seconds: float = PATIENCE_S) -> int:
        """Its exit code; a killed process has minus the signal's number."""
        if self._running is None:
            raise RuntimeError(f"{self.name} was never started")
        try:
            return self._running.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} still runs after {seconds:g} s; its last words:\n{self.tail()}") from None

    def terminate(self) -> None:
        """Ask it to end (SIGTERM); `wait` for it."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """`kill -9`, and gone when this returns."""
        self._signal(signal.SIGKILL)
        if self._running is not None:
            self._running.wait(30)

    def freeze(self) -> None:
        """Stand still (SIGSTOP): a long pause of the machine, as the others see it."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on after `freeze`."""
        self._signal(signal.SIGCONT)

    def stop(self, seconds: float = 30) -> None:
        """End it in whatever way it takes; nothing runs when this returns."""
        self.thaw()
        self.terminate()
        try:
            self.wait(seconds)
        except (TimeoutError, RuntimeError):
            self.kill()

    def await_words(self, words: str, seconds: float = PATIENCE_S, after: int = 0) -> None:
        """Wait until it has written `words` after the first `after` characters of its log; fail at once if it ends."""
        wait_until(lambda: words in self.text[after:] or not self.alive, f"{self.name} saying {words!r}", seconds)
        if words not in self.text[after:]:
            raise RuntimeError(f"{self.name} ended with {self.wait()}; its last words:\n{self.tail()}")

    def tail(self, lines: int = 30) -> str:
        """The last lines it wrote."""
        return "\n".join(self.text.splitlines()[-lines:])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _signal(self, number: signal.Signals) -> None:
        if self.alive:
            os.kill(self.pid, number)
