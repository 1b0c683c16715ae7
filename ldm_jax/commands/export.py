# SPDX-License-Identifier: Apache-2.0
"""Exports model directories to other frameworks."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any, TypeVar

from etils import epath

from ldm_jax.commands.exports.card import HubOptions, read_card_details
from ldm_jax.commands.exports.check import check_export, check_params
from ldm_jax.commands.exports.draw import DRAW, draw_samples
from ldm_jax.commands.exports.onnx import export_onnx
from ldm_jax.commands.exports.stablehlo import (
    Program,
    export_stablehlo,
    make_programs,
)
from ldm_jax.experiment import model_directory, stored_config
from ldm_jax.experiment.model_settings import ModelSettings, read_settings
from ldm_jax.files.paths import is_remote, local, resolve
from ldm_jax.files.writing import atomic_directory, new_files
from ldm_jax.interop.compvis.classifier import export_classifier, import_classifier
from ldm_jax.interop.convert import export_model
from ldm_jax.interop.own_files import write_own_folder, write_own_npz, write_own_orbax
from ldm_jax.interop.pytorch.write import export_torch
from ldm_jax.interop.safetensors import write_safetensors
from ldm_jax.interop.torch_files.writer import write_ckpt
from ldm_jax.interop.weight_files import read_weights
from ldm_jax.parallel.outputs import new_output, staged
from ldm_jax.training.checkpoints.compact import write_compact
from ldm_jax.types import PyTree

OWN = {
    "npz": write_own_npz,
    "orbax": write_own_orbax,
    "safetensors": write_own_folder,
}
FOLDERS = ("compact", "diffusers", "onnx", "orbax", "safetensors", "stablehlo", "torch")
# Tasks whose models the original's YAML describes.
DESCRIBED = ("first_stage", "latent_diffusion", "text_encoder")
# Endings of targets that are files.
SUFFIXES = {"compvis": ".safetensors", "npz": ".npz"}
FORMS = tuple(sorted((*FOLDERS, *SUFFIXES)))
# Targets that run a model, and so need more of it than parameters.
PROGRAMS = ("onnx", "stablehlo", "torch")


def export_weights(
    model_dir: str,
    out: str,
    form: str,
    which: str = "ema",
    hub: HubOptions = HubOptions(),
) -> list[pathlib.Path | epath.Path]:
    """Exports a model directory.

    Args:
      model_dir: trained here, or imported.
      out: new file or folder, see `interop.convert.export_model`.
      form: "compact", "compvis", "diffusers", "npz", "onnx", "orbax", "safetensors",
        "stablehlo" or "torch".
      which: "ema" or "raw" parameters.
      hub: of a diffusers folder: half precision, and what the model card states.

    Returns:
      The paths written.

    Raises:
      ValueError: the target cannot express the model (the reason is given), or `out`
        exists, or does not go with the form; nothing is written.
      OSError: `out` cannot be written.
    """
    if hub != HubOptions() and form != "diffusers":
        raise ValueError(
            "a variant, a licence, results and a picture are options of "
            f"--to=diffusers: got --to={form}; leave them out."
        )
    # Reserved before the model is read; its kind may leave the YAML out.
    target = resolve(out) if is_remote(out) else local(out)
    with (
        staged(*_results(target, form, *DESCRIBED)) as path,
        new_output(*_results(path, form, *DESCRIBED)),
    ):
        loaded = Loaded.read(model_dir, which, path.name, hub)
        results = _results(path, form, loaded.trained.task)
        paths = _write_whole(loaded, results, form)
        return [target.parent / file.relative_to(path.parent) for file in paths]


def export_all(
    model_dir: str,
    out: str,
    which: str = "ema",
    hub: HubOptions = HubOptions(),
) -> Iterator[tuple[str, pathlib.Path | None, str]]:
    """Exports a model directory to every target that takes it.

    Args:
      model_dir, which, hub: see `export_weights`.
      out: new folder, which gets an entry for each target.

    Yields:
      (form, its file or folder, "") when it was written, or (form, None, reason). The
      files are in their places after the last one: all of them, or none.

    Raises:
      ValueError: `out` exists.
      OSError: it cannot be written.
    """
    with (
        staged(out) as root,
        new_output(root),
        atomic_directory(root) as folder,
    ):
        loaded = Loaded.read(model_dir, which, root.name, hub)
        for form in FORMS:
            place = f"{form}/model{SUFFIXES[form]}" if form in SUFFIXES else form
            results = _results(folder / place, form, loaded.trained.task)
            try:
                _write_whole(loaded, results, form)
            except ValueError as error:
                yield form, None, str(error)
            else:
                yield form, root / place, ""


def check(model_dir: str, form: str, path: pathlib.Path, which: str = "ema") -> str:
    """Runs an exported model where it will be run; returns a sentence on the result.

    Args:
      model_dir, which: what was exported.
      form: what to.
      path: the file or folder.

    Raises:
      ValueError: the exported model computes something else.
    """
    loaded = Loaded.read(model_dir, which, path.name, HubOptions())
    try:
        if form == "compvis" and loaded.trained.task == "classifier":
            weights = read_weights(path)  # no YAML describes them
            exported = import_classifier(weights, loaded.model.classifier)
            own = {"classifier": exported}
            return str(check_params("ldm-jax import", path, own, loaded.params))
        return str(check_export(form, path, loaded.programs(), loaded.params))
    except (ImportError, FileNotFoundError) as error:
        return f"not checked: {error}"


# Local, or of a store.
Path = TypeVar("Path", bound=pathlib.Path | epath.Path)


def _results(path: Path, form: str, *tasks: str) -> list[Path]:
    """Lists the results of an export: the path, and the YAML of a CompVis checkpoint.

    Args:
      path: of the result.
      form: of it.
      tasks: that the model may have.
    """
    has_yaml = form == "compvis" and any(task in DESCRIBED for task in tasks)
    return [path, path.with_suffix(".yaml")] if has_yaml else [path]


def _write_whole(
    loaded: "Loaded", results: list[pathlib.Path], form: str
) -> list[pathlib.Path]:
    """Writes one format atomically; returns the paths."""
    path = results[0]
    if form not in FOLDERS:
        with new_files(*results) as folder:
            loaded.write(folder / path.name, form)
        return results
    with atomic_directory(path) as folder:
        paths = loaded.write(folder, form)
    return sorted(path / file.relative_to(folder) for file in paths)


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """A model that is exported.

    Attributes:
      title: name of the model.
      trained: its settings.
      model, params: see `model_directory.load`.
      hub: see `export_weights`.
    """

    title: str
    trained: ModelSettings
    model: Any
    params: PyTree
    hub: HubOptions

    @classmethod
    def read(cls, directory: str, which: str, title: str, hub: HubOptions) -> "Loaded":
        """Reads a model directory."""
        trained = read_settings(directory)
        model, params = model_directory.load(directory, which)
        return cls(title, trained, model, params, hub)

    def programs(self) -> dict[str, Program]:
        """Returns the functions of a first stage or diffusion model; else none."""
        trained = self.trained
        if trained.task in ("classifier", "text_encoder"):
            return {}
        size, sampling = trained.image_side, trained.sampling()
        return make_programs(self.model, self.params, size, sampling)

    def write(self, path: pathlib.Path, form: str) -> list[pathlib.Path]:
        """Writes the files of one form; returns their paths."""
        trained, params = self.trained, self.params
        if form in OWN:
            return self._write_own(path, form)
        if form == "compact":
            return self._write_compact(path)
        if trained.task == "classifier":
            return self._write_classifier(path, form)
        if trained.task == "text_encoder":
            if form in PROGRAMS:
                raise ValueError(
                    f"--to={form} exports a first stage or a diffusion model: this is "
                    "a text encoder alone; export the model that uses it."
                )
            return export_model(path, form, trained.sections(), params)
        size = trained.image_side
        if form in ("onnx", "stablehlo"):
            write = {"onnx": export_onnx, "stablehlo": export_stablehlo}[form]
            return write(self.model, params, path, size, trained.sampling())
        assert size is not None  # text encoders alone have none
        spec = {**trained.sections(), "latent_scale": self.model.latent_scale}
        if form == "torch":
            return export_torch(path, spec, params, size)
        options: dict[str, Any] = {}
        if form == "diffusers":
            details = read_card_details(self.title, trained, self.hub)
            if self.hub.picture == DRAW:
                sheet = draw_samples(self.model, params, size, trained.sampling())
                details = details._replace(picture=sheet)
            options = {"variant": self.hub.variant, "details": details}
        return export_model(path, form, spec, params, image_size=size, **options)

    def _write_classifier(self, path: pathlib.Path, form: str) -> list[pathlib.Path]:
        """Writes a classifier under the original's names, without a YAML file."""
        if form != "compvis" or path.suffix not in (".safetensors", ".ckpt"):
            forms = ", --to=".join((*OWN, "compvis with a .ckpt or .safetensors"))
            raise ValueError(
                f"--to={form} exports a first stage or a diffusion model: this is a "
                f"classifier; use --to={forms}."
            )
        state = export_classifier(self.params["classifier"], self.model.classifier)
        (write_ckpt if path.suffix == ".ckpt" else write_safetensors)(path, state)
        return [path]

    def _write_own(self, path: pathlib.Path, form: str) -> list[pathlib.Path]:
        """Writes our own names: with the settings, and a text model's vocabulary."""
        sections, files = self.trained.with_vocabulary()
        return OWN[form](path, sections, self.params, files)

    def _write_compact(self, folder: pathlib.Path) -> list[pathlib.Path]:
        """Writes a small model directory; a denoiser's contains its first stage."""
        trained, params = self.trained, self.params
        if trained.reads_text:
            raise ValueError(
                "--to=compact writes models without a vocabulary: "
                f"{trained.directory} reads texts; use --to=safetensors."
            )
        stage, paths = params.get("autoencoder"), []
        if trained.task == "latent_diffusion" and stage:
            params = {name: x for name, x in params.items() if name != "autoencoder"}
            directory, _ = stored_config.first_stage_of(trained.directory)
            parts = read_settings(directory).without_places(), {"autoencoder": stage}
            paths = write_compact(folder / "autoencoder", *parts)
        return [*paths, *write_compact(folder, trained.without_places(), params)]
