"""Scored again from the tables alone, every rank comes out as it was online; and what is altered there is noticed."""

from __future__ import annotations

import random
import sqlite3
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
import torch

from models.data.catalogue import Catalogue
from models.evaluation.metrics import METRICS
from models.mc2sf.checkpoint import pack, pack_part
from models.mc2sf.nets import Nets
from models.mc2sf.tiled_scorer import Scorer
from streams.database import schema
from streams.database.engine import insert_new
from streams.model_config import net_config
from streams.recorder.epoch_writer import EpochWriter
from streams.records import DeviceBatch, EndOfLog, EpochBegin, EpochEnd, Kind
from streams.release_records import EpochDecision
from streams.releases.registry import Draft, write_decision, write_release
from streams.releases.release import ItemTable, Release
from streams.rescoring.rescore import rescore
from streams.settings import Settings
from tests.support.recorder import TopicLogs, deliver
from tests.support.simulation import SMALL, Simulation

EPOCHS = 5
IN_FORCE = (0, 0, 1, 2, 2)  # retrained after epoch 1, learnt after epoch 2
TRAINED_UNTIL = {0: 0, 1: 40_000, 2: 60_000}
VARIANTS = {
    "tumbling": SMALL,
    "carried": SMALL.model_copy(update={"carry": True}),
    "aged": SMALL.model_copy(update={"window_age_s": 2.0}),
    "carried and aged": SMALL.model_copy(update={"carry": True, "window_age_s": 2.0}),
    "sampled": SMALL.model_copy(update={"exposures": "rated", "evaluate": 0.7}),
}


def some_releases(connection: sa.Connection, settings: Settings) -> dict[int, Release]:
    """Three releases as they stand in the tables: initial, retrained over more items, and a small one."""
    made: dict[int, Release] = {}
    config = net_config(settings)
    first = 12 if settings.exposures == "logged" else 0  # no items before the first retrain, as outside of tests
    for kind, items, seed in (("initial", first, 1), ("retrain", 20, 2), ("learner", 20, 3)):
        catalogue = Catalogue(np.arange(1, items + 1))
        nets = Nets.initial(config, catalogue.size, seed)
        if config.stacked:
            nets.fast.stack.fill_(0.5)  # else mc2sf is fast alone
        last = made[len(made) - 1] if made else None
        if kind == "learner" and last is not None:
            nets.encoder, nets.slow = last.nets.encoder, last.nets.slow
        E = nets.encoder.E.detach().numpy().astype("<f4")
        draft = Draft(
            kind=kind,  # type: ignore[arg-type]  # one of the three above
            parent=last.manifest if last else None,
            epoch=len(made),
            parts={"fast": pack_part(nets, "fast")} if kind == "learner" else pack(nets),
            items=None if kind == "learner" else ItemTable.of(catalogue, E),
            trained_until=TRAINED_UNTIL[len(made)],
            offsets={},
            gate={},
        )
        manifest = write_release(connection, settings.run, draft)
        made[manifest.version] = Release(manifest, nets.eval(), Scorer(nets), catalogue)
    for epoch, version in enumerate(IN_FORCE[1:]):
        write_decision(connection, settings.run, EpochDecision(epoch, version, "unchanged", ""))
    return made


def some_batches(draw: random.Random) -> list[list[DeviceBatch]]:
    """Five users' slates, clicks, past clicks and single events, a list an epoch."""
    seqs, time, impression, epochs = dict.fromkeys("abcde", 0), 10_000, 0, []
    for _ in range(EPOCHS):
        batches = []
        for _ in range(24):
            user = draw.choice(list(seqs))
            items: list[str] = []
            impressions: list[int] = []
            for _ in range(draw.randrange(1, 4)):
                size, impression = draw.randrange(1, 6), impression + 1
                items += [str(draw.randrange(1, 24)) for _ in range(size)]
                impressions += [impression if size > 1 else 0] * size
            kinds = [draw.choice((Kind.EXPOSURE,) * 3 + tuple(Kind)) for _ in items]
            times = [time := time + draw.randrange(800) for _ in items]
            batches.append(DeviceBatch(user, seqs[user], items, bytes(kinds), times, impressions))
            seqs[user] += len(items)
        epochs.append(batches)
    return epochs


