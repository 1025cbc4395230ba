"""The notebook of the documentation runs as it stands, and shows what it says."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebooks" / "first.ipynb"


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    trained, report, answers, fast, longer = (
        cell.outputs for cell in notebook.cells if cell.cell_type == "code"
    )
    assert "of 360 test images are right" in trained[-1].data["text/plain"]
    [progress] = [output for output in trained if output.output_type == "display_data"]
    assert re.match(r"step (\d+)/\1  loss ", progress.data["text/plain"])
    assert not [output for output in trained if "\x1b" in str(output)]
    assert report[-1].data["text/html"].startswith("<iframe srcdoc=")
    assert answers[-1].data["text/plain"].count("(") == 4
    assert "top-1" in fast[-1].text
    assert "Run(" in longer[-1].data["text/plain"]
