"""The machine and the versions of a benchmark, without names or paths."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any


def described(packages: Iterable[str]) -> dict[str, Any]:
    """Cores, model of the CPU, versions of Python and of `packages`."""
    cpus = Path("/proc/cpuinfo")
    models = (
        [line.partition(":")[2].strip() for line in cpus.read_text().splitlines() if "model name" in line]
        if cpus.exists()
        else []
    )
    return {
        "cores": os.cpu_count(),
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }
