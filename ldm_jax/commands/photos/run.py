# SPDX-License-Identifier: Apache-2.0
"""Runs the stages of `ldm-jax quickstart --images`.

survey of the folder -> settings (config.py) -> first stage -> latents -> denoiser
-> samples and figures -> report.html. Each stage resumes where it was stopped.
"""

import pathlib
import time
from typing import NamedTuple

import jax

from ldm_jax.commands import next_steps
from ldm_jax.commands.estimate import estimate_time
from ldm_jax.commands.latents import encode_image_set
from ldm_jax.commands.photos import choices
from ldm_jax.commands.photos.figures import compare_samples
from ldm_jax.commands.photos.page import write_photos_page
from ldm_jax.commands.photos.sheets import sample_sheet
from ldm_jax.commands.reconstruct import write_reconstructions
from ldm_jax.commands.train import train_experiment
from ldm_jax.data.images.survey import Survey, survey
from ldm_jax.experiment import model_directory
from ldm_jax.experiment.chain import make_chain
from ldm_jax.experiment.config.config_files import load_config
from ldm_jax.files.formats import png
from ldm_jax.files.formats.structured import read_json
from ldm_jax.files.outputs import check_outside
from ldm_jax.files.paths import printable_lines
from ldm_jax.files.writing import write_json, write_text
from ldm_jax.parallel.outputs import output_directory, reserves
from ldm_jax.training.summary import show

CONFIG, FOLDER = "config.py", "folder.json"
# Line of the closing summary -> figure of `compare_samples` that it describes.
DISTANCE_LINES = {"colours": "colour_distance", "nearest": "nearest_distance"}


class PhotosResult(NamedTuple):
    """Results that the report shows in addition to the runs.

    Attributes:
      folder: lines about the pictures.
      chosen: lines about the settings.
      figures: PSNR and distances.
      minutes: of each step in this process.
      next: commands.
    """

    folder: dict[str, str]
    chosen: dict[str, str]
    figures: dict[str, float]
    minutes: dict[str, float]
    next: list[str]


def model_pictures(
    images: str, workdir: str, size: int | None = None, overrides: tuple[str, ...] = ()
) -> PhotosResult:
    """Makes a model of a folder of pictures, samples from it and writes a report.

    Args:
      images: the folder.
      workdir: gets config.py, first_stage/, latents/, diffusion/, samples.png,
        reconstructions.png, results.json and report.html.
      size: side of the images; None chooses one.
      overrides: "--config.first_stage.train.num_steps=100" and the like.

    Raises:
      ValueError: the folder has too few or too small pictures, or has changed since
        this quickstart began, or `workdir` is in it.
    """
    check_outside(workdir, [images], "--workdir")
    return _run_stages(images, workdir, size, overrides)


@reserves(output_directory, "workdir", "--workdir")
def _run_stages(
    images: str, workdir: str, size: int | None, overrides: tuple[str, ...]
) -> PhotosResult:
    """Runs the stages; arguments as for `model_pictures`."""
    root, started = pathlib.Path(workdir), time.monotonic()
    _announce(1, "survey the pictures")
    pictures = survey(images)
    _print(show(pictures.describe()))
    chosen = _choose(root, pictures, size)
    if overrides:
        chosen["choices"] += "; this command's --config.* flags are not stored in it"
    _refuse_other_folder(root, pictures)
    config = load_config(str(root / CONFIG), overrides)
    stage, latents, denoiser = (
        str(root / name) for name in ("first_stage", "latents", "diffusion")
    )
    chain, figures = make_chain(config, latents), {}
    held_out = f"{pictures.num_held_out} pictures" if chain.held_out else "none"
    chosen = {**chain.inputs, "held out": held_out, **chosen, **chain.trainings}
    _print(show(chosen))
    began = (root / "first_stage").exists()
    note = "; what is trained already is not repeated" if began else ""
    _print(show({"estimate": estimate_time(config) + note}))
    minutes = {"survey the pictures": _minutes(started)}

    with _timed(minutes, 2, "train the first stage: pictures -> latents -> pictures"):
        train_experiment("first_stage", chain.first_stage, stage)
    with _timed(minutes, 3, "encode the pictures into latents"):
        pairs = str(root / "reconstructions.png")
        figures["psnr"] = write_reconstructions(stage, pairs, split=chain.held_out)
        encode_image_set(stage, latents, **chain.encoding)
    with _timed(minutes, 4, "train the denoiser on the latents"):
        train_experiment("diffusion", chain.diffusion, denoiser)
    with _timed(minutes, 5, "sample, measure and write the report"):
        sheet, samples = sample_sheet(denoiser)
        png.save_png(root / "samples.png", sheet)
        figures |= compare_samples(chain.first_stage, samples)
    model, _ = model_directory.load(denoiser)
    commands = next_steps.after(model, denoiser)
    result = PhotosResult(pictures.describe(), chosen, figures, minutes, commands)
    write_json(root / "results.json", result._asdict())
    write_photos_page(root, result)
    _print(_closing(root, result))
    return result


