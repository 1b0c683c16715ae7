# SPDX-License-Identifier: Apache-2.0
"""Every kind of published model, narrowed, from its YAML to its noise."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

import ldm_jax
from ldm_jax.commands.import_ import import_weights
from ldm_jax.interop.compvis.read_config import spec_from_compvis
from ldm_jax.interop.compvis.state_dict import export_compvis
from ldm_jax.interop.torch_files.writer import write_ckpt
from tests.interop import published
from tests.interop.compvis.test_state_dict import zeros_like_rows
from tests.interop.states import GOLDEN, load_golden, make_state, relative_error

ADM = {
    "conditioning_key": "adm",
    "cond_stage_config": {"target": "torch.nn.Identity"},
    "cond_stage_key": "class_label",
}
READY_MADE = {
    "conditioning_key": "crossattn",
    "cond_stage_config": {"target": "torch.nn.Identity"},
    "cond_stage_key": "nix",
}
# name: (published model, changes of its UNet, changes of the model). Models that differ
# in their first stage alone are left out.
ZOO = {
    name: (name, {}, {})
    for name in sorted(set(published.DIFFUSION) - {"ffhq256", "lsun_beds256"})
    if name != "semantic_synthesis512"
} | {
    "retrieval": ("text2img256", {"context_dim": 24}, READY_MADE),
    "hybrid": (
        "text2img256",
        {"context_dim": 24, "in_channels": 5},
        READY_MADE | {"conditioning_key": "hybrid"},
    ),
    "adm": ("celeba256", {"num_classes": 11, "use_scale_shift_norm": True}, ADM),
    "new attention order": ("celeba256", {"use_new_attention_order": True}, {}),
    "no convolutions": ("celeba256", {"conv_resample": False}, {}),
    "no context": ("celeba256", {"use_spatial_transformer": True}, {}),
}


def narrowed(name):
    """(params of the config, state dict) with one block a level; for speed."""
    published_name, unet, model = ZOO[name]
    params = published.shrink(published.DIFFUSION[published_name]) | model
    params["unet_config"]["params"] |= {"num_res_blocks": 1} | unet
    spec = spec_from_compvis(params)
    shapes = export_compvis(spec, zeros_like_rows(spec))
    names = {key: array.shape for key, array in shapes.items()}
    return params, make_state(names, spec)


def opened(folder, params, state):
    """The model directory that the command makes of a checkpoint and its YAML."""
    write_ckpt(folder / "model.ckpt", state)
    whole = {"model": {"base_learning_rate": 1e-6, "params": params}, "data": {}}
    (folder / "config.yaml").write_text(yaml.safe_dump(whole))
    import_weights(str(folder / "model.ckpt"), str(folder / "model"))
    return ldm_jax.load(str(folder / "model"))


def latent_size(model):
    """(height, width) of the smallest latent that is not square at any level."""
    side = 2 ** (len(model.unet.channel_mult) - 1)
    return 2 * side, side


def random_inputs(model):
    """Returns random inputs of a condition, two rows, by keyword."""
    rng = np.random.default_rng(0)
    h, w = latent_size(model)
    height, width = model.autoencoder.f * h, model.autoencoder.f * w
    kind = model.conditioner.kind
    if kind in ("none", "retrieval") and model.unet.context_dim:
        inputs = dict(context=rng.standard_normal((2, 3, model.unet.context_dim)))
        extra = model.unet.in_channels - model.unet.out_channels
        if extra:
            inputs["concat"] = rng.standard_normal((2, h, w, extra))
        return {key: value.astype(np.float32) for key, value in inputs.items()}
    if kind in ("text", "layout"):
        length = model.conditioner.module.length
        return dict(tokens=rng.integers(0, 97, (2, length)))
    image = rng.uniform(-1, 1, (2, height, width, 3)).astype(np.float32)
    return {
        "none": {},
        "class": dict(class_label=np.array([1, 9])),
        "semantic": dict(segmentation=rng.integers(0, 182, (2, height, width))),
        "superres": dict(low_res=image[:, :h, :w]),
        "inpaint": dict(image=image, mask=np.float32(image[..., :1] > 0)),
    }[kind]


# Kinds of condition that no golden model has.
OTHERS = ["adm", "bsr_sr", "hybrid", "inpainting_big", "layout2img-openimages256"]


@pytest.mark.parametrize("name", [*OTHERS, "semantic_synthesis256"])
def test_a_published_kind_of_model_opens_and_takes_its_condition(tmp_path, name):
    """What the model reads of its condition fits what its denoiser takes."""
    model, weights = opened(tmp_path, *narrowed(name))
    inputs = random_inputs(model)
    shape = (2, *latent_size(model), model.unet.out_channels)
    z_t = jax.ShapeDtypeStruct(shape, jnp.float32)
    t = jax.ShapeDtypeStruct((2,), jnp.int32)

    def predict(weights, z_t, t):
        return model.denoise(weights, z_t, t, model.condition(weights, **inputs))

    assert jax.eval_shape(predict, weights, z_t, t).shape == z_t.shape


def reference_condition(reference, torch, state, params, model, weights, inputs):
    """(channels that are joined to z_t, context, labels) by the original's rules."""
    kind, concat, context, labels = model.conditioner.kind, None, None, None
    inputs = {key: torch.tensor(value) for key, value in inputs.items()}
    functional = torch.nn.functional
    if "num_classes" in params["unet_config"]["params"]:
        labels = inputs["class_label"]
    elif kind == "class":
        table = torch.tensor(state["cond_stage_model.embedding.weight"])
        context = table[inputs["class_label"]][:, None]
    elif kind in ("text", "layout"):
        context = reference.encode_tokens(state, inputs["tokens"])
    elif kind in ("none", "retrieval"):
        context, concat = inputs.get("context"), inputs.get("concat")
        concat = None if concat is None else concat.permute(0, 3, 1, 2)
    elif kind == "semantic":
        y = functional.one_hot(inputs["segmentation"], 182).permute(0, 3, 1, 2).float()
        for _ in range(2):
            y = functional.interpolate(y, scale_factor=0.5, mode="bilinear")
        mapper = torch.tensor(state["cond_stage_model.channel_mapper.weight"])
        concat = functional.conv2d(y, mapper)
    elif kind == "superres":
        concat = inputs["low_res"].permute(0, 3, 1, 2)
    else:
        image, mask = (inputs[key].permute(0, 3, 1, 2) for key in ("image", "mask"))
        seen = ((1 - mask) * (image + 1) / 2 * 2 - 1).permute(0, 2, 3, 1)
        latent = torch.tensor(np.asarray(model.moments(weights, seen.numpy())))
        shrunk = functional.interpolate(mask * 2 - 1, size=latent_size(model))
        concat = torch.cat([latent.permute(0, 3, 1, 2), shrunk], dim=1)
    return concat, context, labels


