# SPDX-License-Identifier: Apache-2.0
"""Suggests the commands to run after one that has finished."""

import shlex
from collections.abc import Collection
from typing import Any

from ldm_jax.conditions.base import Condition
from ldm_jax.tasks.classifier import NoisyLatentClassifier
from ldm_jax.tasks.model import FirstStage, LatentDiffusion

# Field of stored latents -> a config that learns from it; the first that is there.
CONFIGS = dict(
    caption="photos:stage=diffusion,condition=text",
    boxes="small_layout",
    label_map="small_semantic",
    embeddings="small_retrieval",
    label="photos:stage=diffusion",
)
UNCONDITIONAL = "photos:stage=diffusion,condition=none"


def after(model: Any, directory: str) -> list[str]:
    """Lists the commands that use the model of a directory."""
    path = shlex.quote(directory)
    if isinstance(model, LatentDiffusion):
        return after_denoiser(directory, model.conditioner)
    if isinstance(model, NoisyLatentClassifier):
        return [f"ldm-jax sample --model DIR --classifier {path} --out samples"]
    if isinstance(model, FirstStage):
        return [
            f"ldm-jax reconstruct --model {path} --out {path}/pairs.png",
            f"ldm-jax latents --model {path} --out {path}-latents",
        ]
    return [f"ldm-jax train --config=text --config.text_encoder.directory={path}"]


def after_latents(directory: str, fields: Collection[str]) -> list[str]:
    """Lists what a set of latents is for.

    Args:
      directory: of the latents.
      fields: names of what each of its records has.
    """
    latents = shlex.quote(directory)
    config = next(
        (config for field, config in CONFIGS.items() if field in fields), UNCONDITIONAL
    )
    return [
        f"ldm-jax latents --inspect {latents}",
        f"ldm-jax train --config={config} --config.latents.directory={latents} "
        "--workdir runs/denoiser",
    ]


def after_denoiser(directory: str, condition: Condition) -> list[str]:
    """Lists the commands that use a diffusion model, with its condition's flags."""
    model = shlex.quote(directory)
    flags = "".join(f" {flag}" for flag in example_flags(condition))
    return [
        f"ldm-jax sample --model {model} --out {model}-samples{flags} --num 16",
        f"ldm-jax demo --model {model}",
    ]


def example_flags(condition: Condition) -> list[str]:
    """Lists the flags of `ldm-jax sample` that a condition needs, with a value each."""
    names = list(getattr(condition, "class_names", ()))
    # What a shell and the flag take as one word; else the class's number.
    is_word = bool(names) and names[0].isprintable() and "," not in names[0]
    flags = []
    for name, field in condition.fields.items():
        is_named = name == "label" and is_word
        value = shlex.quote(names[0]) if is_named else field.example
        flags.append(f"--{field.flag} {value}")
    return flags
