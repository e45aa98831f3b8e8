"""A run whose early rescoring fails scores again after its end, and says then what is wrong."""

from __future__ import annotations

import pytest
from rich.console import Console

from deploy.local.job import EarlyRescoring
from streams.database.engine import connect
from streams.rescoring import rescore


def test_an_error_of_the_early_rescoring_is_left_to_the_one_after_the_end(database_url: str) -> None:
    engine = connect(database_url)
    assert EarlyRescoring(engine, "absent").result(Console(quiet=True)) is None
    with pytest.raises(LookupError, match="absent"):
        rescore.rescore(engine, "absent")
    engine.dispose()
