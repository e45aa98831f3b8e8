from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from deploy.local.broker import free_port
from deploy.local.child_process import Child, ChildError
from deploy.local.supervisor import Supervisor

pytestmark = pytest.mark.process


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "condition not met in time"
        time.sleep(0.02)


def child(folder: Path, code: str, *, restart: bool = True) -> Child:
    return Child("c", [sys.executable, "-c", code], os.environ, folder / "c.log", restart=restart)


def test_a_dead_process_is_started_again(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        one = supervisor._add(child(tmp_path, "import time; time.sleep(600)"))
        assert one.process is not None
        first = one.process.pid
        one.process.kill()
        one.process.wait()
        supervisor.check()
        assert one.alive
        assert one.process.pid != first
        assert one.deaths == 1
    assert not one.alive
    assert not psutil.pid_exists(one.process.pid)


def test_a_process_that_keeps_dying_ends_the_stack_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        one = supervisor._add(child(tmp_path, "import sys; sys.exit('no such table: clicks')"))

        def look_until_refused() -> None:
            while True:
                until(lambda: not one.alive)
                supervisor.check()

        with pytest.raises(ChildError, match="no such table: clicks"):
            look_until_refused()
        assert one.deaths == 5


def test_a_process_has_its_niceness_also_after_a_restart(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        one = replace(child(tmp_path, "import time; time.sleep(600)"), niceness=7)
        supervisor._add(one)
        for _ in range(2):
            assert one.process is not None
            assert psutil.Process(one.process.pid).nice() == min(psutil.Process().nice() + 7, 19)
            with suppress(FileNotFoundError):  # a kernel without autogroups
                assert Path(f"/proc/{one.process.pid}/autogroup").read_text().endswith("nice 7\n")
            one.process.kill()
            one.process.wait()
            supervisor.check()


def test_a_process_that_has_done_its_work_is_left_alone(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        one = supervisor._add(child(tmp_path, "pass", restart=False))
        until(lambda: not one.alive)
        supervisor.check()
        assert one.deaths == 0


@pytest.mark.parametrize(("after_s", "deaths"), [(600.0, 0), (0.0, 1)])
def test_a_process_that_ended_well_before_the_run_is_started_again_after_a_moment(
    tmp_path: Path, after_s: float, deaths: int
) -> None:
    with Supervisor(tmp_path, restart_after_s=after_s) as supervisor:
        one = supervisor._add(child(tmp_path, "pass"))
        until(lambda: not one.alive)
        supervisor.check()
        assert one.deaths == deaths


def test_a_process_that_ends_by_itself_again_and_again_does_not_end_the_run(tmp_path: Path) -> None:
    with Supervisor(tmp_path, restart_after_s=0.0) as supervisor:
        one = supervisor._add(child(tmp_path, "pass"))
        for deaths in range(1, 8):
            until(lambda: not one.alive)
            supervisor.check()
            assert one.deaths == deaths


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    with Supervisor(tmp_path) as supervisor:
        one = supervisor._add(child(tmp_path, code))
        until(lambda: "up" in one.log.read_text())
        one.stop(0.2)
        assert not one.alive


def test_children_do_not_outlive_a_killed_supervisor(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from deploy.local.child_process import Child\n"
        "from deploy.local.supervisor import Supervisor\n"
        f"folder = Path({str(tmp_path)!r}); s = Supervisor(folder)\n"
        "c = s._add(Child('c', [sys.executable, '-c', 'import time; time.sleep(600)'], os.environ, folder / 'c'))\n"
        "print(c.process.pid, flush=True); time.sleep(600)"
    )
    parent = child(tmp_path, code)
    parent.start()
    assert parent.process is not None
    until(lambda: parent.log.read_text().endswith("\n"))
    orphan = psutil.Process(int(parent.log.read_text()))
    parent.process.kill()
    parent.process.wait()
    until(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE)


ANSWERS = """
import sys
from streams.process.health import HEALTH
from streams.settings import Settings
from streams.process.telemetry import serve
serve(Settings(metrics_port=int(sys.argv[1])), "test")
print("up", flush=True)
{rest}
import time; time.sleep(600)
"""


def answering(folder: Path, rest: str = "", *, before: str = "") -> Child:
    port = free_port()
    command = [sys.executable, "-c", before + ANSWERS.format(rest=rest), str(port)]
    return Child("c", command, os.environ, folder / "c.log", port)


def started_again(supervisor: Supervisor, one: Child) -> bool:
    supervisor.check()
    return one.deaths == 1


def test_a_process_that_stands_still_is_started_again(tmp_path: Path) -> None:
    with Supervisor(tmp_path, unhealthy_after_s=1.0) as supervisor:
        one = supervisor._add(answering(tmp_path))
        until(lambda: one.metrics_port in supervisor._probes._healthy)
        assert one.process is not None
        supervisor.check()
        assert one.deaths == 0
        one.process.send_signal(signal.SIGSTOP)
        until(lambda: started_again(supervisor, one))
        until(lambda: one.metrics_port in supervisor._probes._healthy)
        supervisor.check()
        assert one.deaths == 1
    assert "killed: /healthz failed for" in one.log.read_text()
    assert "ended with code -9, restarted" in one.log.read_text()


def test_a_process_that_says_that_it_is_stuck_is_started_again(tmp_path: Path) -> None:
    gets_stuck = (
        "import signal, time\n"
        "signal.sigwait({signal.SIGUSR1})\n"
        "HEALTH._clock = lambda: time.monotonic() + 1000; HEALTH._lag = 5"
    )
    blocked = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})\n"
    with Supervisor(tmp_path, unhealthy_after_s=1.0) as supervisor:
        one = supervisor._add(answering(tmp_path, gets_stuck, before=blocked))
        until(lambda: one.metrics_port in supervisor._probes._healthy)
        assert one.process is not None
        one.process.send_signal(signal.SIGUSR1)
        until(lambda: started_again(supervisor, one))


def test_a_killed_process_that_has_an_end_of_its_own_is_started_again(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        one = supervisor._add(child(tmp_path, "import time; time.sleep(600)", restart=False))
        one.kill()
        supervisor.check()
        assert one.alive


def test_metrics_of_this_machine_are_read_without_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    with Supervisor(tmp_path) as supervisor:
        one = supervisor._add(answering(tmp_path))
        until(one.scrape)
        assert any(name.startswith("python_info") for name in one.samples)
        until(lambda: one.metrics_port in supervisor._probes._healthy)


def test_metrics_that_can_not_be_read_leave_those_before_as_they_were(tmp_path: Path) -> None:
    one = child(tmp_path, "pass")
    one.metrics_port, one.samples = free_port(), {"events": 5.0}
    assert not one.scrape()
    assert one.samples == {"events": 5.0}
