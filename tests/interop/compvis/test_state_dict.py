# SPDX-License-Identifier: Apache-2.0
"""Round trips of published checkpoints; tensors that do not fit are listed by name."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditions.registry import make_condition
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.interop.cannot_express import CannotExpress
from ldm_jax.interop.compvis.buffers import schedule_buffers
from ldm_jax.interop.compvis.read_config import spec_from_compvis
from ldm_jax.interop.compvis.state_dict import ema_name, export_compvis, import_compvis
from ldm_jax.interop.compvis.write_config import compvis_from_spec
from ldm_jax.interop.layouts import NamesDiffer
from ldm_jax.interop.networks import network_rows
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.unet import UNet
from ldm_jax.types import Conditioning
from tests.compiling import jit
from tests.interop import published
from tests.interop.states import (
    channels_last,
    load_golden,
    make_state,
    relative_error,
)

# Published with moving averages; their configs have `use_ema: false` otherwise.
HAS_EMA = set(published.DIFFUSION) - {"cin256-v2", "txt2img-1p4B-eval"}


def zeros_like_rows(spec):
    """Parameters of a model, taking no memory: every element is the same zero."""
    zero = np.zeros((), np.float32)
    return {
        network: _unflatten(
            {row.ours: np.broadcast_to(zero, row.shape) for row in rows}
        )
        for network, rows in network_rows(spec).items()
    }


def _unflatten(flat):
    tree = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = functools.reduce(
            lambda node, key: node.setdefault(key, {}), parents, tree
        )
        node[last] = leaf
    return tree


@functools.cache
def keys():
    return published.read_keys()


def names_and_shapes(name):
    """Those our exporter gives a model at full size; nothing is computed."""
    spec = spec_from_compvis({"model": {"params": published.ALL[name]}})
    params = zeros_like_rows(spec)
    ema = params if name in HAS_EMA else None
    extras = {"scale_factor": np.float32(1)} if "scale_factor" in keys()[name] else {}
    state = export_compvis(spec, params, ema, extras)
    return {key: list(array.shape) for key, array in state.items()}


LARGE = {"txt2img-1p4B-eval", "text2img256", "layout2img-openimages256", "cin256"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n
        for n in published.ALL
    ],
)
def test_names_and_shapes_are_those_of_the_published_checkpoint(name):
    """Golden: every tensor of the 22 checkpoints, none missing, none besides."""
    assert names_and_shapes(name) == keys()[name]


def round_trip(state, spec):
    """Imports both sets of weights and exports them."""
    raw = import_compvis(state, spec, "raw")
    ema = None
    if "model_ema.decay" in state:
        averaged = import_compvis(state, spec, "ema")
        assert averaged.used == "ema"
        ema = {"unet": averaged.params["unet"]}
    return export_compvis(raw.spec, raw.params, ema, raw.extras)


def assert_equal_states(actual, expected):
    assert set(actual) == set(expected)
    for name, array in expected.items():
        assert actual[name].shape == array.shape and actual[name].dtype == array.dtype
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


GOLDEN_MODELS = [
    "tiny-kl-f8",
    "tiny-vq-f8",
    "tiny-celeba256",
    "tiny-cin256",
    "tiny-lsun_churches256",
    "tiny-text2img256",
]


@pytest.mark.parametrize("name", GOLDEN_MODELS)
def test_a_round_trip_changes_no_bit(name):
    """Identity: raw and averaged weights, buffers, unused layers of golden models."""
    state, spec, _ = load_golden(name)
    assert_equal_states(round_trip(state, spec), state)


SMALL = sorted({"inpainting_big", "bsr_sr", "semantic_synthesis256", "cin256-v2"})


@pytest.mark.parametrize("name", [*SMALL, "layout2img-openimages256", "vq-f4-noattn"])
def test_a_round_trip_of_narrowed_published_models_changes_no_bit(name):
    """Identity: the kinds of model that no golden one covers, 32 channels wide."""
    spec = spec_from_compvis(published.shrink(published.ALL[name]))
    params = zeros_like_rows(spec)
    shapes = export_compvis(spec, params, params if name in HAS_EMA else None)
    state = make_state({key: array.shape for key, array in shapes.items()}, spec)
    assert_equal_states(round_trip(state, spec), state)


@pytest.mark.slow
@pytest.mark.parametrize("name", published.ALL)
def test_a_round_trip_at_full_size_changes_no_bit(name):
    """Identity: all 22, one at a time; the largest holds 6 GB."""
    spec = spec_from_compvis(published.ALL[name])
    state = make_state(keys()[name], spec)
    raw = import_compvis(state, spec, "raw")
    ema = None
    if name in HAS_EMA:
        averaged = import_compvis(state, spec, "ema").params
        ema = {"unet": averaged["unet"]}
    result = export_compvis(raw.spec, raw.params, ema, raw.extras)
    assert_equal_states(result, state)


def test_stable_diffusion_goes_in_and_out():
    """Identity: UNet with averages, VAE and CLIP, narrowed; a buffer more is let be."""
    spec = spec_from_compvis(published.shrink(published.STABLE_DIFFUSION_1))
    spec["condition"] |= dict(width=32, depth=2, num_heads=4, vocab_size=50)
    spec["unet"]["context_dim"] = 32
    params = zeros_like_rows(spec)
    shapes = export_compvis(spec, params, params)
    state = make_state({key: array.shape for key, array in shapes.items()}, spec)
    text = "cond_stage_model.transformer.text_model."
    positions = {f"{text}embeddings.position_ids": np.arange(77)[None]}
    raw = import_compvis(state | positions, spec, "raw")
    assert set(positions) <= set(raw.extras)
    assert_equal_states(round_trip(state | positions, spec), state)
    name = f"{text}encoder.layers.1.self_attn.q_proj.weight"
    kernel = raw.params["conditioner"]["layer_1"]["attn"]["q"]["kernel"]
    np.testing.assert_array_equal(kernel, state[name].T)


@pytest.mark.slow
def test_stable_diffusion_has_its_published_size():
    """Paper: tensors and parameters of the three networks of version 1."""
    spec = spec_from_compvis(published.STABLE_DIFFUSION_1)
    assert spec["condition"]["encoder"] == "clip" and spec["latent_scale"] == 0.18215
    state = export_compvis(spec, zeros_like_rows(spec))
    sizes = {
        "model.diffusion_model.": (686, 859_520_964),
        "first_stage_model.": (248, 83_653_863),
        "cond_stage_model.": (196, 123_060_480),
    }
    for prefix, expected in sizes.items():
        arrays = [x for name, x in state.items() if name.startswith(prefix)]
        assert (len(arrays), sum(x.size for x in arrays)) == expected


@pytest.mark.parametrize("name", ["tiny-kl-f8", "tiny-vq-f8"])
def test_an_imported_first_stage_computes_what_the_original_does(name):
    """Golden: moments and image of the original; float32 on a CPU."""
    state, spec, golden = load_golden(name)
    params = import_compvis(state, spec).params["autoencoder"]
    model = Autoencoder(**spec["autoencoder"])
    image = channels_last(golden["image"])
    moments = jit(functools.partial(model.apply, method="encode"))(
        {"params": params}, image
    )
    assert relative_error(moments, channels_last(golden["moments_or_prequant"])) < 1e-4
    z = channels_last(golden["z"])
    decoded = jit(functools.partial(model.apply, method="decode"))(
        {"params": params}, z
    )
    assert relative_error(decoded, channels_last(golden["dec"])) < 1e-4


DENOISERS = [
    "tiny-celeba256",
    "tiny-cin256",
    "tiny-lsun_churches256",
    "tiny-text2img256",
]


@pytest.mark.parametrize("name", DENOISERS)
def test_an_imported_denoiser_computes_what_the_original_does(name):
    """Golden: eps of the original's raw weights, from its own condition."""
    state, spec, golden = load_golden(name)
    params = import_compvis(state, spec, "raw").params
    cond = Conditioning()
    fields = {"class_label": "label", "tokens": "tokens"}
    for expected, actual in fields.items():
        if expected in golden:
            conditioner = make_condition(**spec["condition"])
            batch = {actual: jnp.asarray(golden[expected], jnp.int32)}
            cond = conditioner.encode(params["conditioner"], batch)
            assert relative_error(cond.context, golden["context"]) < 1e-4
    z_t, t = channels_last(golden["x_t"]), jnp.asarray(golden["t"])
    unet = UNet(**spec["unet"])
    eps = jit(unet.apply)({"params": params["unet"]}, z_t, t, cond)
    assert relative_error(eps, channels_last(golden["eps"])) < 1e-4


