"""Kafka with SASL and TLS, its access control lists, PostgreSQL with TLS: against the real servers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from confluent_kafka import KafkaError, KafkaException
from pydantic import ValidationError
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from benchmarks.servers.kafka import Cluster
from benchmarks.servers.postgres import POSTGRES, Postgres
from benchmarks.servers.releases import publish, release
from benchmarks.servers.worker import Process, wait_for
from streams.codec import encode
from streams.database.engine import connect
from streams.kafka import clients, topic_admin
from streams.kafka.acl import ACCESS, grant
from streams.records import DeviceBatch, EpochBegin, EpochEnd, Kind
from streams.settings import Settings
from streams.topics import DEVICE_EVENTS, OUTCOMES, TOPICS
from tests.support.simulation import SMALL
from tests.support.workers import TopicReader

PASSWORD = "s3cret-of-the-tests"


@dataclass
class Authority:
    """A certificate authority of the test's own, and what it signed for 127.0.0.1."""

    folder: Path

    def __post_init__(self) -> None:
        """Make both."""
        self.run("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tests -keyout ca.key -out ca.pem")
        self.run("req -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -keyout server.key -out server.csr")
        (self.folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
        signed = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names"
        self.run(f"x509 -req -in server.csr {signed} -out server.pem")

    def run(self, command: str) -> None:
        subprocess.run(["openssl", *command.split()], cwd=self.folder, check=True, capture_output=True)

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def store(self) -> str:
        """Key and certificate as Kafka wants them in a PEM store."""
        return (self.folder / "server.key").read_text() + (self.folder / "server.pem").read_text()


@pytest.fixture(scope="module")
def authority(tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Authority:
    tool("openssl")
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secured(authority: Authority, kafka_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Kafka that speaks TLS, knows users by SCRAM and allows only what is granted."""
    folder = tmp_path_factory.mktemp("secured")
    store = folder / "server.store.pem"
    store.write_text(authority.store())
    more = (
        f"ssl.keystore.type=PEM\nssl.keystore.location={store}\n"
        "sasl.enabled.mechanisms=SCRAM-SHA-512\nsasl.mechanism.inter.broker.protocol=SCRAM-SHA-512\n"
        f"ssl.truststore.type=PEM\nssl.truststore.location={authority.ca}\n"
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config="
        "org.apache.kafka.common.security.scram.ScramLoginModule required "
        f'username="admin" password="{PASSWORD}";\n'
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n"
        "super.users=User:admin;User:ANONYMOUS\n"  # anonymous: the controller's own listener
    )
    users = [f"SCRAM-SHA-512=[name={name},password={PASSWORD}]" for name in ("admin", *ACCESS)]
    with Cluster(kafka_home, folder, listener="SASL_SSL", more=more, users=users) as cluster:
        yield cluster.addresses


@pytest.fixture
def admin(secured: str, authority: Authority, settings: Settings) -> Settings:
    """A run on the secured Kafka, as its administrator."""
    known = {"brokers": secured, "kafka_security": "SASL_SSL", "kafka_ca": authority.ca, "partitions": 2}
    settings = settings.model_copy(update={**known, "kafka_user": "admin", "kafka_password": _secret()})
    wait = retry(retry=retry_if_exception_type(KafkaException), stop=stop_after_delay(60), wait=wait_fixed(0.2))
    wait(topic_admin.create)(settings)
    return settings


def _secret() -> object:
    return Settings(kafka_password=PASSWORD).kafka_password


def as_user(settings: Settings, user: str) -> Settings:
    return settings.model_copy(update={"kafka_user": user})


def refusals(settings: Settings, user: str) -> dict[str, int]:
    """Return the topics that `user` may not write to, each with the broker's error code."""
    probing = {
        "enable.idempotence": False
    }  # else a user without any write access gets no producer id and sends nothing
    producer, codes = clients.producer(as_user(settings, user), user, **probing), dict[str, int]()
    for topic in TOPICS:

        def answer(error: KafkaError | None, _: object, name: str = topic.name) -> None:
            if error is not None:
                codes[name] = error.code()

        producer.produce(topic.full(settings), key=b"k", value=b"x", on_delivery=answer)
    assert not producer.flush(60)
    return codes


@pytest.mark.parametrize("role", list(ACCESS))
def test_a_processor_may_write_to_its_topics_and_to_no_other(admin: Settings, role: str) -> None:
    """For example, a device worker can't publish a release."""
    assert grant(admin, role, f"User:{role}")
    allowed = {topic.name for topic in ACCESS[role].write}
    wait_for(lambda: not refusals(admin, role).keys() & allowed, "the broker to know what was granted")
    denied = {topic.name for topic in TOPICS} - allowed
    assert refusals(admin, role) == dict.fromkeys(denied, KafkaError.TOPIC_AUTHORIZATION_FAILED)


def test_a_worker_runs_on_what_it_was_granted(admin: Settings) -> None:
    where = ("run", "brokers", "database", "state_dir", "kafka_security", "kafka_ca", "kafka_user", "kafka_password")
    run = SMALL.model_copy(update={name: getattr(admin, name) for name in where})
    for role in ("device", "replay"):
        grant(run, role, f"User:{role}")
    publish(run, [release(run, 0, 0)])
    topic, producer = DEVICE_EVENTS.full(run), clients.producer(as_user(run, "replay"), "replay")
    producer.produce(topic, key=b"u", value=encode(DeviceBatch("u", 0, ["1"], bytes([Kind.EXPOSURE]), [1], [0])))
    for partition in range(run.partitions):
        for marker in (EpochBegin(0, 0, 0), EpochEnd(0, 1)):
            producer.produce(topic, key=b"", value=encode(marker), partition=partition)
    assert not producer.flush(30)
    outcomes = TopicReader(run, OUTCOMES)
    with Process(as_user(run, "device"), "device"):
        outcomes.until(lambda records: len(records) >= run.partitions, "the markers on outcomes")
    outcomes.close()


def test_a_wrong_password_or_an_untrusted_certificate_is_refused(admin: Settings, tmp_path: Path) -> None:
    wrong = admin.model_copy(update={"kafka_password": Settings(kafka_password="wrong").kafka_password})
    with pytest.raises(KafkaException):
        topic_admin.admin(wrong).list_topics(timeout=5)
    (tmp_path / "other").mkdir()
    other = admin.model_copy(update={"kafka_ca": Authority(tmp_path / "other").ca})
    with pytest.raises(KafkaException):
        topic_admin.admin(other).list_topics(timeout=5)


def test_sasl_without_a_user_and_a_missing_file_are_refused() -> None:
    with pytest.raises(ValidationError, match="needs kafka_user"):
        Settings(kafka_security="SASL_SSL")
    with pytest.raises(ValidationError, match="no file"):
        Settings(kafka_security="SSL", kafka_ca=Path("/nowhere"))
    assert PASSWORD not in repr(Settings(kafka_password=PASSWORD))


def test_postgresql_with_tls(authority: Authority, tmp_path: Path) -> None:
    if not POSTGRES.is_dir():
        pytest.skip(f"no PostgreSQL in {POSTGRES}")
    folder = tmp_path / "postgres"
    folder.mkdir()
    for name in ("server.key", "server.pem"):
        shutil.copy(authority.folder / name, folder / name)
        (folder / name).chmod(0o600)
        with suppress(PermissionError):  # not root: the server runs as this user
            shutil.chown(folder / name, "postgres")
    files = f"ssl_cert_file={folder / 'server.pem'}", f"ssl_key_file={folder / 'server.key'}"
    with Postgres(folder, "ssl=on", *files) as server:
        url = server.url
        engine = connect(f"{url}?sslmode=verify-full&sslrootcert={authority.ca}")
        with engine.connect() as connection:
            query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            assert connection.execute(sa.text(query)).scalar_one() is True
        engine.dispose()
        (tmp_path / "other").mkdir()
        with pytest.raises(sa.exc.OperationalError, match="certificate verify failed"):
            connect(f"{url}?sslmode=verify-full&sslrootcert={Authority(tmp_path / 'other').ca}")
