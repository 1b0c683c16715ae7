# SPDX-License-Identifier: Apache-2.0
"""The condition of a latent diffusion model: its settings and, if any, its network.

Text encoders are diffusers' and transformers' own classes; a class embedding and the
rescaler of label maps are here.

Source: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion
Models".
"""

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

# Settings that a condition may leave out.
DEFAULTS = {
    "class": {"width": 512, "has_null": True},
    "text": {"length": 77},
    "layout": {"vocab_size": 8192, "max_objects": 30, "has_attributes": False},
    "semantic": {"out_channels": 3, "use_bias": False},
}


class LDMConditioner(ModelMixin, ConfigMixin):
    """Encodes classes and label maps.

    Args:
      condition: {"kind": "class", "text", "layout", "semantic", "superres" or
        "inpaint", ...}, the settings that the model was trained with; {"kind":
        "hybrid", "parts": {name: condition}} of several.
      latent_scale: of the latent of an image to inpaint.
    """

    @register_to_config
    def __init__(self, condition, latent_scale=1.0):
        super().__init__()
        # A module without parameters has no device that diffusers could ask for.
        self.register_buffer("place", torch.zeros(1), persistent=False)
        self.kind = kind = condition["kind"]
        self.condition = condition = {**DEFAULTS.get(kind, {}), **condition}
        if kind == "hybrid":  # in this order their outputs are joined
            parts = sorted(condition["parts"].items())
            self.parts = nn.ModuleDict(
                {name: LDMConditioner(part, latent_scale) for name, part in parts}
            )
        if kind == "class" and condition["width"] is not None:
            rows = condition["num_classes"] + condition["has_null"]
            self.embedding = nn.Embedding(rows, condition["width"])
        if kind == "semantic" and condition["out_channels"] is not None:
            self.channel_mapper = nn.Conv2d(
                condition["num_classes"],
                condition["out_channels"],
                1,
                bias=condition["use_bias"],
            )

    def forward(self, y):
        """Encodes classes, int [B] -> [B, 1, d], or label maps, int [B, H, W].

        Returns a label map as channels [B, k, H/f, W/f]; labels outside of
        [0, num_classes) mean "unknown" and are zero in every channel.
        """
        if self.kind == "class":
            return self.embedding(y)[:, None]
        condition = self.condition
        num_classes = condition["num_classes"]
        known = (y >= 0) & (y < num_classes)
        x = F.one_hot(y.clamp(0, num_classes - 1).long(), num_classes)
        x = (x * known[..., None]).movedim(-1, 1).float()
        if condition["out_channels"] is not None:
            x = self.channel_mapper(x.to(self.channel_mapper.weight.dtype))
        for _ in range(condition["f"].bit_length() - 1):
            x = F.avg_pool2d(x, 2)
        return x

    def null(self, y):
        """Returns classes or label maps that state nothing, shaped like y.

        Raises:
          ValueError: the model was trained without a null class.
        """
        condition = self.condition
        if self.kind == "class" and not condition["has_null"]:
            raise ValueError(
                "guidance needs a null class: this model was trained without one; "
                "use guidance_scale=1."
            )
        return torch.full_like(y, condition["num_classes"])
