# SPDX-License-Identifier: Apache-2.0
"""The notebook of the Python interface runs, and is stored without outputs."""

import base64
import io
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOK = pathlib.Path(__file__).parents[2] / "docs/front_door.ipynb"


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook after a run in an empty folder."""
    notebook = read()
    place = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    nbclient.NotebookClient(notebook, timeout=300, resources=place).execute()
    return notebook


def pictures(cell):
    """Decodes the PNGs that a cell shows."""
    for output in cell.outputs:
        if content := output.get("data", {}).get("image/png"):
            yield np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_the_notebook_is_stored_without_outputs():
    for cell in read().cells:
        assert not cell.get("outputs") and not cell.get("execution_count")


def test_every_sheet_shows_varied_pictures(executed):
    """40 samples, 4 scales, 3 samplers, reconstructions, a walk, a histogram."""
    sheets = [
        picture
        for cell in executed.cells[2:]
        if cell.cell_type == "code"
        for picture in pictures(cell)
    ]
    assert len(sheets) == 6
    for sheet in sheets:
        assert sheet.std() > 20 and np.isfinite(sheet).all()
    samples, scales = sheets[:2]
    height = (samples.shape[0] - 2) // 4
    assert height == 16 * 4 + 2 and scales.shape[0] == samples.shape[0]


def test_the_reconstructions_have_the_psnr_of_the_model_card(executed):
    """The card: 35.4 dB on held-out digits; ten digits scatter around it."""
    text = "".join(
        output.get("text", "")
        for cell in executed.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert float(re.search(r"PSNR ([\d.]+) dB", text)[1]) > 32
