"""The notebooks run from top to bottom, at their small setting, and store no outputs."""

from pathlib import Path

import nbclient
import nbformat
import pytest
from comparing import EPS, roundings

from distilbert_tf.checkpoints.config import load_config
from distilbert_tf.checkpoints.hub import find_checkpoint

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
PICTURES = 3  # in each of them


def test_the_notebooks_are_there() -> None:
    names = [
        "01_quickstart.ipynb",
        "02_finetuning.ipynb",
        "03_serving.ipynb",
        "04_distillation.ipynb",
    ]
    assert [path.name for path in NOTEBOOKS] == names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_stores_no_outputs(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert all(not cell.outputs for cell in cells if cell.cell_type == "code")
    assert all(cell.execution_count is None for cell in cells if cell.cell_type == "code")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(path: Path, demo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILBERT_TF_SMALL", "1")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    printed = "".join(out.text for out in outputs if out.output_type == "stream")
    config, _ = load_config(find_checkpoint(demo).config)
    relative_difference = float(printed.rsplit(": ", 1)[1])  # is what each prints last
    assert relative_difference <= roundings(config) * EPS
    assert sum("image/png" in out.get("data", {}) for out in outputs) == PICTURES
