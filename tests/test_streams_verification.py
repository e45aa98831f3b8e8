"""A recorded run folds to itself by other code; and whatever is altered in its tables is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from streams.database import schema
from streams.database.engine import connect
from streams.records import Kind, Versions
from streams.settings import Settings
from streams.state.device import DeviceState
from streams.state.row_codec import decode_row, encode_row
from streams.verification.differences import DifferenceFound
from streams.verification.reference_fold import Event, ReferenceFold, ReleaseInForce
from streams.verification.release_schedule import ReleaseSchedule
from streams.verification.verify import TOLERANCE, verify
from tests.support.simulation import SMALL
from tests.test_streams_rescoring import EPOCHS, VARIANTS, a_recorded_run


@pytest.fixture
def engine(settings: Settings) -> Iterator[sa.Engine]:
    connected = connect(settings.database.get_secret_value())
    yield connected
    connected.dispose()


def count(engine: sa.Engine, table: sa.Table) -> int:
    with engine.connect() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_is_verified_completely(engine: sa.Engine, variant: str) -> None:
    a_recorded_run(engine, VARIANTS[variant], seed=len(variant))
    told: list[tuple[int, int]] = []
    found = verify(engine, VARIANTS[variant], sample=3, progress=lambda done, of: told.append((done, of)))
    assert found.users == 5
    assert told[-1] == (5, 5)
    assert found.outcomes == count(engine, schema.outcomes) > 40
    assert found.memories == count(engine, schema.negative_memories) > 10
    assert found.uploads == count(engine, schema.click_uploads) > 10
    assert (found.not_ranked > 0) == (variant == "sampled")
    assert found.untiled >= found.outcomes // 3
    assert found.untiled_difference <= TOLERANCE
    assert set(found.metrics) == {"random", "popularity", "river", "din", "f2s", "fast", "mc2sf", "served"}


def test_epochs_of_the_same_embeddings_share_one_catalogue(engine: sa.Engine) -> None:
    a_recorded_run(engine, SMALL)
    with engine.connect() as connection:
        force = ReleaseSchedule(connection, SMALL).of_epoch
        epochs = [force(epoch) for epoch in range(EPOCHS)]
    assert len({each.versions.release for each in epochs}) == 3
    assert len({id(each.catalogue) for each in epochs}) == len({id(each.known) for each in epochs}) == 2
    assert len({each.versions.encoder for each in epochs}) == 2


def another_seq(row: Any) -> bytes:
    state = decode_row(bytes(row.state), DeviceState)
    state.seq += 1
    return encode_row(state)


ALTERATIONS = {
    "rank by mc2sf": (schema.outcomes, "ranks", lambda row: row.ranks | {"mc2sf": row.ranks["mc2sf"] % 5 + 1}),
    "rank by popularity": (
        schema.outcomes,
        "ranks",
        lambda row: row.ranks | {"popularity": row.ranks["popularity"] % 5 + 1},
    ),
    "rank by served": (schema.outcomes, "ranks", lambda row: row.ranks | {"served": row.ranks["served"] % 5 + 1}),
    "served": (schema.outcomes, "served", lambda _: "river"),
    "target_index": (schema.outcomes, "target_index", lambda row: row.target_index + 1),
    "r2_age": (schema.outcomes, "r2_age", lambda row: row.r2_age + 1),
    "history": (schema.outcomes, "history", lambda row: row.history + 1),
    "release": (schema.outcomes, "fast", lambda row: row.fast + 1),
    "r2": (schema.negative_memories, "r2", lambda _: np.ones(4, "<f4").tobytes()),
    "size": (schema.negative_memories, "size", lambda row: row.size + 1),
    "uploads": (schema.click_uploads, "items", lambda row: bytes(row.items)[8:] + bytes(8)),
    "seq": (schema.user_snapshots, "state", another_seq),
    "ndcg@10": (schema.metric_points, "ndcg_10", lambda row: row.ndcg_10 / 2),
}
SOME = {
    schema.user_snapshots: schema.user_snapshots.c.side == "device",
    schema.metric_points: (schema.metric_points.c.subset == "all") & (schema.metric_points.c.form == "cumulative"),
}


@pytest.mark.parametrize("field", ALTERATIONS)
def test_an_altered_value_is_named(engine: sa.Engine, field: str) -> None:
    a_recorded_run(engine, SMALL)
    table, column, change = ALTERATIONS[field]
    with engine.begin() as connection:
        newest = "epoch" if "epoch" in table.c else "window"
        query = sa.select(table).where(SOME.get(table, sa.true())).order_by(table.c[newest].desc()).limit(1)
        row = connection.execute(query).one()
        key = sa.and_(*(c == getattr(row, c.name) for c in table.primary_key))
        connection.execute(sa.update(table).where(key).values({column: change(row)}))
    with pytest.raises(DifferenceFound) as told:
        verify(engine, SMALL)
    (difference,) = told.value.args
    assert difference.field == field
    assert field in str(difference)


def test_a_lost_event_is_noticed(engine: sa.Engine) -> None:
    a_recorded_run(engine, SMALL)
    i = schema.interactions.c
    with engine.begin() as connection:
        last = connection.execute(sa.select(i.user, sa.func.max(i.seq)).where(i.kind == Kind.CLICK)).one()
        connection.execute(sa.delete(schema.interactions).where(i.user == last[0], i.seq == last[1]))
    with pytest.raises(DifferenceFound):
        verify(engine, SMALL)


def test_a_list_made_for_ranking_is_verified_in_its_own_order() -> None:
    release = ReleaseInForce(Versions(), [3, 4, 8, 9], frozenset([3, 4, 8, 9]))
    lists = {}
    for last in (Kind.CANDIDATE, Kind.EXPOSURE):
        kinds = (Kind.CANDIDATE, Kind.CANDIDATE, Kind.CLICK, last)
        group = [Event(i, item, kind, 1, 7, 0) for i, (item, kind) in enumerate(zip((9, 3, 4, 8), kinds, strict=True))]
        (click,) = ReferenceFold("u", SMALL, lambda _: release, lambda _: []).fold(group).ranked
        lists[last] = click.candidates.keys
    assert lists[Kind.CANDIDATE] == [9, 3, 4, 8]
    assert lists[Kind.EXPOSURE] != [9, 3, 4, 8], "what was shown is shuffled"
