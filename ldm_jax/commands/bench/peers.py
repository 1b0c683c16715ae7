# SPDX-License-Identifier: Apache-2.0
"""Builds and trains the UNet of a config with diffusers and PyTorch (extra: torch)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ldm_jax.interop.diffusers.write_config import unet_config
from ldm_jax.training.run import Run

# Of no consequence for the time a step takes.
LEARNING_RATE = 1e-4


def torch_training(run: Run) -> dict[str, Callable[[], None]]:
    """Makes training steps of PyTorch, eager and compiled, each with its own UNet.

    Channels last; where JAX computes in bfloat16, PyTorch uses autocast to it. A step
    draws noise and times, and does AdamW and an average, as ours.

    Args:
      run: of a diffusion model.

    Raises:
      CannotExpress: diffusers has no such network.
    """
    assert run.latent_shape is not None  # that of a diffusion model
    config = unet_config(run.model.unet, run.latent_shape[0])
    return {
        "torch": _step(run, config, is_compiled=False),
        "compiled": _step(run, config, is_compiled=True),
    }


def _step(run: Run, config, is_compiled: bool):
    import diffusers
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = getattr(diffusers, config["_class_name"]).from_config(config)
    network = network.to(device, memory_format=torch.channels_last).train()
    average = [p.detach().clone() for p in network.parameters()]
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    forward = torch.compile(network) if is_compiled else network
    unet = run.model.unet
    assert run.latent_shape is not None  # that of a diffusion model
    batch, (h, w, _) = run.batch_size, run.latent_shape
    z_0 = torch.randn(batch, unet.in_channels or unet.out_channels, h, w, device=device)
    z_0 = z_0.to(memory_format=torch.channels_last)
    conditions = {}
    if unet.context_dim is not None:
        tokens = _context_tokens(run)
        context = torch.randn(batch, tokens, unet.context_dim, device=device)
        conditions["encoder_hidden_states"] = context
    if unet.num_classes is not None:
        conditions["class_labels"] = torch.zeros(batch, dtype=torch.long, device=device)
    keep = torch.linspace(0.999, 0.05, 1000, device=device)[:, None, None, None]
    half = jnp.dtype(unet.dtype) == jnp.bfloat16

    def step():
        t = torch.randint(0, 1000, (batch,), device=device)
        eps = torch.randn_like(z_0)
        z_t = keep[t].sqrt() * z_0 + (1 - keep[t]).sqrt() * eps
        with torch.autocast(device, torch.bfloat16, enabled=half):
            eps_hat = forward(z_t, t, **conditions).sample
        target = eps[:, : eps_hat.shape[1]]
        loss = torch.nn.functional.mse_loss(eps_hat.float(), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(network.parameters()), 1e-4)
        loss.item()  # waits for the device

    return step


def _context_tokens(run: Run) -> int:
    """Counts the tokens of the context that the config's condition makes."""
    conditioner = run.model.conditioner
    y = {name: run.batch_shapes[name] for name in conditioner.fields}
    params, _ = run.task.shapes(run.batch_shapes)
    cond = jax.eval_shape(
        lambda p, y: conditioner.encode(p.get("conditioner", {}), y, run.task.frozen),
        params,
        y,
    )
    return cond.context.shape[1]
