# SPDX-License-Identifier: Apache-2.0
"""Imports folders of diffusers."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.files.errors import naming
from ldm_jax.files.formats.structured import read_json
from ldm_jax.files.paths import PathLike, printable
from ldm_jax.interop.compvis.state_dict import Imported
from ldm_jax.interop.diffusers import read_config as specs
from ldm_jax.interop.diffusers.config_values import Values, check_config_values
from ldm_jax.interop.diffusers.folders import (
    NETWORKS,
    OWN_CONDITIONER,
    class_name,
    find_folders,
)
from ldm_jax.interop.diffusers.scheduler import Scheduler, read_scheduler
from ldm_jax.interop.layouts import (
    NamesDiffer,
    expected_shapes,
    import_flat,
    listed,
)
from ldm_jax.interop.networks import (
    condition_parts,
    conditioner_rows,
    network_rows,
)
from ldm_jax.interop.stored import Renamed, Weights
from ldm_jax.interop.weight_files import read_weights
from ldm_jax.types import PyTree

# Conditions whose network is LDMBertModel or CLIPTextModel.
TEXT_KINDS = ("text", "layout")

# Attention's names before diffusers 0.15; published folders still have them.
_OLD_ATTENTION = re.compile(r"(.*attentions\.\d+\.)(query|key|value|proj_attn)(\..*)")
_NEW_ATTENTION = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}


def import_diffusers(folder: PathLike, which: str = "ema") -> Imported:
    """Converts a folder of diffusers: a pipeline, or one model.

    Args:
      folder: holds a folder per model (a pipeline), or the config.json of one model
        and its weights.
      which: "ema" takes moving averages where there are any, "raw" never.

    Returns:
      Imported. Models of other classes (a safety checker) are left out. A denoiser
      without a first stage becomes a model of pixels, with the denoiser's channels; a
      first stage or a text encoder alone gives a spec with its one section.

    Raises:
      UnreadableFile: a class or an option that is not supported, several networks of
        one kind, or no weights; names the file.
      NamesDiffer: tensors are missing, left over or misshapen; lists them by name.
    """
    folder = pathlib.Path(folder)
    with naming(folder):
        return _import_folder(folder, which)


def _import_folder(folder: pathlib.Path, which: str) -> Imported:
    matches = find_folders(folder, which)
    sections, weights, configs = {}, {}, {}
    notes = list(matches.notes)
    scheduler = _scheduler_in(folder)
    opened = [(part, read_json(part / "config.json")) for part in matches.parts]
    # The settings in conditioner/ are complete, those of a text encoder's are not.
    for part, config in sorted(
        opened, key=lambda entry: class_name(entry[1]) == OWN_CONDITIONER
    ):
        with naming(part / "config.json"):
            network, section, tensors, more = _open_model(part, config)
        sections[network], configs[network] = section, config
        weights |= _of_parts(section, tensors, weights, name=network)
        notes += more
    for section in condition_parts(sections.get("conditioner")).values():
        if section["kind"] in TEXT_KINDS:
            section |= _tokenizer_files(folder)
    if scheduler is not None:
        sections["scheduler"] = scheduler
        notes += [*filter(None, [scheduler.sampler_note]), *scheduler.notes]
    spec = _whole_spec(sections)
    params = _import_networks(spec, weights)
    return Imported(spec, params, matches.used, {}, _image_size(configs), tuple(notes))


def _scheduler_in(folder: pathlib.Path) -> Scheduler | None:
    """Reads the scheduler of a pipeline, if it has one."""
    path = folder / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        return None
    with naming(path):
        scheduler = read_scheduler(read_json(path))
        make_schedule(**scheduler.schedule)  # finds betas out of range
    return scheduler


def _of_parts(section, tensors, weights, name: str):
    """Returns {network: tensors} of a folder; of a hybrid condition those of each part.

    Args:
      section: of the folder's config.json.
      tensors: of the folder.
      weights: {network: tensors} of the folders before; that of a text encoder alone is
        under "conditioner".
      name: of the network.
    """
    if name != "conditioner" or section["kind"] != "hybrid":
        # conditioner/ may only describe bert/.
        return {name: tensors} if tensors or name not in weights else {}
    parts = {}
    networks = condition_parts(section)
    prefixes = tuple(map(part_prefix, networks))
    if odd := [f"left over: {n}" for n in tensors if not n.startswith(prefixes)]:
        raise NamesDiffer(listed("tensors must be of a part of the condition", odd))
    for network, part in networks.items():
        prefix = part_prefix(network)
        names = {n.removeprefix(prefix): n for n in tensors if n.startswith(prefix)}
        is_text = part["kind"] in TEXT_KINDS
        parts[network] = weights.get(name, {}) if is_text else Renamed(tensors, names)
    return parts


def part_prefix(network: str) -> str:
    """Returns the prefix of the tensors of a condition's part, "" of the condition."""
    part = network.partition("/")[2]
    return f"parts.{part}." if part else ""


