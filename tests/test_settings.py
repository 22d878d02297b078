"""The environment becomes one frozen value, or one line for everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError
from redis.connection import parse_url

from models.rules import Rules
from streams.errors import WrongSettings
from streams.settings import Settings, explain, load, without_password

#: For every variable a value that is not allowed.
WRONG = {
    "TIDEMARK_KAFKA": "broker",
    "TIDEMARK_REDIS": "http://localhost",
    "TIDEMARK_TOPIC_TOUCHES": "no blanks",
    "TIDEMARK_PARTITIONS": "0",
    "TIDEMARK_CATALOGUE": "/no/such/file",
    "TIDEMARK_PARTITIONER": "md5",
    "TIDEMARK_ALLOWED_LATENESS": "1h",
    "TIDEMARK_FEES_KEPT": "4",
    "TIDEMARK_SWITCH_AT": "0",
    "TIDEMARK_BATCH_RECORDS": "4001",
    "TIDEMARK_FETCH_WAIT_MS": "-1",
    "TIDEMARK_KAFKA_SECURITY": "TLS",
    "TIDEMARK_EMBEDDED": "perhaps",
    "TIDEMARK_LOG_LEVEL": "LOUD",
}
#: Characters a password may have: all but the NUL, which no environment can hold. One that no setting's text has.
passwords = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=8, max_size=20).map(
    "\N{SECTION SIGN}{}".format
)


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, text in variables.items():
            patch.setenv(name, text)
        yield


def lines_of(variables: Mapping[str, str]) -> tuple[str, ...]:
    with environment(variables), pytest.raises(WrongSettings) as caught:
        load()
    return caught.value.lines


def test_without_an_environment_everything_has_its_default() -> None:
    assert load() == Settings()


def test_an_empty_variable_means_the_default() -> None:
    with environment(dict.fromkeys(WRONG, "")):
        assert load() == Settings()


@given(st.sets(st.sampled_from(sorted(WRONG)), min_size=1))
def test_every_wrong_setting_is_named_at_once_in_one_line_that_says_what_is_allowed(names: set[str]) -> None:
    lines = lines_of({name: WRONG[name] for name in names})
    assert sorted(line.partition(":")[0] for line in lines) == sorted(names)
    assert all("must be" in line and "\n" not in line for line in lines)


def test_what_is_allowed_has_numbers_units_and_choices() -> None:
    lines = lines_of({"TIDEMARK_PARTITIONS": "x", "TIDEMARK_PARTITIONER": "x", "TIDEMARK_ALLOWED_LATENESS": "x"})
    assert lines == (
        "TIDEMARK_PARTITIONS: must be a whole number from 1 to 10000 (partitions)",
        "TIDEMARK_PARTITIONER: must be one of murmur2, crc32, off",
        "TIDEMARK_ALLOWED_LATENESS: must be a whole number from 0 to 2592000000 (milliseconds)",
    )


def test_a_misspelt_variable_is_an_error_that_names_the_nearest() -> None:
    assert lines_of({"TIDEMARK_PARTITONS": "12"}) == (
        "TIDEMARK_PARTITONS: no such setting; did you mean TIDEMARK_PARTITIONS?",
    )


@pytest.mark.parametrize(
    ("variables", "word"),
    [
        ({"TIDEMARK_SEGMENTS_MIN": "5", "TIDEMARK_SEGMENTS_MAX": "4"}, "TIDEMARK_SEGMENTS_MAX"),
        ({"TIDEMARK_KAFKA_SECURITY": "SASL_SSL", "TIDEMARK_KAFKA_USER": "u"}, "TIDEMARK_KAFKA_PASSWORD"),
        ({"TIDEMARK_TOPIC_TOUCHES": "wallet.transactions"}, "must differ"),
        ({"TIDEMARK_KAFKA_CA": __file__}, "TIDEMARK_KAFKA_SECURITY SSL"),
        ({"TIDEMARK_KAFKA_SECURITY": "SSL", "TIDEMARK_KAFKA_KEY": __file__}, "TIDEMARK_KAFKA_CERTIFICATE"),
        ({"TIDEMARK_REDIS_CA": __file__}, "rediss://"),
        ({"TIDEMARK_REDIS": "redis://:word@h", "TIDEMARK_REDIS_PASSWORD_FILE": __file__}, "already"),
        ({"TIDEMARK_REDIS": "redis://h/3", "TIDEMARK_REDIS_CLUSTER": "true"}, "database 0"),
        ({"TIDEMARK_CLUSTERER_PARAMS": '{"n_clusters":3}'}, "tidemark has no parameter n_clusters"),
        ({"TIDEMARK_CLUSTERER": "river.KMeans", "TIDEMARK_CLUSTERER_PARAMS": '{"k":3}'}, "it takes n_clusters"),
        ({"TIDEMARK_CLUSTERER_PARAMS": "{n_clusters: 3}"}, "a JSON object"),
        ({"TIDEMARK_CLUSTERER_PARAMS": "[3]"}, "a JSON object"),
        ({"TIDEMARK_CLUSTERER": "KMeans"}, "river.DBSTREAM"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_in_one_line(variables: dict[str, str], word: str) -> None:
    (line,) = lines_of(variables)
    assert word in line
    assert line.startswith("TIDEMARK_")


@given(passwords)
def test_a_password_appears_nowhere(password: str) -> None:
    url = f"redis://user:{password}@localhost:6379/0"
    secret = Settings.model_construct(redis=SecretStr(url), kafka_password=SecretStr(password))
    assert password not in repr(secret)
    assert all(password not in entry.value for entry in explain(secret))


@given(passwords, st.sampled_from(["kafka", "redis", "kafka_ca", "partitions", "topic_touches"]))
def test_a_secret_in_the_wrong_variable_is_not_repeated_in_the_error(password: str, field: str) -> None:
    lines = lines_of({f"TIDEMARK_{field.upper()}": f"://user:{password}@host"})
    assert all(password not in line for line in lines)


@given(st.text("abc:/@?&=.019", max_size=12))
def test_the_password_of_a_url_is_masked_whatever_it_holds(password: str) -> None:
    masked = without_password(f"redis://user:SECRET{password}SECRET@localhost:6379/0")
    assert masked == "redis://user:********@localhost:6379/0"
    assert without_password("rediss://h/0?password=SECRET&x=1") == "rediss://h/0?password=********&x=********"


@given(st.sampled_from(["redis://h/0?passwd={}", "redis://h?Password=1&a={}", "redis://h/0?{}", "unix:///s?db=1#{}"]))
def test_whatever_is_in_the_query_of_a_url_is_masked(url: str) -> None:
    secret = Settings.model_construct(redis=SecretStr(url.format("hunter2")))
    assert all("hunter2" not in entry.value for entry in explain(secret))


@pytest.mark.parametrize(
    "url",
    [
        "redis://host/0?passwd=hunter2",
        "redis://host/0?Password=hunter2",
        "redis://host/?db=hunter2",
        "redis://host/0?health_check_interval=hunter2",
        "redis://host/0?db=1",
        "redis://host/hunter2",
        "redis://host/1/2",
        "redis://:4711/hunter2@host",
        "redis://:4711/5?hunter2@host",
        "redis://user:4711#hunter2@host",
        "redis://host:0/0",
        "redis://host:70000/0",
        "redis://host:hunter2/0",
        "redis://:6379/0",
        "redis://[::1/0",
        "redis://host/0\n",
        "unix://hunter2",
        "unix:///socket?db=hunter2",
        "unix://:hunter2/hunter2@/socket",
        "unix://user:hunter2@",
    ],
)
def test_a_redis_url_that_redis_py_would_read_in_another_way_is_refused_and_not_repeated(url: str) -> None:
    (line,) = lines_of({"TIDEMARK_REDIS": url})
    assert line.startswith("TIDEMARK_REDIS: must be redis://host:port/database")
    assert "hunter2" not in line
    assert "4711" not in line


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://host", {"host": "host"}),
        ("redis://host/", {"host": "host"}),
        ("rediss://store.example:6380/3", {"host": "store.example", "port": 6380, "db": 3}),
        ("redis://[::1]:6380/15", {"host": "::1", "port": 6380, "db": 15}),
        ("redis://redis_1/2", {"host": "redis_1", "db": 2}),
        ("redis://u:a%2Fb%3F@host/1", {"host": "host", "db": 1, "username": "u", "password": "a/b?"}),
        ("redis://:a:b@c@host", {"host": "host", "password": "a:b@c"}),
        ("unix:///run/redis.sock", {"path": "/run/redis.sock"}),
        (
            "unix://u:word@/run/redis.sock?db=3",
            {"path": "/run/redis.sock", "db": 3, "username": "u", "password": "word"},
        ),
    ],
)
def test_a_redis_url_is_what_redis_py_makes_of_it(url: str, place: dict[str, object]) -> None:
    with environment({"TIDEMARK_REDIS": url}):
        read = dict(parse_url(load().redis_url))  # type: ignore[no-untyped-call]  # redis-py's
    read.pop("connection_class", None)
    assert read == place


def test_the_rules_have_the_defaults_of_the_contract() -> None:
    assert Settings().rules() == Rules()


def test_a_password_may_be_in_a_file_whose_last_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(" pass word \n")
    variables = {
        "TIDEMARK_KAFKA_SECURITY": "SASL_SSL",
        "TIDEMARK_KAFKA_USER": "u",
        "TIDEMARK_KAFKA_PASSWORD_FILE": str(file),
        "TIDEMARK_REDIS_PASSWORD_FILE": str(file),
    }
    with environment(variables):
        settings = load()
    assert (settings.kafka_secret, settings.redis_secret) == (" pass word ", " pass word ")
    assert "pass word" not in repr(settings)
    file.write_text("\n")
    with pytest.raises(WrongSettings, match="TIDEMARK_KAFKA_PASSWORD_FILE"):
        _ = settings.kafka_secret


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings().kafka = "elsewhere:9092"


@given(
    st.integers(1, 10_000),
    st.sampled_from(["murmur2", "crc32", "off"]),
    st.integers(0, 10**9),
    st.from_regex(r"[a-z]+", fullmatch=True),
)
def test_a_child_process_reads_equal_settings(partitions: int, partitioner: str, lateness: int, password: str) -> None:
    variables = {
        "TIDEMARK_PARTITIONS": str(partitions),
        "TIDEMARK_PARTITIONER": partitioner,
        "TIDEMARK_ALLOWED_LATENESS": str(lateness),
        "TIDEMARK_KAFKA_PASSWORD": password,
        "TIDEMARK_EMBEDDED": "true",
    }
    with environment(variables):
        settings = load()
    with environment({name: text for name, text in settings.environment().items() if name.startswith("TIDEMARK_")}):
        assert load() == settings


def test_every_setting_says_its_meaning_and_what_is_allowed() -> None:
    for entry in explain(Settings()):
        assert entry.meaning
        assert entry.allowed
        assert entry.name.startswith("TIDEMARK_")


def test_nothing_else_reads_the_environment() -> None:
    root = Path(__file__).parents[1]
    readers = [
        file.name
        for folder in ("models", "streams")
        for file in (root / folder).glob("*.py")
        if "os.environ" in file.read_text() or "getenv" in file.read_text()
    ]
    assert readers == ["settings.py"]


def test_a_clusterer_of_river_s_reaches_the_rules_and_the_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMARK_CLUSTERER", "river.KMeans")
    monkeypatch.setenv("TIDEMARK_CLUSTERER_PARAMS", '{"sigma": 2, "n_clusters": 5}')
    found = load()
    rules = found.rules()
    assert (rules.clusterer, rules.clusterer_params) == ("river.KMeans", '{"n_clusters":5,"sigma":2}')
    assert found.environment()["TIDEMARK_CLUSTERER_PARAMS"] == rules.clusterer_params
    assert next(each.value for each in explain(found) if each.name.endswith("_PARAMS")) == rules.clusterer_params
