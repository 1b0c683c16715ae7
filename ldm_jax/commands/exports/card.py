# SPDX-License-Identifier: Apache-2.0
"""Collects the details of an export's model card that are not model settings."""

import pathlib
from typing import Any, NamedTuple

from ldm_jax.commands.exports.draw import DRAW
from ldm_jax.experiment.model_settings import ModelSettings
from ldm_jax.files.formats.pictures import read_image
from ldm_jax.files.formats.structured import read_json
from ldm_jax.files.paths import printable, resolve
from ldm_jax.files.reading import regular_file
from ldm_jax.interop.diffusers.model_card import CardDetails


class HubOptions(NamedTuple):
    """Options of an export to a folder for the Hub.

    Attributes:
      variant: "fp16" adds weights in half precision; "" does not.
      licence: identifier for the model card, such as "apache-2.0"; "" for none.
      results: results.json of `ldm-jax evaluate`, for the model card.
      picture: of samples, for the model card; DRAW samples some, None takes the newest
        in images/, where training writes them.
    """

    variant: str = ""
    licence: str = ""
    results: str | None = None
    picture: str | None = None


def read_card_details(
    title: str, trained: ModelSettings, options: HubOptions
) -> CardDetails:
    """Reads the details of a model card.

    Args:
      title: name of the model.
      trained: its settings.
      options: of the export.

    Raises:
      ValueError: the results hold no figures, or a file cannot be read.
    """
    picture = options.picture or _newest_picture(trained.directory)
    picture = None if picture == DRAW else picture
    results = None if options.results is None else _read_results(options.results)
    return CardDetails(
        title=title,
        dataset=printable(pathlib.PurePath(trained.dataset).name),
        licence=options.licence,
        training=trained.training,
        results=results,
        picture=None if picture is None else read_image(picture),
    )


def _newest_picture(model_dir: str) -> pathlib.Path | None:
    """Finds samples, else reconstructions, of the last evaluation in training."""
    for kind in ("sample", "reconstruction"):
        if pictures := sorted(resolve(model_dir).glob(f"images/{kind}*.png")):
            return regular_file(pictures[-1])
    return None


def _read_results(path: str) -> dict[str, Any]:
    results = read_json(path)
    figures = results.get("figures")
    entries = figures.values() if isinstance(figures, dict) else [None]
    if "num_images" not in results or not all(
        isinstance(entry, dict) and {"label", "value"} <= entry.keys()
        for entry in entries
    ):
        raise ValueError(
            f"--results must be the results.json of ldm-jax evaluate: {printable(path)}"
            " has no figures of a number of images; give another file."
        )
    return results
