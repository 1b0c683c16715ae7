# SPDX-License-Identifier: Apache-2.0
"""Translates CompVis configs (the model section of their YAML) to specs.

Names that mislead: `attn_resolutions` of a first stage are pixels at its nominal
resolution, `attention_resolutions` of a UNet are factors of downsampling. CompVis's
schedule "linear" is "scaled_linear" here, and its "sqrt_linear" is "linear".
"""

from collections.abc import Mapping
from typing import Any

from ldm_jax.diffusion.process import PREDICTIONS
from ldm_jax.diffusion.weighting import DISTANCES
from ldm_jax.files.errors import shown
from ldm_jax.files.value_types import MAX_FLOAT32, MIN_FLOAT32
from ldm_jax.interop.compvis.condition import condition_from_compvis
from ldm_jax.interop.compvis.section import Section, section_params
from ldm_jax.interop.config_fields import AUTOENCODER, UNET, check_value, read_fields

# Name in CompVis -> name here.
SCHEDULES = {
    "linear": "scaled_linear",
    "sqrt_linear": "linear",
    "cosine": "cosine",
    "sqrt": "sqrt",
}
# How the condition enters the UNet.
CONDITIONING_KEYS = (None, "concat", "crossattn", "hybrid", "adm")
# Of first stages; the second computes the first in another way.
ATTENTION_TYPES = ("vanilla", "vanilla-xformers", "linear", "none")


