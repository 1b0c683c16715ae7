# SPDX-License-Identifier: Apache-2.0
"""The UNet of a config as diffusers has it, trained by PyTorch (extra: torch)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ldm_jax.interop.diffusers.write_config import unet_config
from ldm_jax.planning.blueprint import Blueprint


def torch_training(drawn: Blueprint, lr: float) -> dict[str, Callable[[], None]]:
    """Makes training steps of PyTorch, eager and compiled, each of its own UNet.

    Channels last; where our arithmetic is bfloat16 theirs is autocast to it. A step
    draws noise and times, and does AdamW and an average, as ours.

    Args:
      drawn: of a diffusion model.
      lr: learning rate.

    Raises:
      CannotExpress: diffusers has no such network.
    """
    config = unet_config(drawn.model.unet, drawn.batch["moments"].shape[1])
    return {
        "torch": _step(drawn, config, lr, is_compiled=False),
        "compiled": _step(drawn, config, lr, is_compiled=True),
    }


def _step(drawn: Blueprint, config, lr: float, is_compiled: bool):
    import diffusers
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = getattr(diffusers, config["_class_name"]).from_config(config)
    network = network.to(device, memory_format=torch.channels_last).train()
    average = [p.detach().clone() for p in network.parameters()]
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr)
    forward = torch.compile(network) if is_compiled else network
    unet = drawn.model.unet
    batch, h, w, _ = drawn.batch["moments"].shape
    z_0 = torch.randn(batch, unet.in_channels or unet.out_channels, h, w, device=device)
    z_0 = z_0.to(memory_format=torch.channels_last)
    told = {}
    if unet.context_dim is not None:
        tokens = _context_tokens(drawn)
        context = torch.randn(batch, tokens, unet.context_dim, device=device)
        told["encoder_hidden_states"] = context
    if unet.num_classes is not None:
        told["class_labels"] = torch.zeros(batch, dtype=torch.long, device=device)
    keep = torch.linspace(0.999, 0.05, 1000, device=device)[:, None, None, None]
    half = jnp.dtype(unet.dtype) == jnp.bfloat16

    def step():
        t = torch.randint(0, 1000, (batch,), device=device)
        eps = torch.randn_like(z_0)
        z_t = keep[t].sqrt() * z_0 + (1 - keep[t]).sqrt() * eps
        with torch.autocast(device, torch.bfloat16, enabled=half):
            eps_hat = forward(z_t, t, **told).sample
        target = eps[:, : eps_hat.shape[1]]
        loss = torch.nn.functional.mse_loss(eps_hat.float(), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(network.parameters()), 1e-4)
        loss.item()  # waits for the device

    return step


def _context_tokens(drawn: Blueprint) -> int:
    """Counts the tokens of the context that the config's condition makes."""
    y = {n: x for n, x in drawn.batch.items() if n in drawn.model.conditioner.fields}
    key = jax.random.key(0)
    params = jax.eval_shape(lambda key: drawn.task.init(key, drawn.batch)[0], key)
    cond = jax.eval_shape(
        lambda p, y: drawn.model.conditioner.encode(p.get("conditioner", {}), y),
        params,
        y,
    )
    return cond.context.shape[1]
