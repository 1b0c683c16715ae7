# SPDX-License-Identifier: Apache-2.0
"""Reads a section of a CompVis config field by field, and checks the types."""

import contextlib
import math
from collections.abc import Collection, Mapping
from typing import Any

from ldm_jax.files.errors import shown
from ldm_jax.interop.config_fields import REQUIRED, check_value

# Fields that say nothing about the weights or what is computed with them.
_TRAINING_ONLY = frozenset(
    {
        *("monitor", "log_every_t", "ckpt_path", "ignore_keys", "load_only_unet"),
        *("scheduler_config", "lossconfig", "image_key", "lr_g_factor", "use_ema"),
        *("batch_resize_range", "cond_stage_trainable", "clip_denoised"),
        *("num_timesteps_cond", "logvar_init", "sane_index_shape", "image_size"),
        *(
            "channels",
            "first_stage_key",
            "use_positional_encodings",
            "base_learning_rate",
        ),
        *("use_checkpoint", "use_fp16", "legacy", "attn_type"),
        *("device", "key", "use_tokenizer", "embedding_dropout"),
    }
)


class Section:
    """A dict that is read field by field; fields left unread are an error."""

    def __init__(self, where: str, fields: Any):
        check_value(where, fields, Mapping)
        self.where = where
        self._left = dict(fields)

    def take(self, name: str, default: Any = None, kind: Any = Any) -> Any:
        """Takes a field, of a type as `check_type` has them."""
        value = self._left.pop(name, default)
        if kind is float and isinstance(value, str):
            with contextlib.suppress(ValueError):  # YAML takes 1e-4 for a text
                value = float(value)
        check_value(f"{self.where}.{name}", value, kind)
        if kind is float and not math.isfinite(float(value)):
            raise ValueError(
                f"{self.where}.{name} of the config must be a finite number: got "
                f"{value}."
            )
        return tuple(value) if isinstance(value, list) else value

    def choose(
        self, name: str, default: str | None, choices: Collection[str | None]
    ) -> Any:
        """Takes a field that has one of some values."""
        value = self.take(name, default, str | None if None in choices else str)
        if value not in choices:
            known = ", ".join(choice for choice in choices if choice is not None)
            raise ValueError(
                f"{self.where}.{name} of the config must be one of {known}: got "
                f"{shown(value)}; others are not supported."
            )
        return value

    def need(self, name: str, kind: Any = Any) -> Any:
        """Takes a field that must be there."""
        if name not in self._left:
            raise ValueError(f"{self.where} of the config lacks {name}.")
        return self.take(name, kind=kind)

    def section(self, name: str) -> dict[str, Any]:
        """Takes the params of a section {"target": ..., "params": ...}."""
        return section_params(self.need(name, Mapping), f"{self.where}.{name}")

    def field(self, name: str, default: Any) -> Any:
        """Takes a field of a table of `config_fields`."""
        return self.need(name) if default is REQUIRED else self.take(name, default)

    def refuse(self, *names: str) -> None:
        """Raises ValueError where one of these fields is set."""
        for name in names:
            if self._left.pop(name, None):
                raise ValueError(
                    f"{self.where}.{name} of the config must not be set: no published "
                    "model has it, and it is not supported."
                )

    def done(self) -> None:
        """Raises ValueError where an unknown field is left unread."""
        unknown = sorted(map(str, set(self._left) - _TRAINING_ONLY))
        if unknown:
            raise ValueError(
                f"{self.where} of the config has unknown fields {shown(unknown)}; is "
                "this a latent-diffusion config?"
            )


def section_params(section: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Returns the params of a section {"target": ..., "params": ...}; {} if none."""
    params = section.get("params") or {}
    check_value(f"{where}.params", params, Mapping)
    return dict(params)
