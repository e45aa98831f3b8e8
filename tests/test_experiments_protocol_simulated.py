"""Without a broker: each test click of an experiment gets from the stream the list and the ranks of offline."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.cli.source_argument import parse_source
from deploy.experiments.runner.runner import Trainers
from deploy.experiments.streaming.initial_release import MODELS, InitialRelease, initial_release
from deploy.experiments.streaming.source import StreamRequest
from replay.prepare.plan import Options
from replay.prepare.prepare import prepare
from replay.send.batching import grouped
from replay.send.sorted_log import SortedLog
from streams.database.engine import connect
from streams.records import EpochBegin, EpochEnd, Outcome
from streams.releases import registry
from streams.releases.release import Release, read_release
from streams.settings import Settings
from tests.support.protocol import impressions_log, ratings_log, single_events_log
from tests.support.simulation import Simulation, outcomes


def text_of(folder: Path, source: Callable[[Path], str]) -> str:
    """Fit the experiment on source; return what names its stream."""
    text = f"protocol:epochs=1,work={folder / 'work'},{source(folder)}"
    stream = StreamRequest.of(text)
    trainer = Trainers(stream.request, stream.selection.work).of(stream.request.protocol)
    for model in MODELS:
        model.fit(trainer, stream.request.hyperparameters, 1)
    return text


def released(expected: InitialRelease, settings: Settings) -> Release:
    """The release as the tables have it."""
    engine = connect(settings.database.get_secret_value())
    with engine.begin() as connection:
        registry.write_release(connection, settings.run, expected.draft)
        return read_release(connection, settings.run, 0)


def ranked(text: str, settings: Settings, release: Release, folder: Path) -> dict[str, list[Outcome]]:
    """The outcomes of each user, in order, of the stream on simulated topics."""
    plan = prepare(parse_source(text), Options(), folder / "plan")
    log = SortedLog(plan.path, plan.contents.rows, 1, plan.shift)
    simulation = Simulation(settings, {0: release}, random.Random(1), crashes=0.05)
    for epoch, (first, end) in enumerate([(0, plan.ends[0]), (plan.ends[0], plan.ends[1])]):
        simulation.send_marker(EpochBegin(epoch, 0, 0))
        for part in log.slices(first, end):
            simulation.send(*grouped(part, part.groups, 0))
        simulation.send_marker(EpochEnd(epoch, 0))
        simulation.settle()
    found = defaultdict(list)
    for (user, _), outcome in sorted(outcomes(simulation.topics).items()):
        found[user].append(outcome)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("source", [ratings_log, single_events_log, impressions_log])
def test_each_test_click_has_the_list_and_the_ranks_of_the_experiment(
    tmp_path: Path, settings: Settings, source: Callable[[Path], str]
) -> None:
    text = text_of(tmp_path, source)
    expected = initial_release(text)
    settings = settings.model_copy(update={"exposures": "logged", "partitions": 2} | expected.settings)
    online = ranked(text, settings, released(expected, settings), tmp_path)
    flat = [outcome for user in dict.fromkeys(expected.users) for outcome in online[user]]
    assert [outcome.user for outcome in flat] == expected.users
    assert [(outcome.candidates.data, outcome.target_index) for outcome in flat] == expected.lists
    for variant, ranks in expected.ranks.items():
        assert [outcome.ranks[variant] for outcome in flat] == ranks.tolist(), variant
    assert len({tuple(ranks.tolist()) for ranks in expected.ranks.values()}) == 4, "the four forms rank differently"
    assert any(outcome.window for outcome in flat)
    assert all(outcome.history for outcome in flat)
