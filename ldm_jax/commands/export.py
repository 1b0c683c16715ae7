# SPDX-License-Identifier: Apache-2.0
"""Exports model directories to other frameworks."""

import pathlib
from typing import Any

from etils import epath

from ldm_jax.commands.export_onnx import export_onnx
from ldm_jax.commands.export_stablehlo import export_stablehlo
from ldm_jax.experiment import model_directory
from ldm_jax.experiment.vocabulary import places_of, text_section
from ldm_jax.files.paths import local
from ldm_jax.files.writing import atomic_directory, new_files
from ldm_jax.interop.convert import export_model
from ldm_jax.interop.own_files import write_own_folder, write_own_npz, write_own_orbax
from ldm_jax.interop.pytorch.write import export_torch
from ldm_jax.parallel.outputs import new_output
from ldm_jax.tasks.sampling import make_sampling
from ldm_jax.training.checkpoints.compact import write_compact

OWN = {
    "npz": write_own_npz,
    "orbax": write_own_orbax,
    "safetensors": write_own_folder,
}
FOLDERS = ("compact", "diffusers", "onnx", "orbax", "safetensors", "stablehlo", "torch")
# What belongs to the machine or the run that a model was trained in.
OF_THE_RUN = ("latents.directory", "latents.first_stage", "images.data_dir")


def export_weights(
    model_dir: str, out: str, form: str, which: str = "ema"
) -> list[pathlib.Path]:
    """Exports a model directory.

    Args:
      model_dir: trained here, or imported.
      out: new file or folder, see `interop.convert.export_model`.
      form: "compact", "compvis", "diffusers", "npz", "onnx", "orbax", "safetensors",
        "stablehlo" or "torch".
      which: "ema" or "raw" parameters.

    Returns:
      The paths written.

    Raises:
      ValueError: the target cannot express the model (the reason is given), or `out`
        exists, or does not go with the form; nothing is written.
      OSError: `out` cannot be written.
    """
    path = local(out, "the output of an export")
    results = [path]
    if form == "compvis":
        results.append(path.with_suffix(".yaml"))
    with new_output(*results):
        return _export(model_dir, results, form, which)


def _export(
    model_dir: str, results: list[pathlib.Path], form: str, which: str
) -> list[pathlib.Path]:
    path = results[0]
    config = model_directory.read_config(model_dir)
    model, params = model_directory.load(model_dir, which)
    if form not in FOLDERS:
        with new_files(*results) as folder:
            _write(folder / path.name, form, config, model, params)
        return results
    if form == "compact":
        with atomic_directory(path) as folder:
            paths = _write_compact(folder, model_dir, config, params)
        return sorted(path / file.relative_to(folder) for file in paths)
    with atomic_directory(path) as folder:
        paths = _write(folder, form, config, model, params)
    return sorted(path / file.relative_to(folder) for file in paths)


def _write_own(path: pathlib.Path, form: str, config, params) -> list[pathlib.Path]:
    """Writes our own names: with the settings, and the vocabulary of a text model."""
    settings, files = config.to_dict(), {}
    settings.pop("text_encoder", None)  # its parameters are among the model's
    section = text_section(settings.get("condition", {}))
    if section is not None:
        places = places_of(section)
        files = {p: epath.Path(section[f]).read_bytes() for f, p in places.items()}
        section.update(places)
    return OWN[form](path, settings, params, files)


def _write_compact(
    folder: pathlib.Path, model_dir: str, config, params
) -> list[pathlib.Path]:
    """Writes a small model directory; that of a denoiser contains its first stage."""
    if text_section(config.get("condition", {})) is not None:
        raise ValueError(
            f"--to=compact writes models without a vocabulary: {model_dir} reads texts"
            "; use --to=safetensors."
        )
    stage = params.get("autoencoder")
    paths = []
    if config.task == "latent_diffusion" and stage:
        params = {name: x for name, x in params.items() if name != "autoencoder"}
        _, stage_config = model_directory.first_stage_of(model_dir)
        parts = _without_places(stage_config), {"autoencoder": stage}
        paths = write_compact(folder / "autoencoder", *parts)
    return [*paths, *write_compact(folder, _without_places(config), params)]


def _without_places(config) -> dict[str, Any]:
    """Returns settings without the paths of the machine that a model was trained on."""
    config = config.copy_and_resolve_references().unlock()
    for name in OF_THE_RUN:
        section, _, field = name.partition(".")
        if config.get(section, {}).get(field):
            config[section][field] = "" if field == "directory" else None
    return config.to_dict()


def _write(path: pathlib.Path, form: str, config, model, params) -> list[pathlib.Path]:
    """Writes the files of one form; returns their paths."""
    if form in OWN:
        return _write_own(path, form, config, params)
    if config.task == "text_encoder":
        if form in ("onnx", "stablehlo", "torch"):
            raise ValueError(
                f"--to={form} exports a first stage or a diffusion model: this is a "
                "text encoder alone; export the model that uses it."
            )
        return export_model(path, form, config.to_dict(), params)
    size = (config.latents if "latents" in config else config.transform).image_size
    if form in ("onnx", "stablehlo"):
        sampling = make_sampling(**config.sampling) if "sampling" in config else None
        write = {"onnx": export_onnx, "stablehlo": export_stablehlo}[form]
        return write(model, params, path, size, sampling)
    spec = {**config.to_dict(), "latent_scale": model.latent_scale}
    if form == "torch":
        return export_torch(path, spec, params, size)
    return export_model(path, form, spec, params, image_size=size)
