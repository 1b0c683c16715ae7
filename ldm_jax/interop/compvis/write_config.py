# SPDX-License-Identifier: Apache-2.0
"""Translates specs to CompVis configs, for its `instantiate_from_config`."""

from collections.abc import Mapping
from typing import Any

from ldm_jax.interop.cannot_express import CannotExpress
from ldm_jax.interop.compvis.read_config import SCHEDULES
from ldm_jax.interop.config_fields import (
    AUTOENCODER,
    CLIP_TEXT,
    TOKEN_TRANSFORMER,
    UNET,
    write_fields,
)
from ldm_jax.interop.networks import make_unet, token_transformer
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.clip import ClipText

# Their first stages name attention by pixels at this resolution, whatever they are fed.
NOMINAL_RESOLUTION = 256


def compvis_from_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Translates a spec (see `networks`) into a CompVis config.

    Returns:
      {"model": {"target", "params"}}, to be written as YAML.

    Raises:
      CannotExpress: the original has no option for something in the spec.
    """
    if "autoencoder" not in spec:
        raise CannotExpress(
            "a CompVis checkpoint holds a first stage or a diffusion model: this is a "
            "text encoder alone."
        )
    autoencoder = Autoencoder(**spec["autoencoder"])
    if "unet" not in spec:
        return {"model": _first_stage(autoencoder, alone=True)}
    unet = make_unet(spec)
    if spec["prediction"] not in ("eps", "x0"):
        raise CannotExpress(
            f'CompVis models predict "eps" or "x0": this one "{spec["prediction"]}".'
        )
    condition = {"f": autoencoder.f, **spec["condition"]}
    is_own = "autoencoder" not in condition
    if condition["kind"] == "inpaint" and is_own and spec["latent_scale"] != 1:
        raise CannotExpress(
            "CompVis models do not scale the latent of the image with its hole: this "
            f"one scales it by {spec['latent_scale']}."
        )
    if condition["kind"] == "hybrid":
        raise CannotExpress(
            "a CompVis model has one conditioning stage: this one has a hybrid "
            f"condition of {', '.join(condition['parts'])}."
        )
    key, conditioning_key, cond_stage = _condition(condition, unet)
    objective = spec.get("objective", {})
    params = {
        **_schedule(spec["schedule"]),
        "loss_type": objective.get("distance", "l2"),
        "l_simple_weight": objective.get("simple_weight", 1.0),
        "original_elbo_weight": objective.get("elbo_weight", 0.0),
        "learn_logvar": objective.get("learn_log_variance", False),
        "parameterization": spec["prediction"],
        "first_stage_key": "image",
        "cond_stage_key": key,
        "image_size": NOMINAL_RESOLUTION // autoencoder.f,
        "channels": autoencoder.embed_channels,
        "cond_stage_trainable": condition["kind"]
        in ("class", "text", "layout", "semantic"),
        "conditioning_key": conditioning_key,
        "scale_factor": spec["latent_scale"],
        "use_ema": False,
        "unet_config": {
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": _unet(unet, NOMINAL_RESOLUTION // autoencoder.f),
        },
        "first_stage_config": _first_stage(autoencoder, alone=False),
        "cond_stage_config": cond_stage,
    }
    return {
        "model": {
            "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
            "params": params,
        }
    }


def _schedule(schedule) -> dict[str, Any]:
    """Translates the arguments of `make_schedule`."""
    kinds = {kind: compvis for compvis, kind in SCHEDULES.items()}
    kind = schedule.get("kind", "scaled_linear")
    if kind not in kinds or schedule.get("zero_terminal_snr"):
        raise CannotExpress(
            f"CompVis has the schedules {', '.join(kinds)} without a zero terminal "
            f"SNR: this model's is {dict(schedule)}."
        )
    result = {
        "beta_schedule": kinds[kind],
        "timesteps": schedule.get("num_timesteps", 1000),
        "v_posterior": schedule.get("posterior_beta_share", 0.0),
    }
    if kind != "cosine":
        result["linear_start"] = schedule.get("start", 0.0015)
        result["linear_end"] = schedule.get("end", 0.0195)
    return result


def _first_stage(model: Autoencoder, alone: bool) -> dict[str, Any]:
    """Translates an autoencoder: as a model itself (`alone`) or as a first stage."""
    if model.bottleneck == "pixels":
        return {"target": "ldm.models.autoencoder.IdentityFirstStage"}
    attn_type = model.attn_type if model.mid_attention else "none"
    if model.attention_levels and not model.mid_attention:
        raise CannotExpress(
            "CompVis first stages have attention in the middle or nowhere: this one "
            f"has mid_attention=False and attention_levels={model.attention_levels}."
        )
    if model.num_groups != 32:
        raise CannotExpress(
            "CompVis first stages have 32 groups in every norm: this one has "
            f"num_groups={model.num_groups}."
        )
    params = {
        "embed_dim": model.embed_channels,
        "lossconfig": {"target": "torch.nn.Identity"},
        "ddconfig": {
            **write_fields(AUTOENCODER, "compvis", model),
            "double_z": model.bottleneck == "kl",
            "resolution": NOMINAL_RESOLUTION,
            "attn_resolutions": [
                NOMINAL_RESOLUTION >> n for n in model.attention_levels
            ],
            "attn_type": attn_type,
        },
    }
    if model.bottleneck == "kl":
        return {"target": "ldm.models.autoencoder.AutoencoderKL", "params": params}
    params["n_embed"] = model.num_codes
    name = "VQModel" if alone else "VQModelInterface"
    return {"target": f"ldm.models.autoencoder.{name}", "params": params}


def _unet(unet, image_size: int) -> dict[str, Any]:
    """Translates a UNet."""
    params = {
        **write_fields(UNET, "compvis", unet),
        "image_size": image_size,
        "in_channels": unet.in_channels or unet.out_channels,
        "attention_resolutions": [2**level for level in unet.attention_levels],
        "legacy": False,
    }
    if unet.num_heads:
        params["num_heads"] = unet.num_heads
    else:
        params["num_head_channels"] = unet.head_channels
    if unet.transformer_depth:
        params["use_spatial_transformer"] = True
        params["transformer_depth"] = unet.transformer_depth
        params["context_dim"] = unet.context_dim
    if unet.num_classes is None:
        del params["num_classes"]
    return params


def _condition(condition, unet) -> tuple[str, str | None, Any]:
    """Translates a condition: cond_stage_key, conditioning_key, cond_stage_config."""
    kind = condition["kind"]
    encoders = "ldm.modules.encoders.modules"
    if kind == "retrieval":  # embeddings are handed in ready-made
        return "nix", "crossattn", {"target": "torch.nn.Identity"}
    if kind == "none":
        if unet.context_dim is None:
            return "image", None, "__is_unconditional__"
        return "caption", "crossattn", {"target": "torch.nn.Identity"}
    if kind == "class":
        rows = condition["num_classes"] + condition.get("has_null", True)
        width = condition.get("width", 512)
        if width is None:
            return "class_label", "adm", {"target": "torch.nn.Identity"}
        fields = {"n_classes": rows, "embed_dim": width, "key": "class_label"}
        target = {"target": f"{encoders}.ClassEmbedder", "params": fields}
        return "class_label", "crossattn", target
    if kind in ("text", "layout"):
        model = token_transformer(condition)
        key = "coordinates_bbox" if kind == "layout" else "caption"
        if isinstance(model, ClipText):
            fields = write_fields(CLIP_TEXT, "compvis", model)
            target = {"target": f"{encoders}.FrozenCLIPEmbedder", "params": fields}
            return key, "crossattn", target
        if (model.num_heads, model.head_channels) != (8, 64):
            raise CannotExpress(
                "BERTEmbedder has 8 heads 64 wide: this model has "
                f"{model.num_heads} heads {model.head_channels} wide."
            )
        fields = {
            **write_fields(TOKEN_TRANSFORMER, "compvis", model),
            "use_tokenizer": condition.get("tokenizer") == "bert",
        }
        target = {"target": f"{encoders}.BERTEmbedder", "params": fields}
        return key, "crossattn", target
    if kind == "semantic":
        fields = {
            "n_stages": condition["f"].bit_length() - 1,
            "in_channels": condition["num_classes"],
            "out_channels": condition.get("out_channels", 3),
        }
        if condition.get("use_bias"):
            fields["bias"] = True
        target = {"target": f"{encoders}.SpatialRescaler", "params": fields}
        return "segmentation", "concat", target
    if kind == "superres":
        if condition.get("enlarge", 1) > 1:
            raise CannotExpress(
                "the original does not enlarge a small image before it is joined: got "
                f"condition.enlarge={condition['enlarge']}."
            )
        return "LR_image", "concat", {"target": "torch.nn.Identity"}
    return "masked_image", "concat", "__is_first_stage__"
