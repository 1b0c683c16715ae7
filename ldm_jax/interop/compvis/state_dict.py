# SPDX-License-Identifier: Apache-2.0
"""Translates CompVis state dicts to parameters and back."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.files.paths import printable
from ldm_jax.interop.cannot_express import CannotExpress
from ldm_jax.interop.compvis.buffers import check_schedule, schedule_buffers
from ldm_jax.interop.layouts import (
    NamesDiffer,
    expected_shapes,
    export_flat,
    import_flat,
    listed,
)
from ldm_jax.interop.networks import network_rows, token_transformer
from ldm_jax.interop.stored import Renamed
from ldm_jax.interop.wrappers import below, common_prefix
from ldm_jax.models.clip import ClipText
from ldm_jax.types import PyTree

PREFIXES = {
    "unet": "model.diffusion_model.",
    "autoencoder": "first_stage_model.",
    "conditioner": "cond_stage_model.",
}

# Entry of a spec that only the import reads.
_NEW_ORDER = "new_attention_order"

# What published checkpoints hold besides the networks.
_IGNORED = re.compile(
    r"(first_stage_model\.|model_ema\.)?loss.*"  # discriminator, LPIPS
    r"|model_ema\.(decay|num_updates)|scale_factor|logvar"
    r"|cond_stage_model\.transformer\.to_logits\.(weight|bias)"
    r"|cond_stage_model\.transformer\.text_model\.embeddings\.position_ids"
)


class Imported(NamedTuple):
    """A model read from another framework's files.

    Attributes:
      spec: sections of a config, see `networks`.
      params: {"autoencoder", "unet", "conditioner"} of nested dicts of float32 arrays,
        those that the model has.
      used: "ema" or "raw", which of the two sets of a denoiser's weights `params` has.
      extras: {their name: array} of what our modules do not declare (an unused output
        layer, schedule buffers, discriminators); mapped from the file on access.
      image_size: side of the images it was trained on; None where it is not known.
      notes: sentences on what was changed, or not taken over.
    """

    spec: dict[str, Any]
    params: PyTree
    used: str
    extras: Mapping[str, np.ndarray]
    image_size: int | None = None
    notes: tuple[str, ...] = ()


def ema_name(name: str) -> str:
    """Returns the name of a tensor's average: without dots, nor "model." in front."""
    return "model_ema." + name.removeprefix("model.").replace(".", "")


def import_compvis(
    weights: Mapping[str, np.ndarray], spec: Mapping[str, Any], which: str = "ema"
) -> Imported:
    """Converts a CompVis state dict.

    Args:
      weights: {name: array}, of `weight_files.read_weights`. Names may have a common
        prefix; a first stage may be inside the checkpoint of a diffusion model.
      spec: of `read_config.spec_from_compvis`, or the sections of our own config.
      which: "ema" takes moving averages where the checkpoint has them, "raw" never.

    Returns:
      Imported; spec["latent_scale"] is the checkpoint's where it has one.

    Raises:
      NamesDiffer: tensors are missing, left over or misshapen, or the schedule's
        buffers are not those of the spec; lists them by name.
      ValueError: `which` is neither of the two.
    """
    if which not in ("ema", "raw"):
        raise ValueError(f'which must be "ema" or "raw": got {which!r}.')
    spec = dict(spec)
    new_order = spec.pop(_NEW_ORDER, False)
    rows = _rows(spec)
    renames = {name: _renaming(spec, name) for name in rows}
    weights, notes = _below_prefix(weights, rows, renames)
    used = "ema" if which == "ema" and has_averages(weights) else "raw"
    _check_left_over(weights, spec, rows, renames)
    if "schedule" in spec:
        check_schedule(weights, spec["schedule"])
    params, taken = {}, set()
    for network, its_rows in rows.items():
        rename = renames[network]
        averaged = used == "ema" and network == _averaged_network(spec)
        source = _ema_of(rename) if averaged else rename
        flat = import_flat(weights, its_rows, "compvis", source, new_order)
        params[network] = traverse_util.unflatten_dict(flat, sep="/")
        for name in expected_shapes(its_rows, "compvis"):
            taken |= {rename(name), ema_name(rename(name))}
    if spec.get("objective", {}).get("learn_log_variance"):
        params["log_variance"] = np.array(weights["logvar"], np.float32)
    if "scale_factor" in weights:
        spec["latent_scale"] = _stored_scale(weights, spec.get("latent_scale"))
    extras = Renamed(weights, {name: name for name in weights if name not in taken})
    return Imported(spec, params, used, extras, notes=notes)


def check_spec(spec: Mapping[str, Any]) -> None:
    """Raises ValueError for a spec of which no networks or no schedule can be made."""
    _rows({name: value for name, value in spec.items() if name != _NEW_ORDER})
    if "schedule" in spec:
        make_schedule(**spec["schedule"])


def _below_prefix(weights, rows, renames):
    """Takes the tensors below the prefix that all of the model's names have, if any.

    Returns:
      (weights with the model's names, sentences on what was done).

    Raises:
      NamesDiffer: other tensors are not below the prefix; the message names it.
    """
    expected = [
        renames[network](name)
        for network, its_rows in rows.items()
        for name in expected_shapes(its_rows, "compvis")
    ]
    prefix = common_prefix(weights, expected)
    if not prefix:
        return weights, ()
    inner = below(weights, prefix)
    rest = len(weights) - len(inner)
    note = f'Took the {len(inner)} tensors below "{prefix}".'
    if rest and prefix != PREFIXES["autoencoder"]:
        raise NamesDiffer(
            f'the names of the model are below "{printable(prefix)}", and {rest} '
            f"tensors are not; choose the first with --key={printable(prefix[:-1])}."
        )
    if rest:  # the checkpoint of a diffusion model
        note += f" The {rest} others are of other networks."
    return inner, (note,)


