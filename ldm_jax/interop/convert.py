# SPDX-License-Identifier: Apache-2.0
"""Weights in and out: one function each, whatever the format."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml

from ldm_jax.files.writing import write_text
from ldm_jax.interop.compvis.read_config import image_size_of, spec_from_compvis
from ldm_jax.interop.compvis.state_dict import Imported, export_compvis, import_compvis
from ldm_jax.interop.compvis.write_config import compvis_from_spec
from ldm_jax.interop.diffusers.read import import_diffusers
from ldm_jax.interop.diffusers.write import export_diffusers
from ldm_jax.interop.torch_files.writer import write_ckpt
from ldm_jax.interop.weight_files import read_weights, write_safetensors
from ldm_jax.types import PyTree


def import_model(path, config=None, which: str = "ema") -> Imported:
    """Imports a published model.

    Args:
      path: a CompVis checkpoint (.ckpt, .safetensors), or a diffusers folder.
      config: how a checkpoint is built: the original's YAML (a path, or what it holds
        as a dict), or a mapping with the sections of one of our configs. None takes
        the .yaml beside the checkpoint. Folders describe themselves.
      which: "ema" takes moving averages where there are any, "raw" never.

    Returns:
      Imported(spec, params, used, extras); nothing is on a device. Memory: the bytes of
      `params` and of one tensor.

    Raises:
      FileNotFoundError: no such file, or no config beside it.
      WeightsFileError: the file is damaged or unsafe.
      NamesDiffer: tensors are missing, left over or misshapen, or the schedule is
        another; lists them by name.
      ValueError: the config asks for what is not supported.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        if config is not None:
            raise ValueError(
                f"a folder describes itself: got a config for {path}; leave it out."
            )
        return import_diffusers(path)
    weights = read_weights(path)
    if config is None:
        config = _config_beside(path)
    if not isinstance(config, Mapping):
        config = read_yaml(config)
    if "autoencoder" in config:  # ours
        return import_compvis(weights, config, which)
    imported = import_compvis(weights, spec_from_compvis(config), which)
    return imported._replace(image_size=image_size_of(config))


def read_yaml(path) -> dict[str, Any]:
    """Reads a YAML (or JSON) file with an object in it; runs nothing."""
    try:
        value = yaml.safe_load(pathlib.Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no readable YAML: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold an object: got {type(value).__name__}.")
    return value


def _config_beside(path: pathlib.Path) -> pathlib.Path:
    for name in (f"{path.stem}.yaml", "config.yaml"):
        if path.with_name(name).is_file():
            return path.with_name(name)
    raise FileNotFoundError(
        f"no {path.stem}.yaml or config.yaml beside {path}; give the original's YAML, "
        "or one of our configs, as config."
    )


def export_model(
    out,
    form: str,
    spec: Mapping[str, Any],
    params: PyTree,
    *,
    ema: PyTree | None = None,
    extras: Mapping[str, np.ndarray] | None = None,
    image_size: int | tuple[int, int] = 256,
) -> list[pathlib.Path]:
    """Exports a model.

    Args:
      out: "compvis": a .safetensors or .ckpt file; its YAML goes beside it, under the
        same name. "diffusers": a folder.
      form: "compvis" or "diffusers".
      spec: sections of a config: autoencoder and latent_scale; of a diffusion model
        also unet, condition, schedule, prediction.
      params: {"autoencoder", "unet", "conditioner"}, as many as the model has; numpy or
        jax arrays.
      ema: {"unet": ...}, written beside the weights (CompVis only).
      extras: of `Imported`, for what our modules do not declare (CompVis only).
      image_size: side of the images in pixels, or (height, width) (diffusers only).

    Returns:
      The paths written.

    Raises:
      CannotExpress: the target cannot compute what the model does; nothing is written.
      ValueError: an unknown form, or an `out` that does not go with it.
    """
    out = pathlib.Path(out)
    writers = {
        "compvis": (".safetensors", ".ckpt"),
        "diffusers": ("",),
    }
    if form not in writers:
        raise ValueError(f'unknown form "{form}"; one of: {", ".join(writers)}.')
    if out.suffix not in writers[form] and form != "diffusers":
        raise ValueError(
            f'form "{form}" writes {" or ".join(writers[form])}: got {out.name}; '
            "rename it."
        )
    if form != "compvis" and ema is not None:
        raise ValueError(f'form "{form}" holds one set of weights: leave ema out.')
    if form == "diffusers":
        export_diffusers(out, spec, params, image_size)
        return sorted(path for path in out.rglob("*") if path.is_file())
    config = compvis_from_spec(spec)
    state = export_compvis(spec, params, ema, extras)
    if "unet" in spec:
        fields = config["model"]["params"]
        fields["use_ema"] = ema is not None
        if "scale_factor" in state:
            fields["scale_by_std"] = True  # their name for a scale in the checkpoint
            fields["scale_factor"] = 1.0
    (write_ckpt if out.suffix == ".ckpt" else write_safetensors)(out, state)
    write_text(out.with_suffix(".yaml"), yaml.safe_dump(config, sort_keys=False))
    return [out, out.with_suffix(".yaml")]
