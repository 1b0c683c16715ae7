# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as people save them: in half precision, wrapped, inside of others."""

import jax
import ml_dtypes
import numpy as np
import pytest
import yaml

from ldm_jax.interop.compvis.state_dict import ema_name, import_compvis
from ldm_jax.interop.convert import import_model
from ldm_jax.interop.layouts import NamesDiffer
from ldm_jax.interop.safetensors import write_safetensors
from ldm_jax.interop.torch_files.writer import write_ckpt
from tests.interop.states import load_golden

FIRST_STAGE, DENOISER = "tiny-kl-f8", "tiny-celeba256"
BIAS = "model.diffusion_model.input_blocks.0.0.bias"


def assert_same_params(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_a_checkpoint_in_half_precision_is_read(dtype):
    """Every floating tensor is converted, the schedule's buffers and scale too."""
    state, spec, _ = load_golden(DENOISER)
    half = {
        n: x.astype(dtype) if np.issubdtype(x.dtype, np.floating) else x
        for n, x in state.items()
    }
    imported = import_compvis(half, spec)
    bias = imported.params["unet"]["conv_in"]["bias"]
    expected = half[ema_name(BIAS)].astype(np.float32)
    np.testing.assert_array_equal(bias, expected)


def test_a_rounded_scale_is_the_configs():
    state, spec, _ = load_golden(DENOISER)
    for config_scale, expected in (
        (0.18215, 0.18215),
        (0.5, float(np.float16(0.18215))),
    ):
        state["scale_factor"] = np.array(0.18215, np.float16)
        actual = import_compvis(state, {**spec, "latent_scale": config_scale})
        assert actual.spec["latent_scale"] == expected


@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: name.replace("diffusion_model.", "diffusion_model._orig_mod."),
    ],
)
@pytest.mark.parametrize("name", [FIRST_STAGE, DENOISER])
def test_wrappers_are_removed_and_reported(tmp_path, name, wrap):
    """Identity: the parameters of the module within."""
    state, spec, _ = load_golden(name)
    raw = {n: x for n, x in state.items() if not n.startswith("model_ema.")}
    write_ckpt(tmp_path / "a.ckpt", {wrap(n): x for n, x in raw.items()})
    result = import_model(tmp_path / "a.ckpt", spec)
    assert_same_params(result.params, import_compvis(raw, spec).params)
    assert bool(result.notes) == any(wrap(n) != n for n in raw)
    assert all(note.startswith('Removed "') for note in result.notes)


def test_a_common_prefix_is_removed_and_reported():
    state, spec, _ = load_golden(DENOISER)
    outer = {f"trainer.net.{n}": x for n, x in state.items()}
    result = import_compvis(outer, spec)
    assert_same_params(result.params, import_compvis(state, spec).params)
    assert result.notes == (f'Took the {len(state)} tensors below "trainer.net.".',)


def test_the_first_stage_of_a_diffusion_model_is_read(tmp_path):
    """With the first stage's own config, from the whole checkpoint or by key."""
    stage, spec, _ = load_golden(FIRST_STAGE)
    whole = {f"first_stage_model.{n}": x for n, x in stage.items()}
    whole |= {BIAS: np.zeros(4, np.float32), "betas": np.zeros(3, np.float32)}
    expected = import_compvis(stage, spec).params
    actual = import_compvis(whole, spec)
    assert_same_params(actual.params, expected)
    assert actual.notes[0].endswith("The 2 others are of other networks.")
    write_ckpt(tmp_path / "a.ckpt", whole)
    by_key = import_model(tmp_path / "a.ckpt", spec, key="first_stage_model")
    assert_same_params(by_key.params, expected)


def test_names_below_a_prefix_among_others_are_chosen_by_key(tmp_path):
    stage, spec, _ = load_golden(FIRST_STAGE)
    mixed = {f"vae.{n}": x for n, x in stage.items()} | {"lpips.x": np.zeros(1, "f4")}
    write_ckpt(tmp_path / "a.ckpt", mixed)
    with pytest.raises(NamesDiffer, match=r'below "vae\.", and 1 .*--key=vae'):
        import_model(tmp_path / "a.ckpt", spec)
    result = import_model(tmp_path / "a.ckpt", spec, key="vae")
    assert_same_params(result.params, import_compvis(stage, spec).params)


def test_a_folder_of_weights_alone_is_a_checkpoint(tmp_path):
    """Identity: with a config next to the weights, or given; otherwise an error."""
    state, spec, _ = load_golden(FIRST_STAGE)
    write_safetensors(tmp_path / "model.safetensors", state)
    expected = import_compvis(state, spec).params
    assert_same_params(import_model(tmp_path, spec).params, expected)
    with pytest.raises(FileNotFoundError, match=r"no model\.yaml or config\.yaml next"):
        import_model(tmp_path)
    config = {"model": {"params": {"ddconfig": {}}}}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r"model\.yaml: .*lacks"):
        import_model(tmp_path)


@pytest.mark.torch
@pytest.mark.parametrize("limit", ["100KB", "10GB"])
def test_what_accelerate_saves_is_read(tmp_path, limit):
    """Golden: accelerate's own files, in one piece and in shards."""
    torch = pytest.importorskip("torch")
    accelerate = pytest.importorskip("accelerate")
    state, spec, _ = load_golden(FIRST_STAGE)
    module = torch.nn.Module()
    for name, x in state.items():
        *path, last = name.split(".")
        inner = module
        for part in path:
            if part not in dict(inner.named_children()):
                inner.add_module(part, torch.nn.Module())
            inner = getattr(inner, part)
        inner.register_parameter(last, torch.nn.Parameter(torch.from_numpy(x)))
    accelerator = accelerate.Accelerator(cpu=True)
    accelerator.save_model(module, tmp_path, max_shard_size=limit)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (limit == "100KB")
    expected = import_compvis(state, spec).params
    assert_same_params(import_model(tmp_path, spec).params, expected)
