# SPDX-License-Identifier: Apache-2.0
"""A run notes which LPIPS weights it has, and keeps them."""

import pytest
from etils import epath

from ldm_jax.configs import quickstart
from ldm_jax.experiment.config.resuming import may_change
from ldm_jax.experiment.resolve import resolve_config
from ldm_jax.training.checkpoints.settings import Settings
from tests.metrics.features import write_lpips


def resolved(perceptual, **lpips_section):
    """Returns (the first stage's config, its parameters of LPIPS)."""
    config = quickstart.get_config("stage=first_stage")
    config.objective.perceptual = perceptual
    config.lpips.update(lpips_section)
    config, inputs = resolve_config(config, abstract=False)
    return config, inputs.frozen.get("lpips")


def keep(workdir, config):
    Settings(config.to_dict(), may_change).write(workdir)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_lpips(tmp_path_factory.mktemp("lpips") / "a.safetensors", 0)


def test_a_run_notes_which_lpips_weights_it_has(file, tmp_path):
    """A moved file is the same run; another one's weights are not."""
    config, params = resolved("squeeze", file=file)
    assert set(params) >= {"trunk", "lin_0"} and len(config.lpips.fingerprint) == 16
    workdir = epath.Path(tmp_path)
    keep(workdir, config)

    moved = write_lpips(tmp_path / "moved.safetensors", 0)
    keep(workdir, resolved("squeeze", file=moved)[0])

    other = write_lpips(tmp_path / "other.safetensors", 1)
    with pytest.raises(ValueError, match=r"lpips\.fingerprint"):
        keep(workdir, resolved("squeeze", file=other)[0])
    with pytest.raises(ValueError, match="name the file of that run"):
        resolved("squeeze", file=other, fingerprint=config.lpips.fingerprint)


def test_without_lpips_no_file_is_read_and_with_it_one_must_be_there():
    config, params = resolved("none")
    assert params is None and config.lpips.fingerprint is None
    with pytest.raises(ValueError, match="ldm-jax weights lpips --download vgg"):
        resolved("vgg", file="nowhere")


def test_the_config_given_stays_as_it_is(file):
    config = quickstart.get_config("stage=first_stage")
    config.objective.perceptual = "squeeze"
    config.lpips.file = file
    before = config.to_dict()
    resolve_config(config, abstract=False)
    assert config.to_dict() == before