def test_averaged_weights_are_taken_where_there_are_any():
    """`model_ema.*` differ from the raw ones; "raw" never takes them."""
    state, spec, _ = load_golden("tiny-celeba256")
    ema, raw = import_compvis(state, spec), import_compvis(state, spec, "raw")
    name = "model.diffusion_model.input_blocks.0.0.bias"
    bias = ema.params["unet"]["conv_in"]["bias"]
    assert (ema.used, raw.used) == ("ema", "raw")
    np.testing.assert_array_equal(bias, state[ema_name(name)])
    np.testing.assert_array_equal(raw.params["unet"]["conv_in"]["bias"], state[name])
    plain, spec, _ = load_golden("tiny-kl-f8")
    assert import_compvis(plain, spec).used == "raw"
    with pytest.raises(ValueError, match='"ema" or "raw"'):
        import_compvis(plain, spec, "both")


def test_counters_without_averages_are_no_averages():
    """A checkpoint cut down to its raw weights; one whose counters were lost."""
    state, spec, _ = load_golden("tiny-celeba256")
    counters = {"model_ema.decay", "model_ema.num_updates"}
    raw = {n: x for n, x in state.items() if n[:10] != "model_ema." or n in counters}
    averaged = {n: x for n, x in state.items() if n not in counters}
    assert import_compvis(raw, spec).used == "raw"
    imported = import_compvis(averaged, spec)
    name = ema_name("model.diffusion_model.input_blocks.0.0.bias")
    assert imported.used == "ema"
    np.testing.assert_array_equal(
        imported.params["unet"]["conv_in"]["bias"], state[name]
    )