def spec_from_compvis(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translates a CompVis config into a spec (see `networks`).

    Args:
      config: the whole YAML as a dict, its "model" section, or that section's "params".

    Returns:
      The spec; "new_attention_order" in it is for `convert.import_compvis`.

    Raises:
      ValueError: a field is unknown, missing, or asks for what is not supported.
    """
    params = _model_params(config)
    if "unet_config" in params:
        return _latent_diffusion(params)
    if "ddconfig" in params:
        return {
            "task": "first_stage",
            "autoencoder": _autoencoder("model.params", params),
            "latent_scale": 1.0,
        }
    raise ValueError(
        "the config describes neither a first stage (ddconfig) nor a latent diffusion "
        f"model (unet_config): its fields are {shown(sorted(map(str, params)))}."
    )


def _latent_diffusion(params) -> dict[str, Any]:
    """Translates the params of `ldm.models.diffusion.ddpm.LatentDiffusion`."""
    top = Section("model.params", params)
    first_stage = top.section("first_stage_config")
    if "ddconfig" in first_stage:
        autoencoder = _autoencoder("first_stage_config.params", first_stage)
    else:  # IdentityFirstStage: diffusion in pixel space
        autoencoder = {"bottleneck": "pixels"}
    unet, new_order = _unet(top.section("unet_config"))
    schedule = {
        "kind": SCHEDULES[top.choose("beta_schedule", "linear", SCHEDULES)],
        "num_timesteps": top.take("timesteps", 1000, int),
    }
    start = top.take("linear_start", 1e-4, float)
    end = top.take("linear_end", 2e-2, float)
    if schedule["kind"] != "cosine":
        schedule.update(start=float(start), end=float(end))
    elif top.take("cosine_s", 8e-3, float) != 8e-3:
        raise ValueError(
            f"cosine_s of the config must be 0.008: got {params['cosine_s']}, which is "
            "not supported."
        )
    if share := top.take("v_posterior", 0.0, float):
        schedule["posterior_beta_share"] = float(share)
    condition = condition_from_compvis(
        top.need("cond_stage_config"),
        top.take("cond_stage_key", "image", str),
        top.choose("conditioning_key", None, CONDITIONING_KEYS),
        autoencoder,
        unet.get("num_classes"),
        unet.get("context_dim"),
    )
    spec = {
        "task": "latent_diffusion",
        "autoencoder": autoencoder,
        "latent_scale": _scale(top.take("scale_factor", 1.0, float)),
        "unet": unet,
        "condition": condition,
        "schedule": schedule,
        "prediction": top.choose("parameterization", "eps", PREDICTIONS),
        "objective": {
            "distance": top.choose("loss_type", "l2", DISTANCES),
            "simple_weight": float(top.take("l_simple_weight", 1.0, float)),
            "elbo_weight": float(top.take("original_elbo_weight", 0.0, float)),
            "learn_log_variance": top.take("learn_logvar", False, bool),
        },
    }
    if new_order:
        spec["new_attention_order"] = True
    top.take("concat_mode")
    top.take("scale_by_std", None, bool | None)
    top.take("cosine_s")
    top.take("cond_stage_forward")
    top.refuse("given_betas", "split_input_params")
    top.done()
    return spec


def image_size_of(config: Mapping[str, Any]) -> int | None:
    """Reads the side of the images that a CompVis config was trained on, in pixels.

    Args:
      config: as for `spec_from_compvis`, which has accepted it.

    Returns:
      None where the config does not say.
    """
    params = _model_params(config)
    if "ddconfig" in params:
        return params["ddconfig"].get("resolution")
    side = params.get("image_size")  # of the latents
    ddconfig = section_params(params["first_stage_config"]).get("ddconfig", {})
    f = 2 ** (len(ddconfig["ch_mult"]) - 1) if "ch_mult" in ddconfig else 1
    return f * side if isinstance(side, int) else None


def _model_params(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the params of the model that a config describes."""
    section = config.get("model", config)
    check_value("model", section, Mapping)
    params = section.get("params", section)
    check_value("model.params", params, Mapping)
    return params


def _scale(value: float) -> float:
    """Returns the scale of latents, which float32 must hold: they are divided by it."""
    if not MIN_FLOAT32 <= value <= MAX_FLOAT32:
        raise ValueError(
            "model.params.scale_factor of the config must be above 0 in single "
            f"precision: got {value}."
        )
    return float(value)


def _autoencoder(where: str, params) -> dict[str, Any]:
    """Translates the params of AutoencoderKL, VQModel or VQModelInterface."""
    top = Section(where, params)
    encoder = Section(f"{where}.ddconfig", top.need("ddconfig"))
    attn_type = encoder.choose("attn_type", "vanilla", ATTENTION_TYPES)
    fields = read_fields(AUTOENCODER, "compvis", encoder.field, encoder.where)
    pixels = set(encoder.take("attn_resolutions", (), tuple[int, ...]))
    resolution = encoder.take("resolution", 256, int)
    num_levels = len(fields["channel_mult"])
    levels = [level for level in range(num_levels) if resolution >> level in pixels]
    spec = {
        **fields,
        "attention_levels": tuple(levels) if attn_type != "none" else (),
        "mid_attention": attn_type != "none",
        "embed_dim": top.take("embed_dim", fields["latent_channels"], int),
        "bottleneck": "kl" if encoder.take("double_z", True, bool) else "vq",
    }
    if attn_type == "linear" or encoder.take("use_linear_attn", False, bool):
        spec["attn_type"] = "linear"
    codes = top.take("n_embed", None, int | None)
    if (codes is None) == (spec["bottleneck"] == "vq"):
        raise ValueError(
            f"{where} of the config must have n_embed for a VQ model (double_z: false) "
            f"and only there: got n_embed={codes}, bottleneck {spec['bottleneck']}."
        )
    if codes is not None:
        spec["num_codes"] = codes
    if not encoder.take("resamp_with_conv", True, bool):
        raise ValueError(
            f"{where}.ddconfig.resamp_with_conv must be true: got false, which is not "
            "supported."
        )
    encoder.refuse("give_pre_end")
    encoder.done()
    top.refuse("colorize_nlabels", "remap")
    top.done()
    return spec


def _unet(params) -> tuple[dict[str, Any], bool]:
    """Translates the params of UNetModel; also whether q, k, v are in the new order."""
    top = Section("unet_config.params", params)
    fields = read_fields(UNET, "compvis", top.field, top.where)
    factors = set(top.take("attention_resolutions", (), tuple[int, ...]))
    head_channels = top.take("num_head_channels", -1, int)
    num_heads = top.take("num_heads", -1, int)
    has_transformer = top.take("use_spatial_transformer", False, bool)
    depth = top.take("transformer_depth", 1, int)
    context_dim = top.take("context_dim", None, int | None)
    num_levels = len(fields["channel_mult"])
    spec = {
        **fields,
        # Factors that no level has (as in bsr_sr and semantic_synthesis) never matched.
        "attention_levels": tuple(
            level for level in range(num_levels) if 2**level in factors
        ),
        "transformer_depth": depth if has_transformer else 0,
    }
    if head_channels != -1:
        spec["head_channels"] = head_channels
    elif num_heads != -1:
        spec["num_heads"] = num_heads
    else:
        raise ValueError(
            "unet_config.params must have num_heads or num_head_channels: got neither."
        )
    if has_transformer and context_dim is not None:
        spec["context_dim"] = context_dim
    if (dims := top.take("dims", 2)) != 2:
        raise ValueError(f"unet_config.params.dims must be 2: got {shown(dims)}.")
    if (heads := top.take("num_heads_upsample", -1)) not in (-1, num_heads):
        raise ValueError(
            "unet_config.params.num_heads_upsample must be num_heads, "
            f"{num_heads}: got {shown(heads)}."
        )
    new_order = top.take("use_new_attention_order", False, bool)
    top.refuse("n_embed", "use_linear_in_transformer")
    top.done()
    return spec, new_order
