"""What is recommended is ranked with what the device has: its r2 as it was uploaded, carried over windows or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa

from deploy.recommend import Suggestion, recommend
from deploy.runs import Found
from streams import tables
from streams.settings import Settings
from streams.store import connect
from tests.test_offline import VARIANTS, a_recorded_run

USERS, ALL, NEWEST = "abcde", 30, 2


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = connect(database_url)
    yield engine
    engine.dispose()


def suggested(found: Found, release: int = NEWEST) -> dict[str, list[Suggestion]]:
    return {user: recommend(found, user, ALL, release) for user in USERS}


def forget(engine: sa.Engine, settings: Settings) -> None:
    """No r2 is recorded under an encoder that there is."""
    with engine.begin() as connection:
        m = tables.negative_memories
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
    found = Found(settings, engine, None, "test")
    with_recorded = suggested(found)
    assert all(with_recorded.values())
    forget(engine, settings)
    assert (suggested(found) == with_recorded) == (not settings.carry)


def test_under_an_encoder_that_the_device_has_not_met_the_closed_window_is_folded_from_zero(engine: sa.Engine) -> None:
    settings = VARIANTS["carried"]
    a_recorded_run(engine, settings)
    found = Found(settings, engine, None, "test")
    tumbling = replace(found, settings=settings.model_copy(update={"carry": False}))
    assert suggested(found, release=0) == suggested(tumbling, release=0)