def test_the_latent_scale_is_the_checkpoints_else_the_configs():
    state, spec, golden = load_golden("tiny-lsun_churches256")
    assert import_compvis(state, spec).spec["latent_scale"] == golden["scale_factor"]
    state, spec, _ = load_golden("tiny-celeba256")
    spec["latent_scale"] = 0.25
    assert import_compvis(state, spec).spec["latent_scale"] == 0.25


def test_missing_left_over_and_misshapen_tensors_are_listed_by_name():
    state, spec, _ = load_golden("tiny-kl-f8")
    lacking = dict(state)
    del lacking["encoder.conv_in.bias"], lacking["decoder.conv_out.weight"]
    lacking["quant_conv.bias"] = np.zeros(3, np.float32)
    with pytest.raises(NamesDiffer) as error:
        import_compvis(lacking, spec)
    message = str(error.value)
    assert "missing: encoder.conv_in.bias (32,)" in message
    assert "missing: decoder.conv_out.weight (3, 32, 3, 3)" in message
    assert "shape of quant_conv.bias: got (3,), expected (8,)" in message
    more = state | {"encoder.extra.weight": np.zeros(2)}
    with pytest.raises(NamesDiffer, match=r"left over: encoder\.extra\.weight \(2,\)"):
        import_compvis(more, spec)


def test_averages_that_are_not_complete_stop_the_import():
    state, spec, _ = load_golden("tiny-celeba256")
    del state["model_ema.diffusion_modelout2bias"]
    with pytest.raises(
        NamesDiffer, match=r"missing: model_ema\.diffusion_modelout2bias"
    ):
        import_compvis(state, spec)


