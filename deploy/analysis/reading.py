"""The ranked clicks of a run, or of the runs of several seeds, by name."""

from __future__ import annotations

from pathlib import Path

from deploy.analysis.comparison import pooled
from deploy.analysis.seeds import SEEDS_FILE, read_seeds_file, seed_folder
from deploy.runs import find
from streams.prequential.ranked_clicks import RankedClicks, ranked_clicks


def read_clicks(name: str) -> RankedClicks:
    """Return the ranked clicks of the run `name`: an id, an --out folder, or a folder of `run --seeds`.

    Raises UserError if there is none.
    """
    folder = Path(name)
    if (folder / SEEDS_FILE).is_file():
        seeds = read_seeds_file(folder).finished
        return pooled({seed: read_clicks(str(seed_folder(folder, seed))) for seed in seeds})
    found = find(name)
    try:
        with found.engine.connect() as connection:
            return ranked_clicks(connection, found.settings.run)
    finally:
        found.engine.dispose()
