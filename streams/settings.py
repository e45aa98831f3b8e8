"""The one reader of the environment. Every process of a run is given the same settings.

A variable is `MC2SF_` + the field's name in capitals. Unknown `MC2SF_` variables are refused, so that a misspelt one
never passes silently. `semantic()` is what decides results: it goes into the run's row, and every part of the run
compares its own with it at start.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "MC2SF_"
Exposures = Literal[
    "logged", "rated", "simulated"
]  # where exposures come from: see replay/prepare/simulated_exposures.py


class SettingsError(ValueError):
    """The environment or the command line asks for something that can't be."""


class Settings(BaseSettings):
    """Settings of a run: where things are, and what decides its results."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    # where
    run: str = Field("local", pattern=r"^[a-z0-9][a-z0-9-]{0,40}$", description="prefix of topics, groups and app ids")
    brokers: str = "127.0.0.1:9092"
    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_user: str = Field("", description="of SASL: each processor may have one of its own, see SECURITY.md")
    kafka_password: SecretStr = SecretStr("")
    kafka_ca: Path | None = Field(None, description="PEM file of the authority that signed the brokers' certificates")
    database: SecretStr = SecretStr("sqlite:///mc2sf.db")
    state_dir: Path = Path("runs/local")
    host: str = "127.0.0.1"
    metrics_port: int = Field(0, ge=0, le=65535, description="Prometheus /metrics of this process; 0: none")
    partitions: int = Field(4, ge=1, le=256)
    replication: int = Field(1, ge=1)
    patience_s: float = Field(600.0, gt=0, description="a broker or database that is away is waited for so long")
    poll_interval_s: float = Field(
        1000.0, gt=0, description="Kafka's max.poll.interval: a worker that takes nothing so long loses its partitions"
    )
    local_copy: bool = Field(
        False, description="workers keep a copy of their changelogs in state_dir (RocksDB), and start again from there"
    )

    # how the stream is run
    lockstep: bool = True
    request_timeout_s: float = Field(30.0, gt=0, description="free-running: a request older than this expires")
    take_max: int = Field(2000, ge=1, description="records a batch of a worker")
    take_within_s: float = Field(0.02, gt=0)
    quality_span_s: float = Field(7 * 86_400, gt=0, description="of the sliding online metrics, in event time")

    # what decides results
    seed: int = Field(1, ge=0)
    exposures: Exposures = "logged"
    faults: str = Field("", description="of the devices that are replayed: see docs/faults.md")
    evaluate: float = Field(0.05, ge=0, le=1, description="share of clicks that are ranked")
    negatives: int = Field(99, ge=1, le=1000)
    threshold: int = Field(10, ge=1, le=100, description="exposures a window")
    window_age_s: float | None = Field(None, gt=0, description="also close a window older than this, by event time")
    carry: bool = Field(False, description="carry the GRU state over windows")
    history_long: int = Field(50, ge=1, le=500, description="L_S: clicks the cloud keeps")
    history_short: int = Field(10, ge=1, le=100, description="L_F: clicks and exposures the device encodes")
    dim: int = Field(32, ge=4, le=256, multiple_of=4)
    symlog_priors: bool = Field(False, description="the device takes the symlog of what the cloud sends")
    frozen: bool = Field(False, description="the release of the beginning stays: no learner, no retrain")
    retrain_every: int = Field(20, ge=1, description="epochs between two retrains")
    retrain_events: int = Field(
        2_000_000, ge=1, description="the newest that a retrain looks at, in whole epochs: so its cost is bounded"
    )
    retrain_passes: int = Field(2, ge=1, description="over new and sampled older clicks; a large log is sampled")
    retrain_threads: int = Field(1, ge=1, description="of torch in a retrain: another number, other last bits")
    learning_rate: float = Field(
        5e-3, gt=0, description="of a retrain that looks at all clicks; less where it looks at a part"
    )
    online_rate: float = Field(5e-4, gt=0, description="learning rate of the learner's steps: the paper's")
    batch: int = Field(64, ge=1, description="the paper has 256: too few steps for a log that is seen a few times")
    l2: float = Field(1e-4, ge=0, description="lambda: the paper's")
    gate_margin: float = Field(0.02, ge=0, description="held-out loss may rise by this share")

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
    def _known(cls, values: Any) -> Any:
        known = {PREFIX + name.upper() for name in cls.model_fields} | {PREFIX + "TEST_DATA"}  # the tests' own
        for name in os.environ:
            if name.startswith(PREFIX) and name not in known:
                raise ValueError(f"unknown environment variable {name}")
        return values

    def semantic(self) -> dict[str, Any]:
        """The fields that decide results, ready for JSON."""
        names = list(type(self).model_fields)
        return self.model_dump(mode="json", include=set(names[names.index("seed") :]) | {"lockstep"})

    def environment(self) -> dict[str, str]:
        """These settings as environment variables for a child process."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        plain = {k: v.get_secret_value() if isinstance(v, SecretStr) else v for k, v in values.items()}
        return {PREFIX + k.upper(): str(v) for k, v in plain.items() if v is not None}