def begin_run(connection: sa.Connection, settings: Settings) -> dict[int, Release]:
    """Write the run and its releases."""
    row = {"run": settings.run, "created_wall": 0, "source": "test", "settings": settings.semantic()}
    insert_new(connection, schema.runs, [row | {"versions": {}, "status": "finished", "summary": None}])
    return some_releases(connection, settings)


_RUNS: dict[tuple[str, int], sqlite3.Connection] = {}  # in memory, by their settings and seed


def a_recorded_run(engine: sa.Engine, settings: Settings, seed: int = 1) -> None:
    """A run of device and cloud in lockstep, recorded in the tables. On SQLite it is made once and then copied."""
    made = settings.model_dump_json(exclude={"database", "state_dir"}), seed
    if engine.dialect.name != "sqlite":
        _record_run(engine, settings, seed)
        return
    with engine.connect() as connection:
        own: Any = connection.connection.driver_connection
        if made in _RUNS:
            _RUNS[made].backup(own)
            return
    _record_run(engine, settings, seed)
    with engine.connect() as connection:
        own = connection.connection.driver_connection
        own.backup(_RUNS.setdefault(made, sqlite3.connect(":memory:")))


def _record_run(engine: sa.Engine, settings: Settings, seed: int) -> None:
    with engine.begin() as connection:
        releases = begin_run(connection, settings)
    draw = random.Random(seed)
    simulation = Simulation(settings, releases, draw)
    epoch, time = 0, 0
    for epoch, batches in enumerate(some_batches(draw)):
        simulation.send_marker(EpochBegin(epoch, IN_FORCE[epoch], time))
        simulation.send(*batches)
        time = batches[-1].times[-1]
        simulation.send_marker(EpochEnd(epoch, time))
        simulation.settle()
    simulation.send_marker(EndOfLog(epoch, time, 0))
    simulation.settle()
    deliver(TopicLogs(settings, dict(simulation.topics.logs)), lambda: EpochWriter(settings, engine, lambda: 0), draw)


def recorded(engine: sa.Engine) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(schema.outcomes)).all())


