# SPDX-License-Identifier: Apache-2.0
r"""Trains both stages on scikit-learn's 1,797 handwritten digits, in minutes on a CPU.

    ldm-jax quickstart                                               # everything
    ldm-jax train --config=quickstart:stage=first_stage   # one stage

The digits have 8x8 grey values and are enlarged to 16x16. The first stage is a KL
autoencoder with f = 2 (latents of 8x8x2); the denoiser is class-conditional, with
classifier-free guidance. README.md gives the results and the time on two cores.
"""

from ml_collections import ConfigDict

from ldm_jax.configs import ArgumentError, common

IMAGE_SIZE = 16
NUM_CLASSES = 10
CONTEXT_DIM = 64


def first_stage() -> ConfigDict:
    """Makes the experiment of the KL autoencoder, with an L1 loss and no LPIPS."""
    config = common.first_stage()
    config.images.dataset = "digits"
    config.transform.image_size = IMAGE_SIZE
    config.held_out = "test"
    config.batch_size = 32
    config.autoencoder = dict(
        bottleneck="kl",
        # Two channels on 8x8: twice as many numbers as an original 8x8 digit has.
        latent_channels=2,
        channels=32,
        channel_mult=(1, 1),
        num_res_blocks=1,
        mid_attention=False,
    )
    # The penalty is larger than the paper's 1e-6: a small denoiser learns a smoother
    # latent space in few steps.
    config.objective = dict(perceptual="none", pixel_loss="l1", penalty_weight=1e-4)
    num_steps = 300
    # The learning rate decays, because with a constant rate the result depends on the
    # last steps: PSNR at 2e-3 was 30 to 35 dB, depending on the machine's rounding.
    config.optimizer = dict(name="adam")
    common.train_for(config, num_steps, learning_rate=6e-3, warmup_steps=20)
    config.train.update(report_every=10, checkpoint_every=100)
    config.train.evaluate_every = num_steps
    return config


def diffusion() -> ConfigDict:
    """Makes the experiment of the denoiser, on the latents of `first_stage`."""
    config = common.latent_diffusion()
    config.latents.image_size = IMAGE_SIZE
    config.batch_size = 64
    config.autoencoder = first_stage().autoencoder
    config.condition = dict(kind="class", num_classes=NUM_CLASSES, width=CONTEXT_DIM)
    config.unet = dict(
        channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_levels=(1,),
        num_heads=2,
        transformer_depth=1,
        context_dim=CONTEXT_DIM,
        # With 32 channels, a group of the norm is one channel, so the norm would
        # remove a time embedding that is only added before it.
        scale_shift_norm=True,
    )
    # With v, the estimate of x0 is not divided by the signal's share (0.012 at
    # the last step): with eps, 6 of 200 samples were
    # misclassified, with v none.
    config.prediction = "v"
    config.objective.drop_probability = 0.1
    num_steps = 900
    common.train_for(config, num_steps, learning_rate=2e-3, warmup_steps=50)
    config.train.update(report_every=20, checkpoint_every=100)
    config.train.update(evaluate_every=num_steps, max_ema_decay=0.999)
    config.sampling.update(num_steps=50, guidance_scale=3.0)
    return config


def get_config(arg: str = ""):
    """Returns one stage's experiment, or both with the settings of the latents."""
    stage = common.parse(arg, stage="all").stage
    stages = {"first_stage": first_stage, "diffusion": diffusion}
    if stage in stages:
        return stages[stage]()
    if stage != "all":
        raise ArgumentError(
            f"unknown stage {stage!r}; one of: all, {', '.join(stages)}."
        )
    config = ConfigDict(dict(first_stage=first_stage(), diffusion=diffusion()))
    config.latents = dict(batch_size=256, records_per_shard=512)
    config.classifier = dict(
        samples_per_class=20,
        num_neighbors=1,
        min_held_out_accuracy=0.97,
        min_sample_accuracy=0.9,
    )
    return config
