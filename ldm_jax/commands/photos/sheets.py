# SPDX-License-Identifier: Apache-2.0
"""The sheet of samples: a row for each class or prompt, labelled with its name."""

import textwrap

import numpy as np

from ldm_jax.conditions.base import Condition
from ldm_jax.conditions.kinds.class_label import ClassLabel
from ldm_jax.data.latents.sets import open_latent_sets
from ldm_jax.data.records import read_whole
from ldm_jax.experiment import model_directory, stored_config
from ldm_jax.experiment.model_settings import read_settings
from ldm_jax.files.formats import png
from ldm_jax.tasks.sample_images import sample_images

ROWS, COLUMNS = 10, 8
LABEL = 28  # characters of a prompt next to its row


def sample_sheet(directory: str) -> tuple[np.ndarray, np.ndarray]:
    """Samples from a model: a row for each class, up to ten; or rows without names.

    Args:
      directory: of the diffusion model.

    Returns:
      (the sheet, uint8 [H', W', 3]; the samples, uint8 [N, H, W, 3]).
    """
    model, params = model_directory.load(directory, task="latent_diffusion")
    trained = read_settings(directory, "latent_diffusion")
    sampling = trained.sampling()
    assert sampling is not None  # a diffusion model has it
    y, names = row_conditions(model.conditioner, trained.latents)
    count = len(names) * COLUMNS
    images = sample_images(
        model,
        params,
        {name: np.repeat(x, COLUMNS, axis=0) for name, x in y.items()},
        seeds=np.arange(count),
        latent_shape=stored_config.latent_shape(directory),
        sampling=sampling,
        batch_size=min(count, 64),
    )
    images = np.concatenate(list(images))
    labels = names if any(names) else []
    enlarge = png.enlargement(images.shape[2])
    return png.grid(images, COLUMNS, labels, enlarge=enlarge), images


def row_conditions(
    condition: Condition, latents: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the condition of every row, [R, ...] by field, and the row's name."""
    if isinstance(condition, ClassLabel):
        count = condition.num_classes
        labels = np.unique(np.linspace(0, count - 1, ROWS).astype(np.int32))
        names = condition.class_names or [str(i) for i in range(count)]
        return {"label": labels.astype(np.int32)}, [names[i] for i in labels]
    if condition.kind == "text":
        texts = _captions(latents)
        labels = [textwrap.shorten(text, LABEL, placeholder=" ...") for text in texts]
        return condition.from_user(text=texts), labels
    return {}, [""] * 5


def _captions(directory: str) -> list[str]:
    """Returns different captions of the latents, evenly spread."""
    source, _, _ = open_latent_sets(directory)
    places = np.unique(np.linspace(0, len(source) - 1, ROWS).astype(int))
    captions = [str(record["caption"]) for _, record in read_whole(source, places)]
    return list(dict.fromkeys(captions))