def online(engine: sa.Engine, subset: str) -> dict[str, dict[str, float]]:
    m = schema.metric_points.c
    last = (m.subset == subset) & (m.form == "cumulative") & (m.epoch == EPOCHS - 1)
    with engine.connect() as connection:
        rows = connection.execute(sa.select(schema.metric_points).where(last)).all()
    return {
        row.variant: {name: getattr(row, name.replace("@", "_")) for name in METRICS}
        | {"n": row.n, "chance_hr@10": row.chance_hr_10}
        for row in rows
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_offline_equals_online_to_the_last_digit(engine: sa.Engine, variant: str) -> None:
    a_recorded_run(engine, VARIANTS[variant], seed=len(variant))
    outcomes = recorded(engine)
    assert {o.release for o in outcomes} == {0, 1, 2}
    assert any(o.window > 1 and o.history for o in outcomes)
    assert any(o.slate == "logged" for o in outcomes) == (variant != "sampled")
    result = rescore(engine, SMALL.run)
    assert result.differences == []
    assert result.outcomes == len(outcomes) > 40
    assert set(result.metrics) == {"random", "popularity", "river", "din", "f2s", "fast", "mc2sf", "served"}
    assert result.metrics == online(engine, "all")
    for subset, metrics in result.subsets.items():
        assert metrics == online(engine, subset)


ALTERATIONS = {
    "an item shown": (schema.interactions, "item", lambda t: t.c.kind == Kind.EXPOSURE, 3),
    "an item clicked": (schema.interactions, "item", lambda t: (t.c.kind == Kind.CLICK) & (t.c.epoch == 0), 5),
    "a weight": (schema.item_embeddings, "vector", lambda t: t.c.item == 7, np.ones(4, "<f4").tobytes()),
    "a rank": (schema.outcomes, "ranks", lambda t: t.c.user == "a", {"mc2sf": 1}),
}


@pytest.mark.parametrize("what", ALTERATIONS)
def test_what_is_altered_in_the_tables_is_noticed(engine: sa.Engine, what: str) -> None:
    a_recorded_run(engine, SMALL)
    table, column, where, value = ALTERATIONS[what]
    with engine.begin() as connection:
        assert connection.execute(sa.update(table).where(where(table)).values({column: value})).rowcount
    if what == "a weight":  # releases are checked as a whole before any is used
        with pytest.raises(ValueError, match="checksum"):
            rescore(engine, SMALL.run)
    else:
        assert rescore(engine, SMALL.run).differences


def test_until_a_moment_only_what_happened_by_then_is_scored(engine: sa.Engine) -> None:
    a_recorded_run(engine, SMALL)
    times = sorted(o.time for o in recorded(engine))
    moment = times[len(times) // 2]
    result = rescore(engine, SMALL.run, as_of=moment)
    assert result.outcomes == sum(time <= moment for time in times)
    assert result.differences == []
    with engine.begin() as connection:  # what came later may be altered or gone
        connection.execute(sa.delete(schema.interactions).where(schema.interactions.c.group_time > moment))
        connection.execute(sa.delete(schema.outcomes).where(schema.outcomes.c.time > moment))
    assert rescore(engine, SMALL.run, as_of=moment) == result


def test_another_release_is_scored_on_the_same_clicks_and_its_hindsight_told(engine: sa.Engine) -> None:
    a_recorded_run(engine, SMALL)
    outcomes = recorded(engine)
    for version in (0, 1, 2):
        result = rescore(engine, SMALL.run, release=version)
        assert result.outcomes == len(outcomes)
        assert result.hindsight == sum(o.time <= TRAINED_UNTIL[version] for o in outcomes)
        assert result.differences == []
        for variant in ("random", "popularity", "river"):
            assert result.metrics[variant] == online(engine, "all")[variant]
    mine = rescore(engine, SMALL.run, release=1).metrics["mc2sf"]
    assert mine != rescore(engine, SMALL.run, release=2).metrics["mc2sf"]
    assert mine != online(engine, "all")["mc2sf"]


def test_without_the_learner_each_click_is_ranked_by_the_last_release_of_another_kind(engine: sa.Engine) -> None:
    a_recorded_run(engine, SMALL)
    found = rescore(engine, SMALL.run, without_learner=True)
    with engine.connect() as connection:
        kinds = {row.version: row.kind for row in connection.execute(sa.select(schema.releases))}
    before = {v: max(other for other in kinds if other <= v and kinds[other] != "learner") for v in kinds}
    assert {v for v in before if before[v] != v}
    by = {v: rescore(engine, SMALL.run, release=v).ranks for v in set(before.values())}
    used = {(o.user, o.seq): before[o.release] for o in recorded(engine)}
    for variant in ("fast", "f2s", "mc2sf", "popularity"):
        assert {click: found.ranks[click][variant] for click in used} == {
            click: by[version][click][variant] for click, version in used.items()
        }
    assert found.metrics["fast"] != rescore(engine, SMALL.run).metrics["fast"]
    assert found.differences == []


@pytest.mark.process
def test_several_processes_find_what_one_finds(engine: sa.Engine) -> None:
    a_recorded_run(engine, SMALL)
    told: list[tuple[int, int]] = []
    result = rescore(engine, SMALL.run, processes=2, progress=lambda done, of: told.append((done, of)))
    assert result == rescore(engine, SMALL.run, processes=1)
    assert told[-1] == (result.outcomes, result.outcomes)


def test_scoring_uses_one_thread_and_gives_the_others_back(engine: sa.Engine) -> None:
    a_recorded_run(engine, SMALL)
    threads, used = torch.get_num_threads(), []
    try:
        torch.set_num_threads(2)
        rescore(engine, SMALL.run, processes=1, progress=lambda _done, _of: used.append(torch.get_num_threads()))
        assert set(used) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_a_run_that_is_not_there_is_a_clear_error(engine: sa.Engine) -> None:
    with pytest.raises(LookupError, match="no run 'nowhere'"):
        rescore(engine, "nowhere")
