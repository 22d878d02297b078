"""Knocks at Kafka's brokers and says in one line why nobody opens.

kafka-python tries on for seconds, then says only that it could not, and often has not read the broker's reason.
"""

from __future__ import annotations

import socket
import ssl
import struct
from typing import TYPE_CHECKING, Any

from kafka.net.sasl import get_sasl_mechanism

from streams.errors import Denied, TidemarkError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

#: A broker that does not answer in so long is passed over.
PATIENCE_S = 5.0
#: Requests of Kafka's protocol: number and version. Both are the oldest with framed answers, which all brokers know.
HANDSHAKE, AUTHENTICATE = (17, 1), (36, 0)
_LARGEST_ANSWER = 1 << 16


def knock(ways: Mapping[str, Any]) -> None:
    """Return as soon as one broker lets us in. `ways`: as `streams.access.connection` gives them.

    Raises `Denied` when one does not want us or is not who it should be, `Unavailable` when none answers.
    """
    problems: list[TidemarkError] = []
    for broker in ways["bootstrap_servers"]:
        try:
            _enter(broker, ways)
        except TidemarkError as problem:
            problems.append(problem)
        except ssl.SSLCertVerificationError as error:
            said = error.verify_message.rstrip(".")
            problems.append(Denied(f"Kafka at {broker} is not trusted ({said}): {_TRUST}"))
        except ssl.SSLError as error:
            said = error.reason or type(error).__name__
            problems.append(Unavailable(f"Kafka at {broker} does not speak TLS as we do ({said}): {_SECURITY}"))
        except (OSError, OverflowError):
            pass  # nobody there; perhaps at the next one
        else:
            return
    nobody = Unavailable(
        f"no Kafka broker answers at {','.join(ways['bootstrap_servers'])}: start it, or set TIDEMARK_KAFKA"
    )
    raise next((each for each in problems if isinstance(each, Denied)), (problems or [nobody])[0])


_TRUST = "TIDEMARK_KAFKA must have the name in its certificate, TIDEMARK_KAFKA_CA the authority that issued it"
_SECURITY = "is TIDEMARK_KAFKA_SECURITY right?"


def _enter(broker: str, ways: Mapping[str, Any]) -> None:
    host, _, port = broker.rpartition(":")
    context = ways.get("ssl_context")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as wire:
        if context is None:
            _sign_in(wire, broker, ways)
        else:
            with context.wrap_socket(wire, server_hostname=host) as secure:
                _sign_in(secure, broker, ways)


def _sign_in(wire: socket.socket, broker: str, ways: Mapping[str, Any]) -> None:
    """The same steps as any client's; the broker's words when it does not accept them."""
    name = ways.get("sasl_mechanism")
    if name is None:
        return
    mechanism = get_sasl_mechanism(name)(**ways)
    try:
        code, answer = _ask(wire, HANDSHAKE, struct.pack(">h", len(name)) + name.encode())
        if code:
            known = ", ".join(_texts(answer)) or "others"
            raise Denied(f"Kafka at {broker} does not take {name} but {known}: set TIDEMARK_KAFKA_SASL_MECHANISM")
        while not mechanism.is_done():
            said: bytes = mechanism.auth_bytes()
            code, answer = _ask(wire, AUTHENTICATE, struct.pack(">i", len(said)) + said)
            (length,) = struct.unpack_from(">h", answer)
            why, answer = answer[2 : 2 + max(length, 0)], answer[2 + max(length, 0) :]
            if code:
                raise Denied(f"Kafka at {broker} does not let this user in ({why.decode()}): {_USER}")
            mechanism.receive(answer[4:])
    except EOFError:
        raise Unavailable(f"Kafka at {broker} ends the connection while we sign in: {_SECURITY}") from None
    except ValueError as error:
        raise Denied(f"Kafka at {broker} does not prove that it knows this user ({error}): {_USER}") from None


_USER = "check TIDEMARK_KAFKA_USER and its password"


def _ask(wire: socket.socket, request: tuple[int, int], body: bytes) -> tuple[int, bytes]:
    """Error code and the rest of the answer."""
    client = b"tidemark"
    head = struct.pack(">hhih", *request, 1, len(client)) + client
    wire.sendall(struct.pack(">i", len(head) + len(body)) + head + body)
    (length,) = struct.unpack(">i", _read(wire, 4))
    if not 6 <= length <= _LARGEST_ANSWER:
        raise EOFError
    answer = _read(wire, length)
    (code,) = struct.unpack_from(">h", answer, 4)
    return code, answer[6:]


def _read(wire: socket.socket, length: int) -> bytes:
    found = b""
    while len(found) < length:
        some = wire.recv(length - len(found))
        if not some:
            raise EOFError
        found += some
    return found


def _texts(packed: bytes) -> list[str]:
    """An array of strings as Kafka packs it."""
    (count,), at, found = struct.unpack_from(">i", packed), 4, []
    for _ in range(count):
        (length,) = struct.unpack_from(">h", packed, at)
        found.append(packed[at + 2 : at + 2 + length].decode())
        at += 2 + length
    return found