@pytest.mark.torch
@pytest.mark.parametrize("name", sorted(ZOO))
def test_a_published_kind_of_model_computes_what_the_original_does(tmp_path, name):
    """Oracle: reference.py, which the golden values of four models vouch for."""
    torch = pytest.importorskip("torch")
    from tests.interop import reference

    torch.set_num_threads(1)
    params, state = narrowed(name)
    model, weights = opened(tmp_path, params, state)
    inputs = random_inputs(model)
    cond = model.condition(weights, **inputs)
    rng = np.random.default_rng(1)
    shape = (2, *latent_size(model), model.unet.out_channels)
    z_t = rng.standard_normal(shape, np.float32)
    t = np.array([3, 700], np.int32)
    x = torch.tensor(z_t).permute(0, 3, 1, 2)
    with torch.no_grad():
        concat, context, labels = reference_condition(
            reference, torch, state, params, model, weights, inputs
        )
        if concat is not None:
            actual = np.moveaxis(np.asarray(cond.concat), -1, 1)
            assert relative_error(actual, concat.numpy()) < 1e-5
            x = torch.cat([x, concat], dim=1)
        if context is not None:
            assert relative_error(cond.context, context.numpy()) < 1e-4
        fields = params["unet_config"]["params"]
        eps = reference.denoise(state, fields, x, torch.tensor(t), context, labels)
    eps_hat = jax.jit(model.denoise)(weights, z_t, t, cond)
    assert relative_error(np.moveaxis(np.asarray(eps_hat), -1, 1), eps.numpy()) < 1e-4


@pytest.mark.torch
@pytest.mark.parametrize(
    "name", ["celeba256", "cin256", "text2img256", "lsun_churches256"]
)
def test_the_reference_computes_the_golden_values(name):
    """Golden: the original's context and eps."""
    torch = pytest.importorskip("torch")
    from tests.interop import reference

    state, _, golden = load_golden(f"tiny-{name}")
    config = (GOLDEN / f"tiny-{name}.json").read_text()
    fields = json.loads(config)["meta"]["unet_config"]["params"]
    context = golden.get("context")
    with torch.no_grad():
        if "tokens" in golden:
            encoded = reference.encode_tokens(state, torch.tensor(golden["tokens"]))
            assert relative_error(encoded.numpy(), context) < 1e-5
        context = None if context is None else torch.tensor(context)
        x, t = torch.tensor(golden["x_t"]), torch.tensor(golden["t"])
        eps = reference.denoise(state, fields, x, t, context)
    assert relative_error(eps.numpy(), golden["eps"]) < 5e-5
