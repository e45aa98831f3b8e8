"""The faults of `alerts.py`, each with the alerts that it must fire."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from benchmarks.faults.alert_acts import (
    FLOOD,
    Scene,
    connections_hang,
    damaged_record,
    database_away,
    disk_fills,
    flaps,
    gone,
    hangs,
    no_cloud,
    rankings_refused,
    refused,
    too_fast,
    two_databases,
    without_coordinator,
    worse_release,
)

FACTOR = 60.0  # a minute is a second
_STARTS_COUNT, _A_DAY = 10.0, 360.0  # for alerts that count starts of processes, and those that take a day
# what a process needs to start, and a group to notice a death, is not divided: seconds that count as minutes
_STARTS = frozenset({"Down", "Stuck", "Expired"})


@dataclass(frozen=True)
class Fault:
    """A fault, the alerts that it must fire with a label that they must have, and those that may fire with them."""

    what: str
    done: str
    act: Callable[[Scene], AbstractContextManager[None]]
    alerts: Mapping[str, str]
    companions: frozenset[str] = field(default=frozenset())
    factor: float = FACTOR


FIRST = Fault(
    "the loop is started without a coordinator",
    "a coordinator started",
    without_coordinator,
    {"NotReady": "device", "NoCoordinator": ""},
    _STARTS | {"Absent"},
)
FAULTS = (
    Fault("a device worker hangs (SIGSTOP)", "killed and started again", hangs, {"Down": "device"}, _STARTS),
    Fault(
        "a device worker is killed and gone from discovery",
        "started again",
        gone("device-2"),
        {"ReplicaLost": "device"},
        _STARTS,
    ),
    Fault(
        "the learner is killed and gone from discovery",
        "started again",
        gone("learner"),
        {"Absent": "learner"},
        _STARTS,
    ),
    Fault(
        "the only gateway is killed and gone from discovery",
        "started again",
        gone("gateway"),
        {"Absent": "gateway"},
        _STARTS,
    ),
    Fault(
        "the recorder's connections to PostgreSQL hang (SIGSTOP of their server processes)",
        "recorder restarted",
        connections_hang("recorder"),
        {"Stuck": "recorder"},
        _STARTS,
    ),
    Fault(
        "the learner's connections to PostgreSQL hang (SIGSTOP of their server processes)",
        "learner restarted",
        connections_hang("learner"),
        {"Stuck": "learner"},
        _STARTS,
    ),
    Fault("PostgreSQL is killed", "started again", database_away, {"Waiting": "recorder"}, _STARTS | {"NotReady"}),
    Fault("the disk of a device worker's state is full", "files removed", disk_fills, {"DiskFull": "device"}),
    Fault(
        "half a record on device-events",
        "repaired and sent again (`mc2sf dead-letters replay --value`)",
        damaged_record,
        {"DeadLetters": "device"},
    ),
    Fault(
        "the cloud worker is killed",
        "started again",
        no_cloud,
        {"Expired": "", "ErrorBudgetFast": "collaboration", "ErrorBudgetSlow": "collaboration"},
        _STARTS,
    ),
    Fault(
        "both device workers hang (SIGSTOP) while a gateway is asked for rankings",
        "killed and started again",
        rankings_refused,
        {"ErrorBudgetFast": "requests"},
        _STARTS,
    ),
    Fault("a second coordinator on another database", "stopped", two_databases, {"NoCoordinator": ""}),
    Fault(
        "every release candidate is not finite",
        "the training mended",
        refused,
        {"RefusedReleases": "", "NoRelease": ""},
        factor=_A_DAY,
    ),
    Fault(
        "the learner is killed (SIGKILL) and started again and again",
        "killed no more",
        flaps("learner", by_kill=True),
        {"Restarts": "learner"},
        _STARTS,
        _STARTS_COUNT,
    ),
    Fault(
        "a device worker is stopped and started again and again",
        "stopped no more",
        flaps("device-2", by_kill=False),
        {"Rebalancing": "device"},
        _STARTS | {"Restarts"},
        _STARTS_COUNT,
    ),
    Fault(
        f"{FLOOD:,} records per second for device workers with a tenth of their CPU",
        "the flood ended, the CPU given back",
        too_fast,
        {"LagGrows": "device"},
        _STARTS,
    ),
    Fault(
        "a release whose stack has the wrong sign is accepted, no retrain",
        "`mc2sf releases rollback` to the release before, retrain started",
        worse_release,
        {"QualityDrop": ""},
    ),
)
