# SPDX-License-Identifier: Apache-2.0
"""Carries models between other people's files and our model directories."""

import pathlib
from collections.abc import Mapping
from typing import Any

from ldm_jax import experiment
from ldm_jax.interop.convert import export_model, import_model
from ldm_jax.jobs.export_stablehlo import export_stablehlo
from ldm_jax.tasks.generate import Sampling
from ldm_jax.training.checkpoint import save_params

# What a model directory says of a run that never was: nothing, so constructors' own
# defaults hold if someone trains on from it.
NO_RUN = dict(seed=0, batch_size=1, mesh={}, optimizer={}, train={})


def import_weights(
    source: str,
    out: str,
    config: str | None = None,
    which: str = "ema",
    vocab: str | None = None,
    image_size: int = 256,
) -> str:
    """Imports a published model as a model directory.

    Args:
      source: a CompVis checkpoint (.ckpt, .safetensors) or a diffusers folder.
      out: model directory to write.
      config: the original's YAML, or one of our configs (.py); None looks beside the
        checkpoint. A folder describes itself.
      which: "ema" takes moving averages where there are any, "raw" never.
      vocab: vocabulary file of a text model, which a checkpoint does not hold.
      image_size: side of the images that `sample` makes by default.

    Returns:
      "ema" or "raw", which of the weights were taken.

    Raises:
      ValueError: names, shapes, schedule or config do not fit, or the file is unsafe;
        nothing is written.
    """
    described: Any = config
    if config is not None and config.partition(":")[0].endswith(".py"):
        described = _spec_of(experiment.load_config(config))
    spec, params, used, _ = import_model(source, described, which)
    stage = {"autoencoder": params["autoencoder"]}
    if "unet" not in spec:
        save_params(out, stage, _first_stage_settings(spec, image_size))
        return used
    settings = _diffusion_settings(spec, image_size, vocab)
    rest = {name: tree for name, tree in params.items() if name != "autoencoder"}
    save_params(f"{out}/autoencoder", stage, _first_stage_settings(spec, image_size))
    save_params(out, rest, settings)
    return used


def _spec_of(config) -> dict[str, Any]:
    """Takes the sections that describe a model out of one of our configs."""
    spec = config.to_dict()
    scale = spec.get("latents", {}).get("scale")
    return {**spec, "latent_scale": 1.0 if scale is None else scale}


def _first_stage_settings(spec: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    return {
        **NO_RUN,
        "task": "first_stage",
        "autoencoder": spec["autoencoder"],
        "images": dict(dataset="", split="train"),
        "transform": dict(image_size=image_size),
        "objective": dict(perceptual="none"),
        "held_out": "",
    }


def _diffusion_settings(spec, image_size, vocab) -> dict[str, Any]:
    condition = dict(spec["condition"])
    if vocab is not None:
        condition["vocab"] = str(pathlib.Path(vocab).resolve())
    return {
        **NO_RUN,
        "task": "latent_diffusion",
        "autoencoder": spec["autoencoder"],
        "latents": dict(
            directory="", image_size=image_size, scale=spec["latent_scale"]
        ),
        "condition": condition,
        "unet": spec["unet"],
        "schedule": spec["schedule"],
        "prediction": spec["prediction"],
        "objective": spec.get("objective", {}),
        "sampling": spec.get("sampling", {}),
    }


def export_weights(
    model_dir: str, out: str, form: str, which: str = "ema"
) -> list[pathlib.Path]:
    """Exports a model directory.

    Args:
      model_dir: trained here, or imported.
      out: file or folder, see `interop.convert.export_model`.
      form: "compvis", "diffusers", "npz" or "stablehlo".
      which: "ema" or "raw" parameters.

    Returns:
      The paths written.

    Raises:
      ValueError: the target cannot express the model (the reason is given), or `out`
        does not go with the form; nothing is written.
    """
    config = experiment.read_config(model_dir)
    model, params = experiment.load(model_dir, which)
    spec = {**config.to_dict(), "latent_scale": model.latent_scale}
    size = (config.latents if "latents" in config else config.transform).image_size
    if form == "stablehlo":
        sampling = Sampling(**config.sampling) if "sampling" in config else None
        return export_stablehlo(model, params, out, size, sampling)
    return export_model(out, form, spec, params, image_size=size)
