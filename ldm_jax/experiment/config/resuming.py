# SPDX-License-Identifier: Apache-2.0
"""Lists the settings that may change when a run is resumed, or that define a model."""

import dataclasses

from ldm_jax.training.options import LoopOptions

# In addition to the options of the loop that are marked `may_change`.
MAY_CHANGE = (
    "autoencoder.remat",
    "classifier.attention_backend",
    "classifier.remat",
    "condition.merges",  # the contents of these files may not
    "condition.vocab",
    "diffusion.directory",  # its autoencoder, schedule and scale may not
    "evaluation",
    "held_out_latents",
    "lpips.file",  # its fingerprint may not
    "mesh",
    "sampling",
    "text_encoder.directory",  # its fingerprint may not
    "unet.attention_backend",
    "unet.remat",
)
# The same where an option of the loop allows it.
ALLOWED_BY = {
    "allow_data_change": (
        *("batch_size", "held_out", "images", "latents", "seed", "transform"),
    ),
    "allow_optimizer_change": ("optimizer",),
}
# What the networks compute: where it differs, the parameters of another model may mean
# something else (another schedule, another scale of the latents).
DEFINE_MODEL = (
    *("autoencoder", "condition", "latents.scale", "prediction", "schedule", "unet"),
    "classifier",
)


def may_change(name: str) -> bool | str:
    """Returns whether a setting may differ when a run is resumed.

    Args:
      name: of a setting, dotted ("train.num_steps"), or of a section.

    Returns:
      True, False, or the name of the option of `LoopOptions` that allows a change.
    """
    section, _, field = name.partition(".")
    if section == "train":
        fields = {f.name: f for f in dataclasses.fields(LoopOptions)}
        return field in fields and fields[field].metadata["may_change"]
    if _is_within(name, MAY_CHANGE):
        return True
    for option, names in ALLOWED_BY.items():
        if _is_within(name, names):
            return option
    return False


def defines_model(name: str) -> bool:
    """Returns whether a setting affects what the networks compute."""
    return _is_within(name, DEFINE_MODEL)


def may_change_in_copy(name: str) -> bool:
    """Returns whether a setting of a network may differ from that of its copy.

    How it was trained may, if the parameters are the same ones: the intervals of its
    reports, for example.
    """
    return not defines_model(name)


def _is_within(name: str, names: tuple[str, ...]) -> bool:
    """Returns whether a dotted name is one of `names`, or within a section of them."""
    return any(f"{name}.".startswith(f"{known}.") for known in names)
