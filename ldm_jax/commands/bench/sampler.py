# SPDX-License-Identifier: Apache-2.0
"""Measures guided DDIM sampling against the same network in a diffusers pipeline."""

import dataclasses
import importlib.util
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ldm_jax.commands.bench.history import RATIO, Figures
from ldm_jax.commands.bench.model_speed import (
    as_in_the_paper,
    measure,
    open_config,
    open_model,
    paper_line,
)
from ldm_jax.commands.bench.timing import best_of, compile_twice
from ldm_jax.diffusion.guidance import classifier_free
from ldm_jax.diffusion.process import x0_denoiser
from ldm_jax.diffusion.samplers import make_sampler
from ldm_jax.diffusion.samplers.base import initial_noise, run_sampler
from ldm_jax.diffusion.samplers.grid import make_timesteps
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.metrics.paper import find_speed
from ldm_jax.models.unet import UNet
from ldm_jax.parallel.compile import sampling_options
from ldm_jax.types import Conditioning

TOKENS, SCALE, HEAD_CHANNELS = 16, 3.0, 32


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the benchmark, one flag each.

    Attributes:
      num_steps: steps of DDIM.
      batch_size: latents of a batch.
      latent_size: h = w.
      channels: of the finest level.
      channel_mult: factors of the channels, by level.
      context_dim: d.
      repeats: runs, of which the fastest counts.
      has_torch: whether diffusers is measured where it is installed.
      model: directory of a diffusion model that is measured instead; None takes random
        weights.
      config: of a diffusion model that is measured instead, with its own sampling and
        weights of zeros.
      paper_row: of `metrics.paper.SPEEDS`, whose steps and guidance are used, and whose
        speed is printed for comparison.

    Raises:
      ValueError: a model and a config.
    """

    num_steps: int
    batch_size: int
    latent_size: int
    channels: int
    channel_mult: tuple[int, ...]
    context_dim: int
    repeats: int
    has_torch: bool
    model: str | None = None
    config: ConfigDict | None = None
    paper_row: str | None = None

    def __post_init__(self):
        if self.model is not None and self.config is not None:
            raise ValueError("one model is measured: got --model and --config.")


def run(options: Options) -> Figures:
    """Samples with both implementations in turns, prints and returns the times."""
    size, row = options.batch_size, options.paper_row
    paper = find_speed(row) if row else None
    sampled = None
    if options.config is not None:
        sampled = open_config(options.config, size)
    elif options.model is not None:
        sampled = open_model(options.model, options.num_steps, size)
    if sampled is not None:
        sampled = as_in_the_paper(sampled, paper) if paper else sampled
        figures = measure(sampled, size, options.repeats)
        if row and paper:
            print(paper_line(row, paper))
        return figures
    if row:
        raise ValueError(
            f"a row of the paper is compared with a model: got --paper-row {row} "
            "alone; give --config or --model."
        )
    figures = {}
    ours = _ours(options)
    runs = {"ldm_jax": ours}
    if options.has_torch:
        if all(importlib.util.find_spec(name) for name in ("torch", "diffusers")):
            runs["diffusers"] = _diffusers_sampler(options)
        else:
            print("diffusers   not installed (extra: torch); nothing to compare with")
    seconds = best_of(runs, options.repeats)
    for name, best in seconds.items():
        rate = options.batch_size / best
        print(f"{name:11s} {best:8.3f} s a batch, {rate:.2f} latents/s")
    if len(seconds) == 2:
        ratio = seconds["ldm_jax"] / seconds["diffusers"]
        print(f"ratio       {ratio:8.2f} (below 1: ldm_jax is faster; the goal is 0.7)")
        figures[RATIO + "diffusers"] = ratio
    return figures | seconds


def _ours(options: Options) -> Callable[[], None]:
    """Compiles our sampler twice, the second time from disk; returns a run of it."""
    unet = UNet(
        channels=options.channels,
        channel_mult=tuple(options.channel_mult),
        out_channels=4,
        attention_levels=tuple(range(1, len(options.channel_mult))),
        head_channels=HEAD_CHANNELS,
        transformer_depth=1,
        context_dim=options.context_dim,
    )
    shape = (options.batch_size, options.latent_size, options.latent_size, 4)
    key = jax.random.key(0)
    z_T = initial_noise(key, shape)
    context = jax.random.normal(key, (options.batch_size, TOKENS, options.context_dim))
    cond, null = Conditioning(context), Conditioning(jnp.zeros_like(context))
    t = jnp.zeros(options.batch_size, jnp.int32)
    # Drawn in NumPy: compiling the initializers would take longer than the benchmark.
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.02 * rng.standard_normal(leaf.shape, np.float32)),
        jax.eval_shape(unet.init, key, z_T, t, cond)["params"],
    )

    def run(params, schedule, z_T, cond, null, key):
        def predict(z_t, t, cond):
            return unet.apply({"params": params}, z_t, t, cond)

        guided = classifier_free(predict, cond, null, SCALE)
        denoiser = x0_denoiser(schedule, guided)
        sampler = make_sampler("ddim", schedule)
        return run_sampler(
            sampler, denoiser, z_T, make_timesteps(options.num_steps), key
        )

    inputs = (params, make_schedule(), z_T, cond, null, key)
    compiled = compile_twice(lambda: jax.jit(run).lower(*inputs), sampling_options())
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"device      {jax.devices()[0].device_kind}, {count / 1e6:.2f}M parameters")
    return lambda: jax.block_until_ready(compiled(*inputs))


def _diffusers_sampler(options: Options) -> Callable[[], None]:
    """Builds the same network and loop of diffusers; returns a run of it."""
    import diffusers
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    widths = [options.channels * n for n in options.channel_mult]
    attending = len(widths) - 1
    unet = diffusers.UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=widths,
        layers_per_block=2,
        down_block_types=["DownBlock2D"] + ["CrossAttnDownBlock2D"] * attending,
        up_block_types=["CrossAttnUpBlock2D"] * attending + ["UpBlock2D"],
        cross_attention_dim=options.context_dim,
        # Named a width and read as the number of heads (diffusers issue 2011).
        attention_head_dim=[width // HEAD_CHANNELS for width in widths],
    )
    unet = unet.to(device, memory_format=torch.channels_last).eval()
    count = sum(parameter.numel() for parameter in unet.parameters())
    print(
        f"diffusers   {device}, {count / 1e6:.2f}M parameters, channels_last, float32"
    )
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.set_timesteps(options.num_steps)
    side = options.latent_size
    z_T = torch.randn(options.batch_size, 4, side, side, device=device)
    context = torch.randn(
        2 * options.batch_size, TOKENS, options.context_dim, device=device
    )

    @torch.inference_mode()
    def run():
        z = z_T
        for t in scheduler.timesteps:
            pair = unet(torch.cat([z, z]), t, encoder_hidden_states=context).sample
            without, conditional = pair.chunk(2)
            eps_hat = without + SCALE * (conditional - without)
            z = scheduler.step(eps_hat, t, z).prev_sample
        z.cpu()  # waits for the device

    return run
