"""The tutorial of docs/gateway.md, command by command, against a broker and workers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.servers.worker import Process
from deploy.local.broker import free_port
from streams.settings import Settings
from tests.support.simulation import release
from tests.support.workers import publish

PAGE = Path(__file__).parents[1] / "docs" / "gateway.md"


def tutorial(page: str) -> str:
    """Return the commands of the tutorial as a script, each followed by a line that names its end."""
    section = page.split("## A click, and another ranking")[1].split("\n## ", maxsplit=1)[0]
    blocks = "".join(re.findall(r"```console\n(.*?)```", section, re.DOTALL))
    commands = re.findall(r"^\$ (.*?)(?=^\$ |\Z)", blocks, re.DOTALL | re.MULTILINE)
    return "\n".join(f"{command.strip()}\necho; echo ENDED" for command in commands)


def answers(script: str, settings: Settings, folder: Path) -> list[Any]:
    """Run the tutorial's script against the processes of a run; return the JSON of each command that prints some."""
    environment = {**os.environ, **settings.environment(), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    script = script.replace("8080", str(free_port())).replace("--retry 60", "--retry 280")  # a busy machine is slow
    done = subprocess.run(
        ["bash", "-c", f"set -eu; trap 'kill $(jobs -p)' EXIT\n{script}"],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = [each.strip() for each in done.stdout.split("ENDED")]
    return [json.loads(each) for each in shown if each.startswith("{")]


def assert_the_click_is_in_the_second_ranking(found: list[Any], items: list[str]) -> None:
    """Check the answers of the tutorial, in which the second of `items` is clicked."""
    healthy, before, accepted, after, explained, *_ = found
    assert healthy == {"status": "ok"}
    assert (before["next_seq"], accepted["accepted"], after["next_seq"]) == (0, 1, 4)
    scores = [{each["item"]: each["score"] for each in ranking["items"]} for ranking in (before, after)]
    assert scores[0].keys() == scores[1].keys() == set(items)
    assert scores[0] != scores[1], "because of the click"
    assert (explained["ranking"], explained["same"]) == (after, True), "also the fast part's, on a busy machine"
    assert [each["item"] for each in explained["clicks"]] == [items[1]]
    assert sorted(each["item"] for each in explained["exposures"]) == sorted({*items} - {items[1]})


def test_every_command_of_the_tutorial_does_what_the_page_says(broker_settings: Settings, tmp_path: Path) -> None:
    settings = broker_settings.model_copy(
        update={"lockstep": False, "partitions": 1, "take_within_s": 0.01, "state_dir": tmp_path / "state", "dim": 8}
    )
    publish(settings, [release(settings, 0, 12)])
    with Process(settings, "device") as device, Process(settings, "cloud") as cloud:
        device.until_ready()
        cloud.until_ready()
        found = answers(tutorial(PAGE.read_text()), settings, tmp_path)
    assert_the_click_is_in_the_second_ranking(found, ["3", "5", "8", "11"])