def test_another_schedule_stops_the_import():
    state, spec, _ = load_golden("tiny-celeba256")
    spec["schedule"]["end"] = 0.0155
    with pytest.raises(NamesDiffer, match=r"noise schedule is not the config's"):
        import_compvis(state, spec)
    state["betas"] = state["betas"][:500]
    with pytest.raises(NamesDiffer, match=r"betas: got \(500,\), expected \(1000,\)"):
        import_compvis(state, spec)


@pytest.mark.parametrize("name", ["tiny-celeba256", "tiny-lsun_churches256"])
def test_schedule_buffers_are_the_originals_bit_for_bit(name):
    """Golden: three of the twelve tables; the rest agree with our own schedule."""
    _, spec, golden = load_golden(name)
    buffers = schedule_buffers(spec["schedule"])
    for table in ("betas", "alphas_cumprod", "posterior_log_variance_clipped"):
        np.testing.assert_array_equal(buffers[table], golden[f"sched_{table}"])
    ours = make_schedule(**spec["schedule"])
    assert np.array_equal(buffers["posterior_mean_coef1"], ours.posterior_mean_z_0)
    assert np.array_equal(buffers["posterior_mean_coef2"], ours.posterior_mean_z_t)


def test_discriminators_and_lpips_in_a_checkpoint_are_tolerated():
    state, spec, _ = load_golden("gan-vq-f8")
    imported = import_compvis(state, spec)
    extras = {key for key in state if key.startswith("loss.")}
    assert set(imported.extras) == extras and extras
    assert not set(export_compvis(spec, imported.params)) & extras


def test_the_new_order_of_attention_gives_the_same_parameters():
    """Identity: rows [heads, 3, dim] turned to [3, heads, dim] by hand."""
    state, spec, _ = load_golden("tiny-lsun_churches256")
    turned = {}
    for name, array in state.items():
        if "qkv" in name and "diffusion_model" in name:
            rows = array.reshape(8, 3, -1, *array.shape[1:])
            array = np.swapaxes(rows, 0, 1).reshape(array.shape)
        turned[name] = array
    old = import_compvis(state, spec).params
    new = import_compvis(turned, spec | {"new_attention_order": True}).params
    jax.tree.map(np.testing.assert_array_equal, old, new)


def test_half_precision_becomes_float32():
    state, spec, _ = load_golden("tiny-kl-f8")
    halves = {name: array.astype(np.float16) for name, array in state.items()}
    params = import_compvis(halves, spec).params
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", published.ALL)
def test_a_config_survives_the_way_there_and_back(name):
    """Identity: spec -> CompVis config -> spec."""
    spec = spec_from_compvis(published.ALL[name])
    again = spec_from_compvis(json.loads(json.dumps(compvis_from_spec(spec))))
    assert again == spec


@pytest.mark.parametrize("name", published.DIFFUSION)
def test_sections_of_an_imported_spec_are_arguments_of_our_makers(name):
    """A spec is what our config takes: nothing unknown, nothing missing."""
    spec = spec_from_compvis(published.ALL[name])
    Autoencoder(**spec["autoencoder"])
    UNet(**spec["unet"])
    make_schedule(**spec["schedule"])
    condition = dict(spec["condition"])
    if condition.get("tokenizer") == "bert":  # needs its vocabulary's file
        condition["tokenizer"] = "bytes"
    make_condition(**condition)


