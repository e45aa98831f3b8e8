"""The notebook of the documents runs from its first cell to its last, on a log that it writes."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.docs import ROOT

NOTEBOOK = ROOT / "docs" / "own_log.ipynb"


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert not any(cell.outputs or cell.execution_count for cell in code)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Jupyter's own
def test_the_notebook_works_from_the_csv_to_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = {cell.source: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    figures = [source for source, of in outputs.items() if any("image/png" in each.get("data", {}) for each in of)]
    assert figures == ["plots.with_intervals(shop)", "plots.over_time(shop)"]
    assert (tmp_path / "runs" / "shop" / "summary.json").is_file()
    last = outputs['compare(shop, "runs/shop").differences[0].explanation'][0]["data"]["text/plain"]
    assert "with the same candidates" in last
