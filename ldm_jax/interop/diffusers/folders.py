# SPDX-License-Identifier: Apache-2.0
"""Finds the folder of each network in a folder of diffusers."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from ldm_jax.files.errors import shown
from ldm_jax.files.formats.structured import read_json
from ldm_jax.files.paths import printable

# The class of `exported/conditioner.py`: settings of any condition, and a network of
# those for which diffusers has none.
OWN_CONDITIONER = "LDMConditioner"
# Class name in a config -> our network.
NETWORKS = {
    "AutoencoderKL": "autoencoder",
    "VQModel": "autoencoder",
    "UNet2DModel": "unet",
    "UNet2DConditionModel": "unet",
    "LDMBertModel": "conditioner",
    "CLIPTextModel": "conditioner",
    "CLIPModel": "conditioner",  # its text tower
    OWN_CONDITIONER: "conditioner",
}
# Suffix of the folder in which training scripts save a network's moving average.
AVERAGES = "_ema"


class Folders(NamedTuple):
    """The folders of a model.

    Attributes:
      parts: the folders to read, each with the config.json of one network.
      used: "ema" if one of them holds moving averages, else "raw".
      notes: sentences on folders that are not read.
    """

    parts: tuple[pathlib.Path, ...]
    used: str
    notes: tuple[str, ...]


def find_folders(folder: pathlib.Path, which: str = "ema") -> Folders:
    """Finds the folders of a model's networks.

    A pipeline's model_index.json decides which folders belong to it. Without one there
    may be one folder for each network, and one more, of the same name and "_ema", with
    its moving averages.

    Args:
      folder: a pipeline, or one model.
      which: "ema" takes moving averages where there are any, "raw" never.

    Raises:
      ValueError: no network, one that the index lists is missing, or several of a kind.
    """
    if (folder / "config.json").is_file():
        return Folders((folder,), "raw", ())
    present = {
        path.parent.name: class_name(read_json(path))
        for path in sorted(folder.glob("*/config.json"))
    }
    networks = {name: cls for name, cls in present.items() if cls in NETWORKS}
    index = folder / "model_index.json"
    chosen = _listed(index, networks) if index.is_file() else list(networks)
    averages = {n: n.removesuffix(AVERAGES) for n in networks if n.endswith(AVERAGES)}
    chosen = [name for name in chosen if averages.get(name) not in networks]
    used, parts = "raw", []
    for name in chosen:
        has_average = which == "ema" and f"{name}{AVERAGES}" in networks
        parts.append(f"{name}{AVERAGES}" if has_average else name)
        used = "ema" if has_average or name.endswith(AVERAGES) else used
    _check_one_each(folder, parts, networks)
    if not parts:
        raise ValueError(
            f"{printable(folder)} holds no model (a folder with config.json) of the "
            f"classes {', '.join(NETWORKS)}."
        )
    left = sorted(set(networks) - set(chosen) - set(averages))
    note = f"Not read, as {index.name} does not list them: {', '.join(left)}."
    paths = tuple(folder / name for name in parts)
    return Folders(paths, used, (printable(note),) if left else ())


def class_name(config: Mapping[str, Any]) -> str:
    """Returns the class that a config.json names; "none" without one."""
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures:
        return str(architectures[0])
    return str(config.get("_class_name") or "none")


def _listed(index: pathlib.Path, networks: Mapping[str, str]) -> list[str]:
    """Lists the folders of networks that a model_index.json names."""
    result = []
    for name, value in read_json(index).items():
        if name.startswith("_") or not isinstance(value, list):
            continue  # an option of the pipeline
        if len(value) != 2:
            raise ValueError(
                f"{printable(index)} must name a library and a class for each part: "
                f"{printable(name)} has {shown(value)}."
            )
        if name not in networks and value[1] in NETWORKS:
            raise ValueError(
                f"{printable(index)} lists {printable(name)} ({value[1]}): no "
                f"{printable(name)}/config.json of such a class is there; download the "
                "whole folder."
            )
        if name in networks and value[1] is not None:
            result.append(name)
    return result


def _check_one_each(
    folder: pathlib.Path, parts: list[str], networks: Mapping[str, str]
) -> None:
    """Raises ValueError for several folders of one network."""
    for network in sorted(set(NETWORKS.values())):
        several = [name for name in parts if NETWORKS[networks[name]] == network]
        # Our own conditioner's folder may only describe the text encoder's.
        several = [n for n in several if networks[n] != OWN_CONDITIONER] or several
        if len(several) > 1:
            raise ValueError(
                f"a model has one {network}: {printable(folder)} has "
                f"{', '.join(f'{printable(n)}/ ({networks[n]})' for n in several)}; "
                "give a model_index.json that lists one, or move the others away "
                f"(NAME and NAME{AVERAGES} are weights and their moving average)."
            )