def _tokenizer_files(folder: pathlib.Path) -> dict[str, str]:
    """Finds the tokenizer's files, if the folder has them, as a condition's fields."""
    names = {"vocab.txt": "vocab", "vocab.json": "vocab", "merges.txt": "merges"}
    # With a text encoder alone, or in the pipeline's folder tokenizer/.
    places = [folder / "tokenizer", folder]
    return {
        field: str(place / name)
        for place in reversed(places)
        for name, field in names.items()
        if (place / name).is_file()
    }


def _image_size(configs) -> int | None:
    """Reads the side of the images from the configs, {network: config}."""
    first_stage, unet = configs.get("autoencoder"), configs.get("unet")
    size = (unet or first_stage or {}).get("sample_size")
    if unet and first_stage and isinstance(size, int):
        size *= 2 ** (len(first_stage["block_out_channels"]) - 1)
    return size if isinstance(size, int) else None


def _open_model(folder: pathlib.Path, config):
    """Opens the folder of one model: (network, section of a spec, weights, notes)."""
    name = class_name(config)
    if name not in NETWORKS:
        raise ValueError(
            f"{printable(folder)} holds a {printable(name)}; one of these can be "
            f"imported: {', '.join(NETWORKS)}."
        )
    readers = {
        "autoencoder": specs.autoencoder_spec,
        "unet": specs.unet_spec,
        "conditioner": specs.token_transformer_spec,
    }
    network = NETWORKS[name]
    if name == OWN_CONDITIONER:
        needed = {"condition": Values(Mapping, is_required=True)}
        check_config_values(config, needed)
        section = dict(config["condition"])
        needed = {"kind": Values(str, is_required=True)}
        check_config_values(section, needed, "condition")
        # A condition without a network has a file without tensors.
        weights = read_weights(folder) if _has_network(section) else Weights({})
        return network, section, weights, ()
    if name == "CLIPModel":
        check_config_values(config, {"text_config": Values(Mapping)}, name)
        config = {**config.get("text_config", {}), "architectures": ["CLIPTextModel"]}
    section = readers[network](config)
    # Before weights are read: settings of which no network can be made.
    fields = section[0] if network == "autoencoder" else section
    network_rows({"condition" if network == "conditioner" else network: fields})
    weights = read_weights(folder)
    names = _modern(weights, name)
    notes = [f"{folder.name}/: {note}" for note in weights.notes]
    return network, section, Renamed(weights, names), notes


def _has_network(section) -> bool:
    """Returns whether a condition, or a part, has parameters in conditioner/."""
    parts = condition_parts(section).values()
    # Any factor will do: which tensors there are does not depend on it.
    return any(
        conditioner_rows({"f": 1, **part})
        for part in parts
        if part["kind"] not in TEXT_KINDS
    )


