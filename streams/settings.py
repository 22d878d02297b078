"""The environment becomes one frozen value. Nothing else in Tidemark reads `os.environ`."""

from __future__ import annotations

import difflib
import json
import os
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    FilePath,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.rules import DAY_MS, HOUR_MS, OWN_CLUSTERER, Rules
from streams.errors import WrongSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pydantic.fields import FieldInfo

PREFIX = "TIDEMARK_"
_TOPIC = r"^[A-Za-z0-9._-]{1,200}$"
_HOSTS = r"^[^\s:/@,]+:\d{1,5}(,[^\s:/@,]+:\d{1,5})*$"
#: An unescaped `/`, `?` or `#` of a password would make a part of it the host's port, or the database. redis-py takes a
#: path that is no number for database 0, and any name in a query for an argument of its own.
_REDIS = re.compile(
    r"rediss?://([^/?#\s]*@)?([\w.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[0-9]{0,5})?"
    r"|unix://([^/?#\s]*@)?/[^?#@\s]+(\?db=[0-9]{1,5})?"
)
_MASK = "********"
_DURATION = "milliseconds"


def _setting(default: Any, meaning: str, *, unit: str = "", allowed: str = "", **bounds: Any) -> Any:
    """A field that carries what a person must know: unit, meaning, and what is allowed in words."""
    return Field(default=default, description=meaning, json_schema_extra={"unit": unit, "allowed": allowed}, **bounds)


def _redis_url(url: SecretStr) -> SecretStr:
    text = url.get_secret_value()
    if not _REDIS.fullmatch(text) or urlsplit(text).port == 0:  # .port raises ValueError if it is above 65535
        raise ValueError("not a Redis URL")
    return url


def _object(given: object) -> object:
    """JSON is read here: what pydantic-settings raises on a text that is none is no line for people."""
    return json.loads(given) if isinstance(given, str) else given


