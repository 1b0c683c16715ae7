# SPDX-License-Identifier: Apache-2.0
"""Pictures that a model draws for its card."""

import pytest

from ldm_jax.commands.export import export_weights
from ldm_jax.commands.exports.card import HubOptions
from ldm_jax.commands.import_ import import_weights
from ldm_jax.files.formats.pictures import read_image
from tests.interop import small


def test_the_model_draws_a_picture_for_its_card(tmp_path):
    source = small.checkpoint(tmp_path / "source", small.CLASSES)
    import_weights(source, str(tmp_path / "a"), image_size=8)
    hub = HubOptions(picture="draw")
    export_weights(str(tmp_path / "a"), str(tmp_path / "x"), "diffusers", hub=hub)
    sheet = read_image(tmp_path / "x" / "samples.png")
    assert sheet.shape[1] > 1.9 * sheet.shape[0] > 0 and sheet.std() > 1
    assert "![samples](samples.png)" in (tmp_path / "x" / "README.md").read_text()


def test_only_the_user_can_give_a_text_to_draw(tmp_path):
    import_weights(
        small.checkpoint(tmp_path / "source", small.TEXT), str(tmp_path / "a")
    )
    with pytest.raises(ValueError, match="this one has the condition text"):
        hub = HubOptions(picture="draw")
        export_weights(str(tmp_path / "a"), str(tmp_path / "x"), "diffusers", hub=hub)
