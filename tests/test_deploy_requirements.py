from __future__ import annotations

import io
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.console import Console

from deploy.local.broker import SHORT_FETCH_WAIT_MS, chosen_settings
from deploy.local.requirements import Requirements, print_requirements, requirements
from replay.prepare.plan import Options
from replay.prepare.prepare import prepare
from replay.sources.source import parse
from streams.settings import Settings


def test_a_larger_log_more_ranked_clicks_and_more_workers_need_more(tmp_path: Path, settings: Settings) -> None:
    plan = prepare(parse("synthetic:users=20,items=30,clicks=10"), Options(), tmp_path)
    twice = prepare(parse("synthetic:users=20,items=30,clicks=10"), Options(loops=2), tmp_path)
    ranked = settings.model_copy(update={"evaluate": 1.0})
    base = requirements(plan, settings, 1)
    assert base.memory > 10**9
    assert requirements(twice, settings, 1) > base
    more = requirements(plan, ranked, 1)
    assert more.memory > base.memory
    assert more.disk > base.disk
    assert requirements(plan, settings, 2).memory > base.memory


@pytest.mark.parametrize(("needed", "warned"), [((1, 1), []), ((10**18, 1), ["memory"]), ((1, 10**18), ["disk"])])
def test_a_warning_names_what_the_machine_has_too_little_of(
    tmp_path: Path, needed: tuple[int, int], warned: list[str]
) -> None:
    said = io.StringIO()
    print_requirements(Requirements(*needed), tmp_path, Console(file=said, width=400))
    assert "are available" in said.getvalue()
    assert [name for name in ("memory", "disk") if f"too little {name}" in said.getvalue()] == warned


def test_only_a_small_log_in_lockstep_asks_the_embedded_broker_often(tmp_path: Path) -> None:
    small = prepare(parse("synthetic:users=5,items=20,clicks=4"), Options(), tmp_path)
    large = replace(small, loops=100_000)
    assert chosen_settings(small, Settings(), 2) == {"partitions": 2, "fetch_wait_ms": SHORT_FETCH_WAIT_MS}
    assert (
        chosen_settings(large, Settings(), 2)
        == chosen_settings(small, Settings(lockstep=False), 2)
        == {"partitions": 2}
    )
    assert chosen_settings(small, Settings(partitions=3, fetch_wait_ms=70), 2) == {}
