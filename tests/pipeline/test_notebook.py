"""The notebook of the documentation runs on a finished project and shows frames, predictions and a comparison."""

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "explore.ipynb"


def outputs(cell: Any) -> dict[str, str]:
    """Return the last output of each MIME type of a cell; printed text is `text/plain` too."""
    shown: dict[str, str] = {}
    for output in cell.outputs:
        shown |= {"text/plain": output.text} if output.output_type == "stream" else output.data
    return shown


@pytest.mark.timeout(600)
def test_the_notebook_runs(finished_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(finished_project)}}).execute()
    shown = [(cell.source, outputs(cell)) for cell in notebook.cells if cell.cell_type == "code"]
    by_start = {source.splitlines()[-1]: output for source, output in shown}

    metrics = next(output for source, output in shown if source.startswith("metrics = "))
    assert "retrieval/r1" in metrics["text/plain"]
    assert any("image/png" in output for _, output in shown)
    assert by_start["search"]["text/plain"].startswith("RetrievalPipeline(task='retrieval'")
    found = by_start["search(first.text, videos)"]["text/html"]
    assert found.count("data:image/jpeg;base64,") == 8
    assert "score" in found
    comparison = by_start["comparison"]["text/plain"]
    assert comparison.startswith("Comparison(mean_difference=")
    assert "items=8" in comparison


def test_no_output_is_committed() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
    assert os.path.getsize(NOTEBOOK) < 20_000
