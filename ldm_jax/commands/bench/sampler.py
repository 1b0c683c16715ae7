# SPDX-License-Identifier: Apache-2.0
"""Measures guided DDIM sampling against the same network in a diffusers pipeline."""

import argparse
import importlib.util
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.commands.bench.timing import best_of, compile_twice
from ldm_jax.diffusion.guidance import classifier_free
from ldm_jax.diffusion.process import x0_denoiser
from ldm_jax.diffusion.samplers import make_sampler
from ldm_jax.diffusion.samplers.base import initial_noise, sample
from ldm_jax.diffusion.samplers.grid import make_timesteps
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.models.unet import UNet
from ldm_jax.types import Conditioning

TOKENS, SCALE, HEAD_CHANNELS = 16, 3.0, 32


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark and prints its figures; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="ldm-jax bench sampler",
        description="Samples with DDIM and classifier-free guidance on random weights: "
        "ours, compiled, and (if torch and diffusers are installed) a diffusers UNet "
        "of the same shape under its DDIMScheduler, in turns; the best of each counts.",
    )
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--latent_size", type=int, default=32, help="h = w")
    parser.add_argument("--channels", type=int, default=64, help="of the finest level")
    parser.add_argument("--channel_mult", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--context_dim", type=int, default=64, help="d")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--no_torch", action="store_true", help="measure ours alone, even with torch"
    )
    args = parser.parse_args(argv)
    ours = _ours(args)
    runs = {"ldm_jax": ours}
    if not args.no_torch:
        if all(importlib.util.find_spec(name) for name in ("torch", "diffusers")):
            runs["diffusers"] = _theirs(args)
        else:
            print("diffusers   not installed (extra: torch); nothing to compare with")
    seconds = best_of(runs, args.repeats)
    for name, best in seconds.items():
        rate = args.batch_size / best
        print(f"{name:11s} {best:8.3f} s a batch, {rate:.2f} latents/s")
    if len(seconds) == 2:
        ratio = seconds["ldm_jax"] / seconds["diffusers"]
        print(f"ratio       {ratio:8.2f} (below 1: ldm_jax is faster; the goal is 0.7)")
    return 0


def _ours(args) -> Callable[[], None]:
    """Compiles our sampler twice, the second time from disk; returns a run of it."""
    unet = UNet(
        channels=args.channels,
        channel_mult=tuple(args.channel_mult),
        out_channels=4,
        attention_levels=tuple(range(1, len(args.channel_mult))),
        head_channels=HEAD_CHANNELS,
        transformer_depth=1,
        context_dim=args.context_dim,
    )
    shape = (args.batch_size, args.latent_size, args.latent_size, 4)
    key = jax.random.key(0)
    z_T = initial_noise(key, shape)
    context = jax.random.normal(key, (args.batch_size, TOKENS, args.context_dim))
    cond, null = Conditioning(context), Conditioning(jnp.zeros_like(context))
    t = jnp.zeros(args.batch_size, jnp.int32)
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
        return sample(sampler, denoiser, z_T, make_timesteps(args.steps), key)

    inputs = (params, make_schedule(), z_T, cond, null, key)
    compiled = compile_twice(lambda: jax.jit(run).lower(*inputs))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"device      {jax.devices()[0].device_kind}, {count / 1e6:.2f}M parameters")
    return lambda: jax.block_until_ready(compiled(*inputs))


def _theirs(args) -> Callable[[], None]:
    """Builds the same network and loop of diffusers; returns a run of it."""
    import diffusers
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    widths = [args.channels * n for n in args.channel_mult]
    attending = len(widths) - 1
    unet = diffusers.UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=widths,
        layers_per_block=2,
        down_block_types=["DownBlock2D"] + ["CrossAttnDownBlock2D"] * attending,
        up_block_types=["CrossAttnUpBlock2D"] * attending + ["UpBlock2D"],
        cross_attention_dim=args.context_dim,
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
    scheduler.set_timesteps(args.steps)
    side = args.latent_size
    z_T = torch.randn(args.batch_size, 4, side, side, device=device)
    context = torch.randn(2 * args.batch_size, TOKENS, args.context_dim, device=device)

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
