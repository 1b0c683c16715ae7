# SPDX-License-Identifier: Apache-2.0
"""Collects the results of a study: a row for each arm, seed and evaluation."""

import dataclasses
import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from ldm_jax.files.formats.structured import check_json_object, read_json_object
from ldm_jax.files.paths import resolve
from ldm_jax.study.budget import HOUR, ResolvedArm
from ldm_jax.study.config import Study

RESULT, FAILURE, SUMMARY = "result.json", "failed.json", "study.json"
Row = dict[str, Any]

# What the report reads of an arm of SUMMARY, and of a point of an evaluation.
ARM = dict(stage=str, f=int, latent_shape=list, bottleneck=str, parameters=int)
ARM |= dict(flops_per_image=float, batch_size=int, first_stage_flops=float)
ARM |= dict(paper_rows=list, settings=dict)
POINT = dict(name=str, step=int, num_steps=int, figures=dict, throughput=dict)
POINT |= dict(num_images=int, warnings=list)
FIGURE = dict(label=str, value=float)
AGAIN = "Delete it: the same command makes it again."


def summary_of(study: Study, arms: Mapping[str, ResolvedArm]) -> dict[str, Any]:
    """Describes a study and its arms, JSON-able, for the report."""
    described = {}
    for name, arm in arms.items():
        autoencoder = arm.denoiser.autoencoder
        described[name] = dict(
            stage=arm.stage,
            f=arm.f,
            latent_shape=list(arm.latent_shape),
            bottleneck=autoencoder.bottleneck,
            parameters=arm.cost.parameters,
            flops_per_image=arm.cost.flops_per_image,
            batch_size=arm.cost.batch_size,
            first_stage_flops=arm.first_stage_flops,
            paper_rows=list(arm.paper_rows),
            settings=_flat(arm.denoiser.to_dict()),
        )
    shared = {
        field.name: getattr(study, field.name)
        for field in dataclasses.fields(study)
        if field.name not in ("arms", "budget")
    }
    budget = dataclasses.asdict(study.budget) | {"text": str(study.budget)}
    return dict(study=shared, budget=budget, arms=described)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns {dotted name: value in words} of a config."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat


def read_summary(directory: str | os.PathLike) -> dict[str, Any]:
    """Reads the summary that `summary_of` made.

    Raises:
      ValueError: no study was started in the directory.
    """
    path = resolve(directory) / SUMMARY
    if not path.exists():
        raise ValueError(
            f"{directory} is not a directory of a study: it has no {SUMMARY}; give the "
            "--out of ldm-jax study."
        )
    summary = read_json_object(path, {"study": dict, "arms": dict})
    for arm, about in summary["arms"].items():
        check_json_object(about, ARM, f"{path}, arm {arm}", AGAIN)
    return summary


def results(directory: str | os.PathLike) -> list[Row]:
    """Returns every evaluation of samples that is finished.

    Args:
      directory: of a study.

    Returns:
      A row for each arm, seed, checkpoint and number of sampling steps: "arm", "f",
      "seed", "step", "num_steps" of the sampler, "images" and "flops" of training so
      far, "hours" (device-hours, by the median step), "images_per_second" of sampling,
      "num_images", "device", and each metric by its label ("FID", "KD(random)").

    Raises:
      ValueError: no study was started in the directory.
    """
    summary, rows = read_summary(directory), []
    for arm, about in summary["arms"].items():
        for seed in summary["study"]["seeds"]:
            trained = _read(directory, f"denoiser/{arm}/seed{seed}")
            evaluated = _read(directory, f"evaluate/{arm}/seed{seed}")
            for point in evaluated.get("points", ()):
                row = _row(arm, about, seed, point, trained)
                rows.append(row | _figures(point, summary["study"]["metrics"]))
    return rows


def _row(arm: str, about: Row, seed: int, point: Row, trained: Row) -> Row:
    images = point["step"] * about["batch_size"]
    seconds = trained.get("seconds_per_step")
    devices = trained.get("num_devices", 1)
    hours = None if seconds is None else seconds * point["step"] * devices / HOUR
    return dict(
        arm=arm,
        f=about["f"],
        seed=seed,
        step=point["step"],
        num_steps=point["num_steps"],
        folder=f"evaluate/{arm}/seed{seed}/{point['name']}",
        images=images,
        flops=images * about["flops_per_image"],
        hours=hours,
        images_per_second=point["throughput"].get("images_per_second"),
        num_images=point["num_images"],
        device=trained.get("device", ""),
    )


def _figures(point: Row, metrics: Sequence[str]) -> dict[str, float]:
    """Returns the measurements by label, in the order of the study's metrics."""
    figures = point["figures"]
    return {figures[m]["label"]: figures[m]["value"] for m in metrics if m in figures}


class Distortion(NamedTuple):
    """A metric of a first stage: its label ("FD(random)") and its value."""

    label: str
    value: float


def reconstruction_figures(
    directory: str | os.PathLike, stage: str
) -> dict[str, Distortion]:
    """Returns the metrics of a first stage by name; {} where they are not measured."""
    if not stage:  # pixels
        return {}
    figures = _read(directory, f"reconstructions/{stage}").get("figures", {})
    return {n: Distortion(x["label"], x["value"]) for n, x in figures.items()}


def last_rows(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows of the last checkpoint of every arm."""
    last: dict[str, int] = {}
    for row in rows:
        last[row["arm"]] = max(row["step"], last.get(row["arm"], 0))
    return [row for row in rows if row["step"] == last[row["arm"]]]


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Returns the mean over seeds and its standard error, None for one value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None
    return mean, statistics.stdev(values) / math.sqrt(len(values))


def failures(directory: str | os.PathLike) -> dict[str, str]:
    """Returns {stage: error} of the stages that failed when they were last run."""
    root, errors = resolve(directory), {}
    for path in _of_stages(root, FAILURE):
        if not (path.parent / RESULT).exists():
            name = os.fspath(path.parent)[len(os.fspath(root)) + 1 :]
            errors[name] = read_json_object(path, {"error": str})["error"]
    return errors


def warnings_of(directory: str | os.PathLike) -> list[str]:
    """Returns the warnings of all finished stages, each once."""
    warnings = []
    for path in _of_stages(resolve(directory), RESULT):
        result = read_result(path)
        warnings += result.get("warnings", [])
        for point in result.get("points", ()):
            warnings += point["warnings"]
    return list(dict.fromkeys(map(str, warnings)))


def _of_stages(root: epath.Path, name: str) -> Iterator[epath.Path]:
    """Yields the files of a name in the folders of stages, which have 1 to 3 parts."""
    yield from sorted(
        path for depth in range(1, 4) for path in root.glob("*/" * depth + name)
    )


def _read(directory: str | os.PathLike, stage: str) -> dict[str, Any]:
    """Returns the result of a stage; {} where it is not done."""
    path = resolve(directory) / stage / RESULT
    return read_result(path) if path.exists() else {}


def read_result(path: epath.Path) -> dict[str, Any]:
    """Reads what a stage measured from its result.json.

    Raises:
      UnreadableFile: it is damaged; names the file and the field.
    """
    content = read_json_object(path, {"settings": dict, "result": dict})
    for point in content["result"].get("points", ()):
        check_json_object(point, POINT, f"{path}, a point", AGAIN)
    for entry in (content["result"], *content["result"].get("points", ())):
        for name, figure in entry.get("figures", {}).items():
            check_json_object(figure, FIGURE, f"{path}, {name}", AGAIN)
    return content["result"]