def _modern(weights, class_name: str) -> dict[str, str]:
    """Returns {name of a tensor in our tables: its name in the file}."""
    result = {}
    for name in weights:
        if class_name == "CLIPModel" and not name.startswith("text_model."):
            continue  # the image tower and the projections
        if class_name == "CLIPTextModel" and not name.startswith("text_model."):
            result[f"text_model.{name}"] = name  # as transformers 5 saves it
            continue
        old = _OLD_ATTENTION.fullmatch(name)
        new = f"{old[1]}{_NEW_ATTENTION[old[2]]}{old[3]}" if old else name
        result[new] = name
    return result


def _whole_spec(sections) -> dict[str, Any]:
    """Joins the sections of a spec; the condition depends on the networks present."""
    spec: dict[str, Any] = {}
    if "autoencoder" in sections:
        spec["autoencoder"], spec["latent_scale"] = sections["autoencoder"]
    if "conditioner" in sections:
        spec["condition"] = sections["conditioner"]
    if "unet" not in sections:
        if "autoencoder" in sections:
            spec["task"] = "first_stage"
        elif spec["condition"]["kind"] == "text":
            spec["task"] = "text_encoder"
        return spec
    unet = sections["unet"]
    spec.update(task="latent_diffusion", unet=unet)
    has_first_stage = "autoencoder" in spec
    if not has_first_stage:  # DDPMPipeline, or a denoiser alone
        c = unet["out_channels"]
        spec["autoencoder"] = {"bottleneck": "pixels"}
        if c != 3:
            spec["autoencoder"] |= {"in_channels": c, "out_channels": c}
        spec["latent_scale"] = 1.0
    spec.setdefault("condition", _condition_of(unet, has_first_stage))
    default = Scheduler({"kind": "scaled_linear"}, "eps", {})
    scheduler = sections.get("scheduler", default)
    spec["schedule"], spec["prediction"] = scheduler.schedule, scheduler.prediction
    spec["objective"] = {"distance": "l2"}
    if scheduler.sampling:
        spec["sampling"] = scheduler.sampling
    return spec


def _condition_of(unet, has_first_stage: bool) -> dict[str, Any]:
    """Makes the condition of a UNet that came without a conditioner."""
    classes = unet.get("num_classes")
    if classes is not None:  # a row of the UNet's own table each
        return dict(kind="class", num_classes=classes, width=None, has_null=False)
    doubled = unet["in_channels"] == 2 * unet["out_channels"]
    is_superres = has_first_stage and doubled and "context_dim" not in unet
    # Else a context or concat, if the UNet reads any, is passed in by the user.
    return {"kind": "superres" if is_superres else "none"}


def _import_networks(spec, opened) -> PyTree:
    """Converts the weights of each network; every tensor must have its place."""
    params = {}
    for network, rows in network_rows(spec).items():
        if network not in opened:
            raise ValueError(f"the folder has no weights for the {network}.")
        weights = opened[network]
        form = form_of(spec, network)
        left_over = set(weights) - set(expected_shapes(rows, form))
        lines = [
            f"left over: {name} {np.shape(weights[name])}"
            for name in sorted(left_over)
            # Not used: LDMBertModel's output layer, CLIP's numbers of positions.
            if not name.startswith("to_logits.") and not name.endswith("position_ids")
        ]
        if lines:
            what = f"the {network}'s weights hold tensors that the model does not have"
            raise NamesDiffer(listed(what, lines))
        flat = import_flat(weights, rows, form)
        params |= {f"{network}/{path}": array for path, array in flat.items()}
    return traverse_util.unflatten_dict(params, sep="/")


def form_of(spec, network: str) -> str:
    """Returns the format of tensor names: CompVis's if diffusers has no class."""
    section = condition_parts(spec.get("condition")).get(network)
    is_ours = section is not None and section["kind"] not in TEXT_KINDS
    return "compvis" if is_ours else "diffusers"