def _refuse_other_folder(root: pathlib.Path, pictures: Survey) -> None:
    """Stores the identity of the pictures, or compares it with the stored one."""
    path = root / FOLDER
    now = {"folder": pictures.folder, "fingerprint": pictures.fingerprint}
    if not path.exists():
        write_json(path, {**now, "count": pictures.count})
        return
    before = read_json(path)
    if any(before.get(name) != value for name, value in now.items()):
        raise ValueError(
            f"the pictures must be those that {root} was begun with, "
            f"{before.get('count')} in {before.get('folder')}: got {pictures.count} in "
            f"{pictures.folder}, of which some are new, gone or changed; give another "
            "--workdir to train with these, or restore the folder."
        )


def _choose(root: pathlib.Path, pictures: Survey, size: int | None) -> dict[str, str]:
    """Writes config.py unless it exists; describes the choices."""
    path = root / CONFIG
    if path.exists():
        if size is not None:
            raise ValueError(
                f"{path} holds the choices of this directory: got --size {size} too; "
                "edit image_size there, or give another --workdir."
            )
        return {"choices": f"those of {path}"}
    made = choices.choose_settings(pictures, jax.default_backend(), size)
    write_text(path, choices.config_file(made.settings))
    return {**made.reasons, "choices": f"in {path}: edit it and run this again"}


def _closing(root: pathlib.Path, result: PhotosResult) -> str:
    """Describes the result, and the commands that come next."""
    lines = _figure_lines(result.figures)
    lines["minutes"] = ", ".join(f"{n} {m:.1f}" for n, m in result.minutes.items())
    lines["pictures"] = f"{root}/samples.png and {root}/reconstructions.png"
    lines["report"] = f"{root}/report.html"
    lines["next"] = "\n".join(result.next)
    return "\n" + show(lines)


def _figure_lines(figures: dict[str, float]) -> dict[str, str]:
    """Describes the figures: samples next to held-out pictures."""
    lines = {"PSNR": f"{figures['psnr']:.2f} dB between pictures and reconstructions"}
    for name, figure in DISTANCE_LINES.items():
        lines[name] = f"distance {figures[f'{figure}_samples']:.4g} for samples"
        if f"{figure}_held_out" in figures:
            lines[name] += (
                f", {figures[f'{figure}_held_out']:.4g} for held-out pictures"
            )
    return lines


class _timed:
    """Context manager of one stage, which prints its name and records its minutes."""

    def __init__(self, minutes: dict[str, float], number: int, what: str):
        self._minutes, self._what = minutes, what.partition(":")[0]
        _announce(number, what)

    def __enter__(self):
        self._started = time.monotonic()

    def __exit__(self, *_):
        self._minutes[self._what] = _minutes(self._started)


def _minutes(started: float) -> float:
    return round((time.monotonic() - started) / 60, 2)


def _announce(number: int, what: str) -> None:
    _print(f"\n[{number}/5] {what}")


def _print(text: str) -> None:
    print(printable_lines(text), flush=True)
