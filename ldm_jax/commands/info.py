# SPDX-License-Identifier: Apache-2.0
"""Describes what a directory or a file of this package contains, and how to use it."""

from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from ldm_jax.commands import next_steps
from ldm_jax.commands.inspect_latents import statistics_lines
from ldm_jax.conditions.base import Condition
from ldm_jax.data.latents.sets import BUCKETS_FILE, bucket_names
from ldm_jax.data.latents.source import open_latents
from ldm_jax.data.records import read_whole
from ldm_jax.experiment import model_directory, stored_config
from ldm_jax.experiment.model_settings import read_settings
from ldm_jax.files.formats.structured import read_json
from ldm_jax.files.paths import printable, resolve
from ldm_jax.files.stores.store_errors import reaching
from ldm_jax.metrics.image_sets.reference import load_reference
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.training.checkpoints.digest import params_fingerprint
from ldm_jax.training.monitoring.metric_rows import formatted, read_rows
from ldm_jax.types import PyTree

KINDS = dict(
    first_stage="first stage",
    latent_diffusion="diffusion model",
    classifier="classifier of noisy latents",
    text_encoder="text encoder",
)


def describe(path: str) -> str:
    """Describes a model directory, a set of latents, statistics, samples, or a folder.

    Returns:
      Lines of text.

    Raises:
      ValueError: the path holds none of these.
      StoreError: a URL that cannot be read.
    """
    place = resolve(stored_config.locate(path))
    if str(path).endswith(".npz"):
        return _lines(path, _statistics(str(place)))
    with reaching(path):
        is_there, is_directory = place.exists(), place.is_dir()
    if not is_directory:
        raise ValueError(
            f"{path} must be a directory or an .npz file of statistics: there is "
            f"{'a file of another kind' if is_there else 'nothing there'}; see "
            "ldm-jax info --help."
        )
    if description := _describe_directory(path):
        return description
    inside = sorted(place.iterdir())
    described = [
        text
        for entry in inside
        if entry.is_dir() and (text := _describe_directory(str(entry)))
    ]
    if not described:
        raise ValueError(
            f"{path} contains no model, latents or samples of this package; a model "
            "directory has a config.json, a set of latents a metadata.json."
        )
    return "\n".join(described)


def _describe_directory(path: str) -> str | None:
    """Describes a directory; returns None for one of unknown content."""
    place = resolve(stored_config.locate(path))
    if (place / "config.json").exists():
        return _lines(path, _model(path))
    if (place / BUCKETS_FILE).exists() or (place / "dataset_info.json").exists():
        return _latents(path)
    if (place / "settings.json").exists():
        return _lines(path, _samples(place))
    return None


def _lines(path: str, entries: Mapping[str, Any]) -> str:
    """Formats one description: the path, then a line for each entry."""
    lines = [f"  {name:<12} {text}" for name, text in entries.items() if text]
    return "\n".join([str(path), *lines])


def _model(path: str) -> dict[str, Any]:
    """Describes a model directory."""
    trained = read_settings(path)
    entries: dict[str, Any] = {"kind": KINDS[trained.task], "made from": trained.origin}
    rows = read_rows(resolve(path) / "metrics.jsonl")
    if rows:
        entries["trained"] = f"{rows[-1]['step']:,} of {trained.num_steps:,} steps"
        entries["loss"] = formatted(rows[-1].get("loss"))
    model, params = model_directory.load(path)
    if trained.image_size is not None:
        entries |= _first_stage(model.autoencoder, *trained.image_size)
    if trained.task == "latent_diffusion":
        entries["condition"] = _condition(model.conditioner)
        entries |= trained.process
    entries["parameters"] = parameter_counts(params)
    entries["fingerprint"] = params_fingerprint(params)
    entries["evaluation"] = _last_evaluation(path)
    entries["use"] = ("\n" + " " * 15).join(next_steps.after(model, path))
    return entries


def _first_stage(autoencoder: Autoencoder, height: int, width: int) -> dict[str, Any]:
    """Describes the first stage, by itself or inside a diffusion model."""
    shape = (height, width, autoencoder.in_channels)
    h, w, c = autoencoder.latent_shape(shape)
    sizes = f"f = {autoencoder.f}, latents {h}x{w}x{c}"
    return {
        "images": f"{height}x{width}",
        "first stage": f"{autoencoder.bottleneck}, {sizes}",
    }


def _condition(condition: Condition) -> str:
    """Describes a condition: its kind, and the names of its classes."""
    names = getattr(condition, "class_names", ())
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return condition.kind + (f": {printable(shown)}" if names else "")


def parameter_counts(params: PyTree) -> str:
    """Counts the parameters of each network: "unet 1,060,000, conditioner 704"."""
    counts = {
        name: sum(x.size for x in jax.tree.leaves(network))
        for name, network in params.items()
    }
    return ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)


def _last_evaluation(path: str) -> str:
    rows = read_rows(resolve(path) / "evaluation.jsonl")
    if not rows:
        return ""
    figures = [f"{n} {formatted(v)}" for n, v in rows[-1].items() if n != "step"]
    return f"step {rows[-1]['step']}: {', '.join(figures)}" if figures else ""


def _latents(path: str) -> str:
    """Describes a set of latents, or each bucket of one."""
    names = bucket_names(path) or [""]
    parts, fields = [], set()
    for name in names:
        folder = f"{path}/{name}" if name else path
        latents, stats = open_latents(folder)
        fields |= set(read_whole(latents, [0])[0][1])
        lines = statistics_lines(latents, stats)
        parts.append("\n".join([folder, "  kind         latents", *lines]))
    uses = ("\n" + " " * 15).join(next_steps.after_latents(path, fields))
    return "\n".join([*parts, f"  use          {uses}"])


def _statistics(path: str) -> dict[str, Any]:
    """Describes reference statistics."""
    reference = load_reference(path)
    metadata = dict(reference.metadata)
    dataset = " ".join(str(metadata.get(n, "")) for n in ("dataset", "split")).strip()
    network = metadata.get("network")
    flag = "" if network in (None, "inception") else f" --feature-network {network}"
    kept = 0 if reference.features is None else len(reference.features)
    return {
        "kind": "reference statistics",
        "made from": dataset or "unknown: the file does not describe it",
        "images": f"{reference.pool.count:,}" if reference.pool.count else "unknown",
        "image size": metadata.get("image_size"),
        "network": network,
        "features": f"{len(reference.pool.mean)} wide, of {kept:,} images kept",
        "use": f"ldm-jax evaluate --model DIR --reference {path} --out evaluation"
        + flag,
    }


def _samples(place: epath.Path) -> dict[str, Any]:
    """Describes a directory of samples by its settings."""
    made = read_json(place / "settings.json")
    count = sum(entry.stem.isdecimal() for entry in place.glob("*.png"))
    return {
        "kind": f"{count} samples",
        "made from": made.get("model"),
        "condition": made.get("condition"),
        "sampling": made.get("sampling"),
        "use": f"ldm-jax evaluate --images {place} --reference REF.npz --out DIR",
    }
