"""Pages over HTTP: they answer what they are asked, while the loop hangs too, and nobody listens unasked."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import urllib.request
from collections.abc import Callable
from urllib.error import HTTPError

import pytest

from streams import health
from streams.endpoint import Page, judged, serving
from streams.errors import Unavailable, WrongSettings
from streams.health import Verdict
from streams.lookout import Lookout, answering
from streams.settings import Settings
from streams.tally import Tally
from tests.kafka.processes import free_port

HERE = "127.0.0.1"


def ask(port: int, path: str) -> tuple[int, str, str]:
    """Status, content type and body."""
    try:
        with urllib.request.urlopen(f"http://{HERE}:{port}{path}", timeout=5) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except HTTPError as answer:
        with answer:
            return answer.code, answer.headers["Content-Type"], answer.read().decode()


def pages(**made: Callable[[], Page]) -> dict[str, Callable[[], Page]]:
    return {f"/{name}": make for name, make in made.items()}


def is_open(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex((HERE, port)) == 0


def test_a_page_is_answered_and_another_path_is_not_found() -> None:
    port = free_port()
    with serving(HERE, port, pages(a=lambda: Page(200, "text/plain", b"hello"))):
        assert ask(port, "/a") == (200, "text/plain", "hello")
        assert ask(port, "/a?now") == (200, "text/plain", "hello")
        assert ask(port, "/b")[0] == 404
    assert not is_open(port)


def test_a_verdict_is_a_status_and_a_sentence() -> None:
    assert judged("live", Verdict(True, "fine"))[:2] == (200, "application/json")
    page = judged("ready", Verdict(False, "Redis has not taken a command for 3 s"))
    assert page.status == 503
    assert json.loads(page.body) == {"ready": False, "why": "Redis has not taken a command for 3 s"}


def test_a_page_that_cannot_be_made_stops_no_other() -> None:
    def broken() -> Page:
        raise ZeroDivisionError

    port = free_port()
    with serving(HERE, port, pages(broken=broken, a=lambda: Page(200, "text/plain", b""))):
        with pytest.raises(OSError, match=r"closed connection|reset"):
            ask(port, "/broken")
        assert ask(port, "/a")[0] == 200


def test_who_says_nothing_keeps_nobody_waiting() -> None:
    port = free_port()
    with serving(HERE, port, pages(a=lambda: Page(200, "text/plain", b""))), socket.create_connection((HERE, port)):
        assert ask(port, "/a")[0] == 200


def test_a_port_that_is_taken_may_be_free_later_and_a_foreign_address_never() -> None:
    port = free_port()
    with (
        serving(HERE, port, {}),
        pytest.raises(Unavailable, match=f"port {port} of {HERE} is taken"),
        serving(HERE, port, {}),
    ):
        pass
    for host in ("192.0.2.1", "no.such.host.invalid"):
        with pytest.raises(WrongSettings, match="TIDEMARK_HTTP_HOST"), serving(host, port, {}):
            pass


def test_nothing_listens_unless_a_port_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    settings = Settings()
    monkeypatch.setattr(socket.socket, "bind", refuse)
    with answering(settings, Lookout(Tally())):
        pass
    assert settings.http_port is None
    assert settings.http_host == HERE


def test_a_worker_at_its_start_lives_and_is_not_ready() -> None:
    settings = Settings(http_port=free_port())
    assert settings.http_port
    with answering(settings, Lookout(Tally())):
        assert ask(settings.http_port, "/live")[0] == 200
        status, _, said = ask(settings.http_port, "/ready")
        assert (status, json.loads(said)["why"]) == (503, "it has looked for Kafka, its topics and Redis for 0 s")
        status, kind, said = ask(settings.http_port, "/metrics")
        assert (status, kind.split(";")[0]) == (200, "text/plain")
        assert "tidemark_ready 0.0" in said


def test_a_loop_that_hangs_is_told_by_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LOOP_S", 1.5)
    port, lookout = free_port(), Lookout(Tally())

    async def work() -> list[int]:
        looking = asyncio.create_task(lookout.run())
        await asyncio.sleep(1.2)
        said = [await asyncio.to_thread(lambda: ask(port, "/live")[0])]
        asking = asyncio.get_running_loop().run_in_executor(None, _later, port)
        time.sleep(3)  # noqa: ASYNC251 -- this is the loop that hangs
        said.append(await asking)
        await asyncio.sleep(0.1)
        said.append(await asyncio.to_thread(lambda: ask(port, "/live")[0]))
        looking.cancel()
        return said

    with serving(HERE, port, pages(live=lambda: judged("live", lookout.live()))):
        assert asyncio.run(work()) == [200, 503, 200]


def _later(port: int) -> int:
    time.sleep(2.6)
    return ask(port, "/live")[0]