def _stored_scale(weights, config_scale: float | None) -> float:
    """Reads the scale; the config's, if the checkpoint's is its rounded value."""
    stored = np.asarray(weights["scale_factor"])
    if config_scale is not None and stored == np.asarray(config_scale, stored.dtype):
        return config_scale
    return float(stored)


def has_averages(weights: Mapping[str, np.ndarray]) -> bool:
    """Returns whether a checkpoint has moving averages; counters alone do not count."""
    counters = {"model_ema.decay", "model_ema.num_updates"}
    return any(n.startswith("model_ema.") and n not in counters for n in weights)


def _averaged_network(spec) -> str:
    """Names the network of which a checkpoint may hold moving averages."""
    return "unet" if "unet" in spec else "autoencoder"


def _renaming(spec, network: str) -> Callable[[str], str]:
    """Makes a function that adds a network's prefix; a first stage alone has none."""
    prefix = PREFIXES[network] if "unet" in spec else ""
    return lambda name: prefix + name


def _ema_of(rename: Callable[[str], str]) -> Callable[[str], str]:
    return lambda name: ema_name(rename(name))


def _check_left_over(weights, spec, rows, renames) -> None:
    """Raises NamesDiffer for tensors that the model does not have."""
    known = set()
    for network, its_rows in rows.items():
        names = {
            renames[network](name) for name in expected_shapes(its_rows, "compvis")
        }
        known |= names
        if network == _averaged_network(spec):
            known |= {ema_name(name) for name in names}
    if "schedule" in spec:
        known |= set(schedule_buffers(spec["schedule"]))
    condition = spec.get("condition", {}).get("kind")
    if condition == "inpaint":  # the first stage, once more
        old, new = PREFIXES["autoencoder"], PREFIXES["conditioner"]
        known |= {new + n.removeprefix(old) for n in known if n.startswith(old)}
    is_given = condition in ("none", "retrieval")
    given_context = is_given and spec["unet"].get("context_dim")
    left_over = [
        f"left over: {name} {np.shape(weights[name])}"
        for name in weights
        if name not in known
        and not _IGNORED.fullmatch(name)
        # A pretrained text encoder of another kind: its output is passed in.
        and not (given_context and name.startswith(PREFIXES["conditioner"]))
    ]
    if left_over:
        what = "the checkpoint holds tensors that the model does not have"
        raise NamesDiffer(listed(what, left_over))


def export_compvis(
    spec: Mapping[str, Any],
    params: PyTree,
    ema: PyTree | None = None,
    extras: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Converts parameters to a state dict that CompVis loads strictly.

    Args:
      spec: see `networks`.
      params: {"autoencoder", "unet", "conditioner"}, as many as the model has.
      ema: {"unet": ...} moving averages to be written too; without them there are no
        `model_ema` names, and `use_ema` must be false in the config.
      extras: of `Imported`; replaces what is otherwise made here: the unused output
        layer of the text encoder (zeros), the buffers.

    Returns:
      {name: array}, mostly views of `params`.
    """
    rows = _rows(spec)
    state: dict[str, np.ndarray] = {}
    extras = extras or {}
    if "schedule" in spec:
        state.update(schedule_buffers(spec["schedule"]))
    if "scale_factor" in extras:
        state["scale_factor"] = np.array(spec["latent_scale"], np.float32)
    for network in ("unet", "autoencoder", "conditioner"):
        if network in rows:
            rename = _renaming(spec, network)
            flat = _flat(params[network])
            state.update(export_flat(flat, rows[network], "compvis", rename))
    if ema is not None:
        network = _averaged_network(spec)
        rename = _ema_of(_renaming(spec, network))
        flat = _flat(ema[network])
        state.update(export_flat(flat, rows[network], "compvis", rename))
        state["model_ema.decay"] = np.array(0.9999, np.float32)
        state["model_ema.num_updates"] = np.array(0, np.int32)
    state.update(_unused_tensors(spec, state))
    if "log_variance" in params:
        state["logvar"] = np.asarray(params["log_variance"])
    return {name: extras.get(name, array) for name, array in state.items()}


def _unused_tensors(spec, state) -> dict[str, np.ndarray]:
    """Makes the tensors that the original declares and never uses, or holds twice."""
    condition = spec.get("condition", {"kind": "none"})
    new, old = PREFIXES["conditioner"], PREFIXES["autoencoder"]
    if condition["kind"] == "inpaint":
        return {
            new + name.removeprefix(old): array
            for name, array in state.items()
            if name.startswith(old)
        }
    if condition["kind"] in ("text", "layout"):
        model = token_transformer(condition)
        if isinstance(model, ClipText):
            return {}
        logits = f"{new}transformer.to_logits"
        return {
            f"{logits}.weight": np.zeros((model.vocab_size, model.width), np.float32),
            f"{logits}.bias": np.zeros((model.vocab_size,), np.float32),
        }
    return {}


def _rows(spec) -> dict[str, Any]:
    """Returns the rows of each network of a model that the original can describe."""
    rows = network_rows(spec)
    if any(network not in PREFIXES for network in rows):
        raise CannotExpress(
            f'a "{spec["condition"]["kind"]}" condition has no names in the original.'
        )
    return rows


def _flat(params: PyTree) -> dict[str, Any]:
    return traverse_util.flatten_dict(params, sep="/")
