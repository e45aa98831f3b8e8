"""Every small log of the folder of cases gives what docs/log-cases.md says.

With LOG_CASES=write the results of the table are written again, to be looked at with `git diff`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.cases import PAGE, Case, outcome
from tests.support.cases import cases as table
from tests.support.command import Command


@pytest.mark.parametrize("case", table(), ids=lambda case: case.command)
def test_a_log_gives_what_the_table_says(mc2sf: Command, cases: Path, case: Case) -> None:
    found = outcome(mc2sf, cases, case.command)
    if os.environ.get("LOG_CASES") == "write":
        PAGE.write_text(PAGE.read_text().replace(case.line(), case.line(found)))
    else:
        assert found == case.result


def test_the_table_has_every_log_of_the_folder(cases: Path) -> None:
    assert {path.name for path in cases.iterdir()} - {"README.md"} == {case.file for case in table()}
