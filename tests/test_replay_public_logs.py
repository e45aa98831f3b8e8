"""The sources on real logs, in the formats of their public downloads, against the numbers that are known of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from replay.duckdb_session import MEMORY
from replay.prepare.plan import Contents, Options
from replay.prepare.prepare import prepare
from replay.sources.ebnerd import FLAT
from replay.sources.source import parse
from tests.support.logs import HEADER

PROGRAM_MB = 400  # libraries, batches under way, what duckdb does not count


@pytest.fixture(scope="session")
def raw(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the logs as they are downloaded."""
    out = tmp_path_factory.mktemp("raw")
    subprocess.run([sys.executable, data / "raw.py", out], check=True)
    return out


@pytest.fixture
def contents(tmp_path: Path) -> Callable[..., Contents]:
    def of(source: str, **options: object) -> Contents:
        plan = prepare(parse(source), Options(**options), tmp_path / "plan")
        assert not plan.refused
        return plan.contents

    return of


@pytest.mark.process
@pytest.mark.slow
def test_ml_1m_is_whole(raw: Path, contents: Callable[..., Contents]) -> None:
    found = contents(f"ml-1m:{raw / 'ml-1m'}")
    assert (found.rows, found.users, found.items) == (1_000_209, 6_040, 3_706)
    assert (found.exposures, found.clicks) == (56_174 + 107_557 + 261_197, 348_971 + 226_310)
    assert (found.first, found.last) == (956_703_932_000, 1_046_454_590_000)


@pytest.mark.process
def test_ml_100k_is_whole(raw: Path, contents: Callable[..., Contents]) -> None:
    found = contents(f"ml-100k:{raw / 'ml-100k'}", exposures="logged")
    assert (found.rows, found.users, found.items, found.clicks) == (100_000, 943, 1_682, 100_000)
    assert (found.first, found.last) == (874_724_710_000, 893_286_638_000)


@pytest.mark.process
def test_steam_has_every_dated_review(raw: Path, data: Path, contents: Callable[..., Contents]) -> None:
    table = pq.read_table(data / "steam_au_reviews.parquet", columns=["user_id", "item_id", "timestamp"])
    dated = table.filter(pc.is_valid(table["timestamp"]))
    source = f"steam:{raw / 'steam' / 'steam_reviews.json.gz'}"
    found = contents(source, exposures="logged")
    assert found.clicks == found.rows == dated.num_rows == 49_070
    assert (found.users, found.items) == (len(dated["user_id"].unique()), len(dated["item_id"].unique()))
    simulated = contents(source)
    assert simulated.clicks == 49_070
    assert 2.5 < simulated.exposures / simulated.clicks <= 3


def test_ebnerd_has_every_article_in_view_and_each_past_click_once(
    data: Path, contents: Callable[..., Contents]
) -> None:
    found = contents(f"ebnerd:{data}")
    assert (found.clicks, found.clicks + found.exposures, found.impressions) == (50_273, 583_054, 50_080)
    assert found.users == 1_935
    shown = pq.read_table(data / FLAT[0], columns=["user_id", "timestamp"]).group_by("user_id")
    first = dict(zip(*shown.aggregate([("timestamp", "min")]).to_pydict().values(), strict=True))
    past = pq.read_table(data / FLAT[1], columns=["user_id", "timestamp", "item_id"]).to_pydict().values()
    early = {click for click in zip(*past, strict=True) if click[1] < first.get(click[0], click[1] + 1)}
    assert found.past_clicks == len(early)


@pytest.mark.process
@pytest.mark.slow
def test_memory_stays_within_what_duckdb_may_use_and_the_program(tmp_path: Path) -> None:
    rows, path = 3_000_000, tmp_path / "log.csv"
    generator = np.random.default_rng(1)
    with path.open("w") as file:
        file.write(HEADER)
        for _ in range(rows // 100_000):
            users, items, times = (generator.integers(0, n, 100_000) for n in (50_000, 20_000, 10**8))
            times += 1_600_000_000
            file.writelines(f"u{u},{i},{t},click\n" for u, i, t in zip(users, items, times, strict=True))
    peak = _peak_mb([str(Path(sys.executable).parent / "mc2sf"), "data", "inspect", f"log:{path}"])
    assert peak < float(MEMORY.removesuffix("MB")) + PROGRAM_MB


def _peak_mb(command: list[str]) -> float:
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        try:
            peak = max(peak, process.memory_info().rss)
            process.wait(0.1)
        except (psutil.TimeoutExpired, psutil.NoSuchProcess):
            continue
    assert process.returncode == 0
    return peak / 1e6
