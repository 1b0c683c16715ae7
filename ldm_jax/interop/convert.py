# SPDX-License-Identifier: Apache-2.0
"""Imports and exports models of other frameworks, each with one function."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml

from ldm_jax.files.errors import MissingFile, naming
from ldm_jax.files.formats.structured import read_yaml
from ldm_jax.files.paths import PathLike
from ldm_jax.files.writing import write_text
from ldm_jax.interop.cannot_express import CannotExpress
from ldm_jax.interop.compvis.read_config import image_size_of, spec_from_compvis
from ldm_jax.interop.compvis.state_dict import (
    Imported,
    check_spec,
    export_compvis,
    import_compvis,
)
from ldm_jax.interop.compvis.write_config import compvis_from_spec
from ldm_jax.interop.diffusers.model_card import CardDetails
from ldm_jax.interop.diffusers.read import import_diffusers
from ldm_jax.interop.diffusers.write import Size, export_diffusers
from ldm_jax.interop.diffusers.write import describe_model as describe_for_diffusers
from ldm_jax.interop.safetensors import write_safetensors
from ldm_jax.interop.torch_files.writer import write_ckpt
from ldm_jax.interop.weight_files import holds_weights, read_weights
from ldm_jax.types import PyTree


def import_model(
    path: PathLike,
    config: Any = None,
    which: str = "ema",
    key: str | None = None,
) -> Imported:
    """Imports a published model.

    Args:
      path: a CompVis checkpoint (.ckpt, .safetensors, a folder of such weights alone,
        the index of its shards), or a diffusers folder.
      config: describes the model of a checkpoint: the original's YAML (a path, or its
        contents as a dict), or a mapping with the sections of one of our configs. None
        takes the .yaml next to the checkpoint. Folders describe themselves.
      which: "ema" takes moving averages where there are any, "raw" never.
      key: where a checkpoint holds the tensors, see `weight_files.read_weights`.

    Returns:
      Imported, with `params` in NumPy. Memory: the bytes of `params` and of one tensor.

    Raises:
      MissingFile: no such file, or no config next to it.
      UnreadableFile: a file is damaged or unsafe, or the config asks for what is not
        supported.
      NamesDiffer: tensors are missing, left over or misshapen, or the schedule differs
        from the config's; lists them by name.
    """
    path = pathlib.Path(path)
    if path.is_dir() and not _is_checkpoint(path):
        if config is not None or key is not None:
            raise ValueError(
                f"a folder describes itself: got a config or a key for {path}; leave "
                "it out."
            )
        return import_diffusers(path, which)
    weights = read_weights(path, key)
    if config is None:
        config = _config_next_to(path)
    name = path
    if not isinstance(config, Mapping):
        name, config = pathlib.Path(config), read_yaml(config)
    is_own = "autoencoder" in config
    with naming(name):
        spec = config if is_own else spec_from_compvis(config)
        size = None if is_own else image_size_of(config)
        check_spec(spec)
    with naming(path):
        imported = import_compvis(weights, spec, which)
    notes = (*weights.notes, *imported.notes)
    return imported._replace(image_size=size, notes=notes)


def _is_checkpoint(folder: pathlib.Path) -> bool:
    """Returns whether a folder holds weights alone, as accelerate saves a model."""
    described = ("config.json", "model_index.json")
    is_described = any((folder / name).is_file() for name in described)
    return holds_weights(folder) and not is_described


def _config_next_to(path: pathlib.Path) -> pathlib.Path:
    folder, stem = (path, "model") if path.is_dir() else (path.parent, path.stem)
    for name in (f"{stem}.yaml", "config.yaml"):
        if (folder / name).is_file():
            return folder / name
    raise MissingFile(
        f"no {stem}.yaml or config.yaml next to the weights of {path}; give the "
        "original's YAML, or one of our configs, as config."
    )


def export_model(
    out: PathLike,
    form: str,
    spec: Mapping[str, Any],
    params: PyTree,
    *,
    ema: PyTree | None = None,
    extras: Mapping[str, np.ndarray] | None = None,
    image_size: Size = 256,
    variant: str = "",
    details: CardDetails = CardDetails(),
) -> list[pathlib.Path]:
    """Exports a model.

    Args:
      out: "compvis": a .safetensors or .ckpt file; its YAML is written next to it, with
        the same name. "diffusers": a folder.
      form: "compvis" or "diffusers".
      spec: sections of a config: autoencoder and latent_scale; of a diffusion model
        also unet, condition, schedule, prediction.
      params: {"autoencoder", "unet", "conditioner"}, as many as the model has; numpy or
        jax arrays.
      ema: {"unet": ...}, written with the weights (CompVis only).
      extras: of `Imported`: tensors that our modules do not declare (CompVis only).
      image_size: side of the images in pixels, or (height, width) (diffusers only).
      variant, details: see `export_diffusers` (diffusers only).

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
    _check_expressible(form, spec, image_size)
    if form == "diffusers":
        export_diffusers(out, spec, params, image_size, variant, details)
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


def _check_expressible(form: str, spec: Mapping[str, Any], image_size: Size) -> None:
    """Raises CannotExpress with the formats that can describe the model instead."""
    describe = {
        "compvis": lambda: compvis_from_spec(spec),
        "diffusers": lambda: describe_for_diffusers(spec, image_size),
    }
    reasons = {}
    for name, make in describe.items():
        try:
            make()
        except CannotExpress as error:
            reasons[name] = str(error)
    if form not in reasons:
        return
    others = [name for name in describe if name not in reasons]
    others += ["npz", "onnx", "orbax", "safetensors", "stablehlo", "torch"]
    raise CannotExpress(
        f"{reasons[form]} Formats that can: {', '.join(others)} (ldm-jax export --to)."
    )
