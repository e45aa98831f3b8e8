"""A run over its event time, read from its tables."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from deploy.report import timeline
from deploy.report.figures import quality_series
from deploy.report.variants import ordered
from streams.database import schema
from tests.support.report import EPOCHS, RUN, START, tables


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    return tables(tmp_path)


def test_uploads_are_counted_in_the_epoch_whose_event_time_they_have(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        line = timeline.epochs(connection, RUN)
        assert [epoch.number for epoch in line] == list(range(EPOCHS))
        assert timeline.uploads(connection, RUN, line) == [5 + e % 7 for e in range(EPOCHS)]


def test_costs_of_an_epoch_are_those_of_its_outcomes(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        costs = timeline.costs(connection, RUN)
    assert sorted(costs) == list(range(EPOCHS))
    assert costs[3].outcomes == 20
    assert costs[3].bytes_up == 20 * 930
    assert costs[3].answer_ms == (95.0, 180.5)  # 0, 10, ... 190 ms
    assert costs[3].r2_age_s == 600.0  # 1, 3, ... 19 minutes: those with a window


def test_chance_is_that_of_the_variant_with_the_most_ranks() -> None:
    def points(n: int, chance: float) -> dict[int, timeline.Point]:
        return {0: timeline.Point(n, 0.5, 0.4, chance, 0.1)}

    series = quality_series({"mc2sf": points(5, 0.1), "random": points(9, 0.2)}, "hr_10", [timeline.Epoch(0, 0)])
    assert [(one.name, one.values) for one in series][-1] == ("chance", [0.2])


def test_variants_keep_their_colours_and_unknown_ones_come_last() -> None:
    assert ordered({"zeta": 0, "random": 0, "alpha": 0, "mc2sf": 0}) == ["mc2sf", "random", "alpha", "zeta"]


def test_the_axis_ends_at_the_last_event_also_if_its_impression_began_earlier(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        line = timeline.epochs(connection, RUN)
        later = line[-1].time + 5_000
        i = schema.interactions
        connection.execute(sa.update(i).where(i.c.run == RUN, i.c.epoch == EPOCHS - 1).values(time=later))
        axis = timeline.axis(connection, RUN, line)
    assert (axis.first, axis.last) == (START, later)
    assert list(axis.times) == [epoch.time for epoch in line]
