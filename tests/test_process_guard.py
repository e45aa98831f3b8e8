"""`make test` is one process: a test that starts another one or listens on a socket fails, unless it is marked."""

from __future__ import annotations

import multiprocessing
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import process_guard

ROOT = Path(__file__).parents[1]


def listen() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()


STARTS: dict[str, Callable[[], object]] = {
    "subprocess": lambda: subprocess.run([sys.executable, "-c", ""], check=True),
    "fork": multiprocessing.get_context("fork").Process(target=listen).start,
    "os.fork": os.fork,
    "os.system": lambda: os.system("true"),
    "a listening socket": listen,
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_test_without_the_mark_may_not_start_a_process_or_listen(start: Callable[[], object]) -> None:
    with pytest.raises(pytest.fail.Exception, match=re.escape("mark this test with pytest.mark.process")):
        start()


@pytest.mark.process
def test_a_child_that_python_does_not_announce_is_noticed_when_it_has_ended() -> None:
    child = multiprocessing.get_context("spawn").Process(target=os.getpid)

    def run() -> None:
        with process_guard.refused(unless=False):
            child.start()
            child.join()

    with pytest.raises(pytest.fail.Exception, match="a child process ended"):
        run()


def test_nothing_runs_or_listens_beside_the_quick_tests(request: pytest.FixtureRequest) -> None:
    if not any(item.get_closest_marker("process") for item in request.session.items):  # as `make test` selects them
        assert process_guard.processes_and_listeners() == []


@pytest.mark.process
def test_a_test_with_the_mark_may() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        found = process_guard.processes_and_listeners()
        child.communicate(b"\n")
    assert any("Process" in each and str(child.pid) in each for each in found)
    assert any("LISTEN" in each for each in found)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_database_in_a_file_needs_no_process(request: pytest.FixtureRequest, database_url: str) -> None:
    assert database_url.startswith("sqlite")
    assert request.node.get_closest_marker("process") is None


def test_whoever_uses_a_fixture_that_starts_processes_is_marked(request: pytest.FixtureRequest) -> None:
    using = [item for item in request.session.items if {"servers", "tool"} & set(getattr(item, "fixturenames", ()))]
    assert [item for item in using if item.get_closest_marker("process") is None] == []


def test_the_quick_tests_are_those_without_the_mark_and_the_check_is_all_but_the_proofs() -> None:
    makefile = (ROOT / "Makefile").read_text()
    selected = {
        target: re.search(rf"^{target}:.*\n(?:\t.*\n)*?\t\$\(PYTEST\) .*-m [\"'](.*?)[\"']", makefile, re.MULTILINE)
        for target in ("test", "suite", "proofs")
    }
    found = {target: match[1] for target, match in selected.items() if match}
    assert found == {"test": "not process and not proof and not slow", "suite": "not proof", "proofs": "proof"}
    assert "\ncheck: lint guard suite\n" in makefile
    assert '$(if $(PROOFS),,-m "not proof")' in makefile, "CI runs the proofs, too"
