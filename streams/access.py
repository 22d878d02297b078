"""How this process gets into Kafka: address, certificates, password; and one line that says why when it does not."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kafka.errors import AuthorizationError, KafkaConnectionError, KafkaError, KafkaTimeoutError

from streams.errors import Denied, TidemarkError, Unavailable
from streams.knock import knock
from streams.trust import tls

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping

    from streams.settings import Settings


def kafka_tls(settings: Settings) -> ssl.SSLContext | None:
    """The certificates for Kafka; None without TLS. Raises `WrongSettings`."""
    if not settings.kafka_security.endswith("SSL"):
        return None
    return tls(settings.kafka_ca, settings.kafka_certificate, settings.kafka_key, "TIDEMARK_KAFKA")


def connection(settings: Settings) -> dict[str, Any]:
    """Keyword arguments of every kafka-python client: where the brokers are and how to speak with them."""
    found: dict[str, Any] = {"bootstrap_servers": settings.kafka.split(",")}
    if settings.kafka_security == "PLAINTEXT":
        return found
    found["security_protocol"] = settings.kafka_security
    found["ssl_context"] = kafka_tls(settings)
    if settings.kafka_security.startswith("SASL"):
        found["sasl_mechanism"] = settings.kafka_sasl_mechanism
        found["sasl_plain_username"] = settings.kafka_user
        found["sasl_plain_password"] = settings.kafka_secret
    return found


@contextmanager
def entering(ways: Mapping[str, Any]) -> Iterator[None]:
    """Make a client of kafka-python inside: what can be foreseen ends in one line. `ways`: as `connection` gives them.

    kafka-python leaves a thread and a socket behind when its first connection fails: so somebody knocks beforehand.
    """
    brokers = ",".join(ways["bootstrap_servers"])
    knock(ways)
    try:
        yield
    except KafkaError as error:
        raise _explained(error, brokers) from error


def _explained(error: KafkaError, brokers: str) -> TidemarkError:
    if isinstance(error, (KafkaConnectionError, KafkaTimeoutError)):
        return Unavailable(
            f"Kafka at {brokers} does not answer ({type(error).__name__}): "
            "is it a broker, is TIDEMARK_KAFKA_SECURITY right, does it want a TIDEMARK_KAFKA_CERTIFICATE?"
        )
    if isinstance(error, AuthorizationError):
        return Denied(f"Kafka refuses access ({error}): see `tidemark topics create --print`")
    said = (str(error).splitlines() or [""])[0]
    return Unavailable(f"Kafka at {brokers} answers with {type(error).__name__}: {said}")