class Settings(BaseSettings):
    """Every setting of Tidemark, read from `TIDEMARK_<NAME>`; an empty variable means the default.

    Times are integer milliseconds. Use `load()` at the edge: it turns every wrong setting into one line.
    Keyword arguments win over the environment (tests, the demo).
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True, hide_input_in_errors=True
    )

    kafka: str = _setting(
        "localhost:9092", "Kafka brokers to begin with", allowed="host:port, several with commas", pattern=_HOSTS
    )
    redis: Annotated[SecretStr, AfterValidator(_redis_url)] = _setting(
        SecretStr("redis://localhost:6379/0"),
        "Redis: the system of record",
        allowed="redis://host:port/database, rediss://… or unix:///path?db=database; user:password@ before host or "
        "path, special characters percent-encoded",
    )
    topic_transactions: str = _setting(
        "wallet.transactions", "input topic of wallet transactions", allowed="a Kafka topic name", pattern=_TOPIC
    )
    topic_touches: str = _setting(
        "campaign.touches", "input topic of campaign touches", allowed="a Kafka topic name", pattern=_TOPIC
    )
    prefix: str = _setting(
        "tidemark.",
        "how the names of Tidemark's own topics begin",
        allowed="letters, digits, '.', '_' and '-', at most 200",
        pattern=r"^[A-Za-z0-9._-]{0,200}$",
    )
    group: str = _setting(
        "tidemark",
        "Kafka consumer group of the workers",
        allowed="letters, digits, '.', '_' and '-', 1 to 200",
        pattern=_TOPIC,
    )
    partitions: int = _setting(
        12, "partitions of each input topic; used by `topics create`", unit="partitions", ge=1, le=10_000
    )
    catalogue: FilePath | None = _setting(
        None,
        "place wallets with this frozen catalogue; learning goes on beside it",
        allowed="a file made by `tidemark segments --export`",
    )
    partitioner: Literal["murmur2", "crc32", "off"] = _setting(
        "murmur2", "how producers choose a partition: Java's default, librdkafka's default, or not checked"
    )
    allowed_lateness: int = _setting(
        HOUR_MS,
        "an event older than the clock minus this counts as late; a late touch re-credits nothing older",
        unit=_DURATION,
        ge=0,
        le=30 * DAY_MS,
    )
    look_back_ms: int = _setting(
        30 * DAY_MS,
        "a touch earns credit for transactions up to this much later",
        unit=_DURATION,
        ge=1,
        le=366 * DAY_MS,
    )
    future_ms: int = _setting(
        600_000,
        "an event later than its record's timestamp plus this is rejected as from_the_future",
        unit=_DURATION,
        ge=0,
        le=DAY_MS,
    )
    clock_step_ms: int = _setting(
        DAY_MS, "one event moves the clock of a partition by at most this", unit=_DURATION, ge=1000, le=366 * DAY_MS
    )
    touches_kept: int = _setting(128, "touches of a wallet kept for credit", unit="touches", ge=1, le=1024)
    fees_kept: int = _setting(
        256, "transactions with a fee of a wallet kept for re-credit", unit="transactions", ge=5, le=4096
    )
    evidence: int = _setting(
        5, "transactions a wallet needs before it is given a segment", unit="transactions", ge=1, le=1000
    )
    switch_at: float = _setting(
        10.0, "score another segment must gain over a wallet's own before the wallet moves", unit="nats", gt=0, le=1000
    )
    segments_min: int = _setting(3, "fewest segments the model may choose", unit="segments", ge=1, le=16)
    segments_max: int = _setting(12, "most segments the model may choose", unit="segments", ge=1, le=16)
    clusterer: Literal[
        "tidemark", "river.KMeans", "river.STREAMKMeans", "river.DBSTREAM", "river.DenStream", "river.CluStream"
    ] = _setting("tidemark", "who learns the segments: our own clusterer, or one of River's in its place")
    clusterer_params: Annotated[dict[str, Any], NoDecode, BeforeValidator(_object)] = _setting(
        {}, "parameters of River's clusterer", allowed='a JSON object of its parameters, such as {"n_clusters": 8}'
    )
    cache_wallets: int = _setting(
        100_000,
        "wallets a worker keeps in memory, all its partitions together",
        unit="wallets",
        ge=1000,
        le=100_000_000,
    )
    batch_records: int = _setting(2000, "records of one commit at most", unit="records", ge=1, le=4000)
    buffer_records: int = _setting(
        4000, "records read ahead for each topic and partition", unit="records", ge=1000, le=1_000_000
    )
    fetch_min_bytes: int = _setting(
        65536,
        "Kafka answers a fetch when it has this much; 1 saves some milliseconds and costs CPU",
        unit="bytes",
        ge=1,
        le=1 << 20,
    )
    fetch_wait_ms: int = _setting(20, "Kafka answers a fetch after this at the latest", unit=_DURATION, ge=1, le=500)
    session_timeout_ms: int = _setting(
        10_000,
        "a worker silent for this long loses its partitions; the broker's group.min.session.timeout.ms is the floor",
        unit=_DURATION,
        ge=1000,
        le=300_000,
    )
    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = _setting(
        "PLAINTEXT", "how to speak with the brokers"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = _setting(
        "PLAIN", "how to sign in, with SASL_PLAINTEXT and SASL_SSL"
    )
    kafka_user: str | None = _setting(
        None, "user name, with SASL_PLAINTEXT and SASL_SSL", allowed="a text", min_length=1
    )
    kafka_password: SecretStr | None = _setting(
        None, "password, with SASL_PLAINTEXT and SASL_SSL", allowed="a text", min_length=1
    )
    kafka_password_file: FilePath | None = _setting(
        None, "a file with that password instead", allowed="a file that exists"
    )
    kafka_ca: FilePath | None = _setting(
        None,
        "certificates to trust, with SSL and SASL_SSL; default: those of the system",
        allowed="a PEM file that exists",
    )
    kafka_certificate: FilePath | None = _setting(
        None, "our own certificate, with SSL and SASL_SSL, where brokers want one", allowed="a PEM file that exists"
    )
    kafka_key: FilePath | None = _setting(
        None, "its private key, not encrypted; default: in the same file", allowed="a PEM file that exists"
    )
    redis_password_file: FilePath | None = _setting(
        None, "a file with the password of Redis, instead of one in the URL", allowed="a file that exists"
    )
    redis_ca: FilePath | None = _setting(
        None,
        "certificates to trust beside those of the system, with rediss://",
        allowed="a PEM file that exists",
    )
    redis_certificate: FilePath | None = _setting(
        None, "our own certificate, with rediss://, where Redis wants one", allowed="a PEM file that exists"
    )
    redis_key: FilePath | None = _setting(
        None, "its private key, not encrypted; default: in the same file", allowed="a PEM file that exists"
    )
    redis_cluster: bool = _setting(
        default=False,
        meaning="the URL names one node of a Redis Cluster; the others are asked for",
        allowed="true or false",
    )
    instance_id: str | None = _setting(
        None,
        "name of this worker for ever (static membership): its restart moves no partition of others",
        allowed="letters, digits, '.', '_' and '-', 1 to 200",
        pattern=_TOPIC,
    )
    http_port: int | None = _setting(
        None,
        "a worker answers /live, /ready and /metrics here; default: nothing listens",
        allowed="a whole number from 1 to 65535 (port)",
        ge=1,
        le=65535,
    )
    http_host: str = _setting(
        "127.0.0.1",
        "the address it listens at; there is no password, so not one that strangers reach",
        allowed="a host name or IP address of this machine",
        pattern=r"^[^\s/@\[\]]{1,255}$",
    )
    embedded: bool = _setting(
        default=False,
        meaning="set by `tidemark demo`: its broker knows no idempotent producer",
        allowed="true or false",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = _setting("INFO", "how much is logged on stderr")

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.segments_min > self.segments_max:
            raise ValueError(f"{PREFIX}SEGMENTS_MIN: must not be above {PREFIX}SEGMENTS_MAX")
        if self.topic_transactions == self.topic_touches:
            raise ValueError(f"{PREFIX}TOPIC_TOUCHES: must differ from {PREFIX}TOPIC_TRANSACTIONS")
        self._learner()
        self._kafka_access()
        self._redis_access()
        return self

    def _learner(self) -> None:
        """Parameters are looked at before a worker starts, and River is loaded only where it is wanted."""
        if not self.clusterer_params and self.clusterer == OWN_CLUSTERER:
            return
        from models.clusterers import problem_with

        if problem := problem_with(self.clusterer, self.clusterer_params):
            raise ValueError(f"{PREFIX}CLUSTERER_PARAMS: {problem}")

    def _kafka_access(self) -> None:
        """What is given must be used: a certificate that is ignored in silence is a connection nobody protects."""
        security = self.kafka_security
        one_password = bool(self.kafka_password) != bool(self.kafka_password_file)
        if security.startswith("SASL") and not (self.kafka_user and one_password):
            raise ValueError(
                f"{PREFIX}KAFKA_SECURITY: {security} needs {PREFIX}KAFKA_USER, and either {PREFIX}KAFKA_PASSWORD or "
                f"{PREFIX}KAFKA_PASSWORD_FILE"
            )
        if (self.kafka_ca or self.kafka_certificate) and not security.endswith("SSL"):
            raise ValueError(f"{PREFIX}KAFKA_CA: certificates need {PREFIX}KAFKA_SECURITY SSL or SASL_SSL")
        if self.kafka_key and not self.kafka_certificate:
            raise ValueError(f"{PREFIX}KAFKA_KEY: needs {PREFIX}KAFKA_CERTIFICATE")

    def _redis_access(self) -> None:
        url = urlsplit(self.redis_url)
        if (self.redis_ca or self.redis_certificate) and url.scheme != "rediss":
            raise ValueError(f"{PREFIX}REDIS_CA: certificates need a rediss:// URL in {PREFIX}REDIS")
        if self.redis_key and not self.redis_certificate:
            raise ValueError(f"{PREFIX}REDIS_KEY: needs {PREFIX}REDIS_CERTIFICATE")
        if self.redis_password_file and url.password:
            raise ValueError(f"{PREFIX}REDIS_PASSWORD_FILE: the password is in {PREFIX}REDIS already")
        if self.redis_cluster and (url.scheme == "unix" or url.path not in {"", "/", "/0"}):
            raise ValueError(f"{PREFIX}REDIS_CLUSTER: a cluster has a redis:// or rediss:// URL, and database 0 only")

    @property
    def redis_url(self) -> str:
        """The Redis URL with its password: for the connection only, never for a log."""
        return self.redis.get_secret_value()

    @property
    def kafka_secret(self) -> str:
        """The password for Kafka, given or in its file: for the connection only."""
        if self.kafka_password_file:
            return _secret(self.kafka_password_file, "KAFKA_PASSWORD_FILE")
        return self.kafka_password.get_secret_value() if self.kafka_password else ""

    @property
    def redis_secret(self) -> str | None:
        """The password for Redis that is in a file; None: it is in the URL, or there is none."""
        return _secret(self.redis_password_file, "REDIS_PASSWORD_FILE") if self.redis_password_file else None

    @property
    def inputs(self) -> tuple[str, str]:
        """Names of the two input topics in the order of the lanes: transactions, touches."""
        return self.topic_transactions, self.topic_touches

    @property
    def topic_names(self) -> dict[str, str]:
        """The contract's names of the inputs -> what they are called here."""
        return {"wallet.transactions": self.topic_transactions, "campaign.touches": self.topic_touches}

    @property
    def changes_topic(self) -> str:
        return f"{self.prefix}segment.changes"

    @property
    def catalogue_topic(self) -> str:
        return f"{self.prefix}segments.catalogue"

    @property
    def rejected_topic(self) -> str:
        return f"{self.prefix}events.rejected"

    @property
    def alerts_topic(self) -> str:
        return f"{self.prefix}alerts"

    @property
    def digests_topic(self) -> str:
        return f"{self.prefix}batch.digests"

    def rules(self) -> Rules:
        """The part of the settings that decides what is written: the same for every worker of a group."""
        return Rules(
            lateness_ms=self.allowed_lateness,
            future_ms=self.future_ms,
            clock_step_ms=self.clock_step_ms,
            look_back_ms=self.look_back_ms,
            touches_kept=self.touches_kept,
            fees_kept=self.fees_kept,
            evidence=self.evidence,
            partitioner=self.partitioner,
            switch_at=self.switch_at,
            fewest_segments=self.segments_min,
            most_segments=self.segments_max,
            clusterer=self.clusterer,
            clusterer_params=_json(self.clusterer_params),
            transactions_topic=self.topic_transactions,
            touches_topic=self.topic_touches,
            source=f"/tidemark/{self.group}",
        )

    def environment(self) -> dict[str, str]:
        """The environment of a child process that shall read equal settings, secrets included."""
        inherited = {name: text for name, text in os.environ.items() if not name.startswith(PREFIX)}
        return inherited | {_variable(name): _plain(value) for name, value in self if value is not None}


