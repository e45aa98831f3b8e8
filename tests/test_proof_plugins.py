"""All five kinds of plugins of docs/plugins.md in one run, which is then verified."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.docs import ROOT

pytestmark = [pytest.mark.process, pytest.mark.proof, pytest.mark.slow, pytest.mark.timeout(900)]
OWN = {
    "source": "radio:Radio:radio.log",
    "exposures": "recent:Recent",
    "candidates": "unclicked:unclicked",
    "metric": "auc:auc",
    "variant": "last_click:LastClick",
}


def test_a_run_with_all_five_plugins_is_verified(tmp_path: Path) -> None:
    for path in (ROOT / "docs" / "examples").glob("*.py"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    draw, time = random.Random(1), datetime(2026, 11, 1, tzinfo=UTC)
    lines = []
    for _ in range(400):
        time += timedelta(seconds=draw.randrange(600))
        lines.append(f"{time.isoformat()} u{draw.randrange(10)} heard {draw.randrange(80)}\n")
    (tmp_path / "radio.log").write_text("".join(lines))

    def mc2sf(*arguments: str) -> str:
        command = [sys.executable, "-m", "deploy.cli", *arguments]
        environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=850, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    own = [word for kind, name in OWN.items() for word in (f"--{kind}", name)]
    mc2sf("run", *own, "--epoch", "200", "--retrain-every", "400", "--evaluate", "1", "--out", "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    kept = sorted(plugin.partition("@")[0] for plugin in summary["settings"]["plugins"].split())
    assert kept == sorted(f"{kind}={':'.join(name.split(':')[:2])}" for kind, name in OWN.items())
    assert summary["offline_differences"] == 0 < summary["outcomes"]
    assert summary["log"]["account"]["added"] > 0
    assert "LastClick" in summary["online"]
    assert "auc" in summary["plugin_metrics"]
    assert "LastClick" in mc2sf("evaluate", "run")
    mc2sf("verify", "run")
