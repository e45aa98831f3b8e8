"""A recommendation uses the device's state: its r2 as it was uploaded, carried over windows or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa

from deploy.recommend import Suggestion, recommend
from deploy.runs import FoundRun
from models.data.event_kinds import CLICK_KINDS
from streams.database import schema
from streams.database.engine import connect
from streams.settings import Settings
from tests.test_streams_rescoring import VARIANTS, a_recorded_run

USERS, ALL, NEWEST = "abcde", 30, 2


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = connect(database_url)
    yield engine
    engine.dispose()


def suggested(found: FoundRun, release: int = NEWEST) -> dict[str, list[Suggestion]]:
    return {user: recommend(found, user, ALL, release, "mc2sf")[1] for user in USERS}


def forget(engine: sa.Engine, settings: Settings) -> None:
    """No r2 is recorded under an encoder that there is."""
    with engine.begin() as connection:
        m = schema.negative_memories
        newest = sa.select(m.c.user, sa.func.max(m.c.encoder)).where(m.c.run == settings.run).group_by(m.c.user)
        for user, encoder in connection.execute(newest).all():
            here = (m.c.run == settings.run) & (m.c.user == user) & (m.c.encoder == encoder)
            connection.execute(sa.update(m).where(here).values(encoder=77))


@pytest.mark.parametrize("variant", ["tumbling", "aged", "carried", "carried and aged"])
def test_the_recorded_r2_is_used_and_is_the_fold_of_the_closed_window_unless_it_is_carried(
    engine: sa.Engine, variant: str
) -> None:
    settings = VARIANTS[variant]
    a_recorded_run(engine, settings)
    found = FoundRun(settings, engine, None, "test")
    with_recorded = suggested(found)
    assert all(with_recorded.values())
    forget(engine, settings)
    assert (suggested(found) == with_recorded) == (not settings.carry)


def test_the_score_that_ranked_better_in_the_run_is_taken_unless_one_is_asked_for(engine: sa.Engine) -> None:
    settings = VARIANTS["tumbling"]
    a_recorded_run(engine, settings)
    found = FoundRun(settings, engine, None, "test")
    by_score = {by: recommend(found, "a", ALL, NEWEST, by) for by in ("mc2sf", "fast")}
    assert by_score["mc2sf"][1] != by_score["fast"][1]
    p = schema.metric_points
    counted = (p.c.subset == "all") & (p.c.form == "cumulative")
    for fast, mc2sf, better in ((0.4, 0.3, "fast"), (0.3, 0.4, "mc2sf"), (0.3, 0.3, "mc2sf")):
        with engine.begin() as connection:
            last = connection.execute(sa.select(sa.func.max(p.c.epoch)).where(p.c.run == settings.run)).scalar_one()
            others = dict.fromkeys(("popularity", "f2s", "din", "served"), 0.1)
            for variant, value in {"fast": fast, "mc2sf": mc2sf, **others}.items():  # as it was before, and in the end
                here = (p.c.run == settings.run) & (p.c.variant == variant) & counted
                connection.execute(sa.update(p).where(here).values(ndcg_10=1 - value))
                connection.execute(sa.update(p).where(here, p.c.epoch == last).values(ndcg_10=value, n=1))
        assert recommend(found, "a", ALL, NEWEST) == by_score[better]
    with engine.begin() as connection:
        connection.execute(sa.delete(p))
        clicked = sa.select(schema.interactions.c.item).where(schema.interactions.c.kind.in_(CLICK_KINDS))
        clicks = Counter(connection.execute(clicked).scalars())
    suggestion = recommend(found, "a", ALL, NEWEST)
    assert suggestion.by == "popularity", "nothing is known of any variant"
    scores = [score for _, score in suggestion.items]
    assert scores == sorted(scores, reverse=True) == [clicks[int(name)] for name, _ in suggestion.items]


def test_before_the_first_trained_release_the_items_seen_so_far_are_recommended(engine: sa.Engine) -> None:
    settings = VARIANTS["sampled"]
    a_recorded_run(engine, settings)
    found = FoundRun(settings, engine, None, "test")
    scores = [score for _, score in recommend(found, "a", ALL, 0, "popularity").items]
    assert len(scores) > 2
    assert scores == sorted(scores, reverse=True)
    assert len(recommend(found, "a", ALL, 0, "mc2sf").items) == len(scores)


def test_under_an_encoder_that_the_device_has_not_met_the_closed_window_is_folded_from_zero(engine: sa.Engine) -> None:
    settings = VARIANTS["carried"]
    a_recorded_run(engine, settings)
    found = FoundRun(settings, engine, None, "test")
    tumbling = replace(found, settings=settings.model_copy(update={"carry": False}))
    assert suggested(found, release=0) == suggested(tumbling, release=0)