class Explained(BaseModel):
    """One setting as `tidemark settings` shows it: values as text, secrets masked."""

    name: str
    value: str
    default: str
    unit: str
    allowed: str
    meaning: str


def load() -> Settings:
    """Read the settings from the environment, or raise `WrongSettings` with one line for every wrong one."""
    lines = _unknown(os.environ)
    try:
        settings = Settings()
    except ValidationError as error:
        lines += [_line(problem) for problem in error.errors(include_url=False, include_input=False)]
        raise WrongSettings(tuple(lines)) from None
    if lines:
        raise WrongSettings(tuple(lines))
    return settings


def defaults(kafka: str, redis: str, **changed: Any) -> Settings:
    """The defaults, whatever the environment says, but for these; they are trusted, not validated."""
    return Settings.model_construct(kafka=kafka, redis=SecretStr(redis), **changed)


def explain(settings: Settings) -> list[Explained]:
    """Every setting with value, default, unit, bounds and meaning; secrets masked."""
    return [
        Explained(
            name=_variable(name),
            value=_shown(getattr(settings, name), is_url=name == "redis"),
            default=_shown(field.default, is_url=name == "redis"),
            unit=_extra(field, "unit"),
            allowed=_allowed(field),
            meaning=field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]


def without_password(url: str) -> str:
    """The URL with the password of its user part, and every value of its query, replaced by stars."""
    hidden = re.sub(r"(://[^:@/]*:).*@", rf"\g<1>{_MASK}@", url, flags=re.DOTALL)
    return re.sub(r"([?&#](?:[^=?&#]*=)?)[^&#]*", rf"\g<1>{_MASK}", hidden)


def _secret(file: Path, name: str) -> str:
    """The text of a file without the line's end, which editors add. Raises `WrongSettings`."""
    try:
        text = file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        text = ""
    if not text:
        raise WrongSettings((f"{PREFIX}{name}: {file} cannot be read, or holds no password",))
    return text


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _unknown(environment: Iterable[str]) -> list[str]:
    """A misspelt variable would be ignored in silence: say so, with the nearest name."""
    known = [_variable(name) for name in Settings.model_fields]
    lines = []
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            advice = f"did you mean {near[0]}?" if near else "`tidemark settings` lists all"
            lines.append(f"{name}: no such setting; {advice}")
    return lines


def _line(problem: Mapping[str, Any]) -> str:
    """What is allowed, never what was given: that may be a secret in the wrong place."""
    if not problem["loc"]:
        return str(problem["ctx"]["error"])
    name = str(problem["loc"][0])
    return f"{_variable(name)}: must be {_allowed(Settings.model_fields[name])}"


def _allowed(field: FieldInfo) -> str:
    """What the field takes, in words: the stated text, the closed list, or the bounds."""
    if stated := _extra(field, "allowed"):
        return stated
    if choices := getattr(field.annotation, "__args__", ()):
        return "one of " + ", ".join(str(choice) for choice in choices)
    lowest, above, highest = (_bound(field, name) for name in ("ge", "gt", "le"))
    number = "a whole number" if field.annotation is int else "a number"
    begin = f"from {lowest}" if lowest is not None else f"above {above}"
    return f"{number} {begin} to {highest} ({_extra(field, 'unit')})"


def within_bounds(name: str, value: float) -> float:
    """The value, or the bound of this setting that it is beyond; a bound it must be above is not looked at."""
    field = Settings.model_fields[name]
    lowest, highest = _bound(field, "ge"), _bound(field, "le")
    within: float = min(max(value, value if lowest is None else lowest), highest)
    return within


def _bound(field: FieldInfo, name: str) -> Any:
    return next((getattr(bound, name) for bound in field.metadata if hasattr(bound, name)), None)


def _extra(field: FieldInfo, name: str) -> str:
    extra = field.json_schema_extra
    return str(extra[name]) if isinstance(extra, dict) else ""


def _shown(value: object, *, is_url: bool = False) -> str:
    if isinstance(value, SecretStr):
        return without_password(value.get_secret_value()) if is_url else _MASK
    if isinstance(value, dict):
        return _json(value)
    return "" if value is None else str(value)


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return _json(value)
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
