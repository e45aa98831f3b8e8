"""The settings of a run: the only reader of the environment.

A variable is `MC2SF_` + the field's name in capitals. Unknown `MC2SF_` variables are refused, so that a misspelt one
never passes silently. Every process of a run is given the same settings: fields declared as `DecidesResults` go into
the run's row, and every process compares its own with them when it starts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "MC2SF_"
Exposures = Literal["logged", "rated", "simulated", "plugin"]  # see replay/prepare/simulated_exposures.py
Plain = str | int | float | bool | None  # a value as JSON

T = TypeVar("T")
_DECIDES_RESULTS = object()
DecidesResults = Annotated[T, _DECIDES_RESULTS]


class SettingsError(ValueError):
    """The environment or the command line asks for something impossible."""


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True)


class ConnectionSettings(_Group):
    """Addresses of broker, database and files, and the time to wait for them."""

    run: str = Field(
        "local",
        pattern=r"^[a-z0-9][a-z0-9-]{0,40}$",
        description="name of the run: prefix of its topics, consumer groups and Faust app ids",
    )
    brokers: str = Field("127.0.0.1:9092", description="Kafka bootstrap servers, HOST:PORT,...")
    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Kafka security protocol"
    )
    kafka_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="SASL mechanism"
    )
    kafka_user: str = Field("", description="SASL user; each processor may have its own, see SECURITY.md")
    kafka_password: SecretStr = Field(SecretStr(""), description="SASL password")
    kafka_ca: Path | None = Field(None, description="PEM file of the authority that signed the brokers' certificates")
    database: SecretStr = Field(SecretStr("sqlite:///mc2sf.db"), description="SQLAlchemy URL of the database")
    state_dir: Path = Field(Path("runs/local"), description="folder of the process's local files")
    host: str = Field("127.0.0.1", description="address on which the process serves its metrics")
    metrics_port: int = Field(0, ge=0, le=65535, description="port of Prometheus /metrics of the process; 0: none")
    partitions: int = Field(4, ge=1, le=256, description="partitions of each topic that is keyed by user")
    replication: int = Field(1, ge=1, description="replicas of each topic")
    topics_kept_days: float = Field(
        7.0, ge=0.25, le=3650, description="days that the broker keeps records; compacted topics, those replaced since"
    )
    fetch_wait_ms: int = Field(
        100,
        ge=1,
        description="time after which a broker answers a fetch without records, ms; Kafka answers as soon as there is "
        "one, the embedded broker looks for it a few times",
    )
    patience_s: float = Field(600.0, gt=0, description="longest wait for an unreachable broker or database, s")
    end_if_stuck_s: float | None = Field(
        None, gt=0, description="exit after the process was unhealthy for this time, s, so that it is restarted"
    )
    poll_interval_s: float = Field(
        1000.0, gt=0, description="Kafka's max.poll.interval, s: a worker idle for longer loses its partitions"
    )
    local_copy: bool = Field(
        False, description="workers keep a copy of their changelogs in state_dir (RocksDB) and restart from it"
    )


class StreamSettings(_Group):
    """Conversion of the log into a stream, and its processing by the workers."""

    lockstep: DecidesResults[bool] = Field(
        True, description="epochs wait for each other, so that a run is repeatable; false: free-running"
    )
    request_timeout_s: float = Field(
        30.0, gt=0, description="free-running: time after which a request without an answer expires, s"
    )
    take_max: int = Field(
        2000, ge=1, description="number of records after which a worker processes its batch; envelopes are not split"
    )
    take_within_s: float = Field(0.02, gt=0, description="longest time that a worker collects records for a batch, s")
    envelopes: bool = Field(
        True,
        description="send many records of a partition as one Kafka record; false: each alone, for readers before 0.2",
    )
    quality_span_s: float = Field(7 * 86_400, gt=0, description="span of the sliding online metrics, s of event time")
    seed: DecidesResults[int] = Field(1, ge=0, description="seed of every random choice")
    exposures: DecidesResults[Exposures] = Field(
        "logged",
        description="source of exposures: the log, low ratings, simulated by the replayer, or one of `plugins`",
    )
    plugins: DecidesResults[str] = Field(
        "", description="plugins of the run, KIND=MODULE:NAME@SHA256 separated by blanks: see docs/plugins.md"
    )
    faults: DecidesResults[str] = Field("", description="faults of the replayed devices: see docs/faults.md")


class MethodSettings(_Group):
    """The method of the paper: windows, histories, sizes of the nets; and what is evaluated."""

    evaluate: DecidesResults[float] = Field(0.05, ge=0, le=1, description="share of clicks that are ranked")
    negatives: DecidesResults[int] = Field(99, ge=1, le=1000, description="sampled candidates beside the clicked item")
    threshold: DecidesResults[int] = Field(10, ge=1, le=100, description="exposures per window")
    window_age_s: DecidesResults[float | None] = Field(
        None, gt=0, description="also close a window older than this, s of event time"
    )
    carry: DecidesResults[bool] = Field(False, description="carry the GRU state from one window to the next")
    history_long: DecidesResults[int] = Field(50, ge=1, le=500, description="L_S: clicks that the cloud keeps per user")
    history_short: DecidesResults[int] = Field(
        10, ge=1, le=100, description="L_F: clicks and exposures that the device encodes"
    )
    dim: DecidesResults[int] = Field(32, ge=4, le=256, multiple_of=4, description="d: width of embeddings and nets")
    stacked: DecidesResults[bool] = Field(
        True, description="mc2sf adds up S2F, fast, f2s and item neighbours; false: S2F alone, as in the paper"
    )
    symlog_priors: DecidesResults[bool] = Field(False, description="the device takes the symlog of the cloud's priors")


class TrainingSettings(_Group):
    """Retrains on the cloud, online steps of the fast nets, and the gate that their results must pass."""

    frozen: DecidesResults[bool] = Field(False, description="keep the initial release: no learner, no retrain")
    retrain_every: DecidesResults[int] = Field(20, ge=1, description="epochs between two retrains")
    retrain_delay: DecidesResults[int] = Field(
        2,
        ge=0,
        description="lockstep: epochs until a retrain is applied, less than `retrain_every`; 0: the stream waits",
    )
    learner_delay: DecidesResults[int] = Field(
        1, ge=0, le=1, description="lockstep: epochs until a release of the learner is applied; 0: the stream waits"
    )
    retrain_events: DecidesResults[int] = Field(
        2_000_000, ge=1, description="newest events that a retrain reads, in whole epochs; bounds its cost"
    )
    retrain_passes: DecidesResults[int] = Field(
        2, ge=1, description="passes of a retrain over new clicks and a sample of older ones"
    )
    retrain_threads: DecidesResults[int] = Field(
        1, ge=1, description="torch threads of a retrain; results for other numbers differ in the last bits"
    )
    retrain_device: DecidesResults[Literal["auto", "cpu", "cuda"]] = Field(
        "cpu",
        description="device of a retrain's steps; auto: an accelerator if there is one. Digests repeat on the CPU only",
    )
    learning_rate: DecidesResults[float] = Field(
        5e-3, gt=0, description="learning rate of a retrain on all clicks; lower if it uses a part of them"
    )
    online_rate: DecidesResults[float] = Field(
        5e-4, gt=0, description="learning rate of the online steps (the paper's)"
    )
    transitions_every: DecidesResults[int] = Field(
        5, ge=1, description="epochs after which the learner counts transitions between items anew"
    )
    batch: DecidesResults[int] = Field(
        64, ge=1, description="examples per step; a retrain on many clicks raises it to up to 256"
    )
    l2: DecidesResults[float] = Field(1e-4, ge=0, description="lambda: weight of the L2 penalty (the paper's)")
    gate_margin: DecidesResults[float] = Field(
        0.0, ge=0, description="share by which the held-out loss of a release candidate may rise; 0: not at all"
    )


class Settings(BaseSettings, TrainingSettings, MethodSettings, StreamSettings, ConnectionSettings):
    """All settings of a run, by group. Pydantic lists fields from the last base to the first."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    @model_validator(mode="after")
    def _agree(self) -> Settings:
        if self.history_short > self.history_long:
            raise ValueError("history_short (L_F) must not exceed history_long (L_S)")
        if self.history_short > 2 * self.threshold:
            raise ValueError("history_short (L_F) must not exceed two windows: the exposure ring holds no more")
        if self.kafka_security.startswith("SASL") and not (self.kafka_user and self.kafka_password.get_secret_value()):
            raise ValueError(f"kafka_security {self.kafka_security} needs kafka_user and kafka_password")
        if self.kafka_ca is not None and not self.kafka_ca.is_file():
            raise ValueError(f"kafka_ca: no file {self.kafka_ca}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: object) -> object:
        known = {PREFIX + name.upper() for name in cls.model_fields} | {PREFIX + "TEST_DATA"}  # the tests' own
        for name in os.environ:
            if name.startswith(PREFIX) and name not in known:
                raise ValueError(f"unknown environment variable {name}")
        return values

    def semantic(self) -> dict[str, Plain]:
        """Return the fields that decide results, ready for JSON."""
        decisive = {name for name, field in type(self).model_fields.items() if _DECIDES_RESULTS in field.metadata}
        return self.model_dump(mode="json", include=decisive)

    @property
    def topics_kept_ms(self) -> int:
        """`topics_kept_days` in milliseconds."""
        return round(self.topics_kept_days * 86_400_000)

    def environment(self) -> dict[str, str]:
        """Return these settings as environment variables for a child process."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        plain = {k: v.get_secret_value() if isinstance(v, SecretStr) else v for k, v in values.items()}
        return {PREFIX + k.upper(): str(v) for k, v in plain.items() if v is not None}