def test_special_conditions_of_configs_are_understood():
    """Rows of the table that no published model has."""
    params = published.DIFFUSION["celeba256"]

    def condition(target, fields, **more):
        cond = {"target": target, "params": fields}
        return spec_from_compvis(params | {"cond_stage_config": cond} | more)[
            "condition"
        ]

    clip = condition("ldm.modules.encoders.modules.FrozenCLIPEmbedder", {})
    assert clip["encoder"] == "clip" and clip["width"] == 768
    unet = {"params": params["unet_config"]["params"] | {"num_classes": 1001}}
    labels = dict(conditioning_key="adm", unet_config=unet)
    adm = condition("torch.nn.Identity", {}, **labels)
    expected = {"kind": "class", "num_classes": 1000, "width": None, "has_null": True}
    assert adm == expected
    spec = spec_from_compvis(
        params | labels | {"cond_stage_config": {"target": "torch.nn.Identity"}}
    )
    assert spec_from_compvis(compvis_from_spec(spec)) == spec
    with pytest.raises(ValueError, match='"adm" needs'):
        condition("torch.nn.Identity", {}, conditioning_key="adm")
    assert condition("torch.nn.Identity", {}) == {"kind": "none"}
    rescaler = "ldm.modules.encoders.modules.SpatialRescaler"
    fields = {"n_stages": 1, "in_channels": 5, "out_channels": 2, "bias": True}
    expected = {"kind": "semantic", "num_classes": 5, "f": 2, "out_channels": 2}
    assert condition(rescaler, fields) == expected | {"use_bias": True}
    assert condition(rescaler, {"method": "area"})["out_channels"] is None
    with pytest.raises(ValueError, match="must halve by means"):
        condition(rescaler, {"method": "nearest"})
    with pytest.raises(ValueError, match="not supported"):
        condition("somewhere.Else", {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"beta_schedule": "exotic"},
            "beta_schedule of the config must be one of linear",
        ),
        ({"given_betas": [0.1]}, "given_betas of the config must not be set"),
        ({"misspelt": 1}, r"unknown fields \['misspelt'\]"),
        ({"cosine_s": 0.1, "beta_schedule": "cosine"}, "cosine_s"),
    ],
)
def test_unsupported_fields_of_a_config_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        spec_from_compvis(published.DIFFUSION["celeba256"] | change)


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("unet_config", {"dims": 3}, "dims must be 2"),
        ("unet_config", {"n_embed": 8}, "n_embed of the config must not be set"),
        ("unet_config", {"num_head_channels": -1}, "num_heads or num_head_channels"),
        ("unet_config", {"num_heads_upsample": 2}, "num_heads_upsample must be"),
        ("first_stage_config", {"n_embed": None}, "must have n_embed"),
        (
            "first_stage_config",
            {"remap": "x.npy"},
            "remap of the config must not be set",
        ),
        ("first_stage_config", {"ddconfig": {"ch": 32}}, "lacks z_channels"),
    ],
)
def test_what_a_network_cannot_do_is_refused(section, change, message):
    params = json.loads(json.dumps(published.DIFFUSION["celeba256"]))
    params[section]["params"].update(change)
    with pytest.raises(ValueError, match=message):
        spec_from_compvis(params)


def test_a_config_of_something_else_is_refused():
    with pytest.raises(ValueError, match="neither a first stage"):
        spec_from_compvis({"model": {"params": {"layers": 3}}})


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("prediction", "v", 'predict "eps" or "x0"'),
        ("schedule", {"kind": "given", "betas": (0.1,) * 1000}, "has the schedules"),
        ("schedule", {"zero_terminal_snr": True}, "zero terminal"),
        ("autoencoder", {"attention_levels": (1,), "mid_attention": False}, "nowhere"),
        ("autoencoder", {"num_groups": 16}, "num_groups=16"),
    ],
)
def test_what_compvis_cannot_express_is_refused(section, fields, message):
    spec = spec_from_compvis(published.DIFFUSION["celeba256"])
    old = spec[section]
    spec[section] = old | fields if isinstance(fields, dict) else fields
    with pytest.raises(CannotExpress, match=message):
        compvis_from_spec(spec)


def test_a_condition_only_we_have_is_refused():
    spec = spec_from_compvis(published.DIFFUSION["celeba256"])
    parts = {"what": {"kind": "class", "num_classes": 2}}
    spec["condition"] = {"kind": "hybrid", "parts": parts}
    with pytest.raises(CannotExpress, match=r"one conditioning stage: .* of what"):
        compvis_from_spec(spec)
    with pytest.raises(CannotExpress, match="no names in the original"):
        import_compvis({}, spec)
