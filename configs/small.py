# SPDX-License-Identifier: Apache-2.0
r"""A small first stage for your own pictures, and the base of the small experiments.

    ldm-jax train --config=small --workdir=runs/first_stage \
        --config.images.dataset=./photos
    ldm-jax latents --config=CONFIG --model runs/first_stage --out LATENTS \
        --images ./photos
    ldm-jax train --config=CONFIG --workdir=runs/model \
        --config.latents.directory=LATENTS

The first stage is a KL autoencoder with f = 4 and four channels, trained on random
windows of 32x32. It contains only convolutions, so it takes any image size that is a
multiple of four. The small experiments use it, one for each kind of condition:
small_class.py, small_text.py, small_layout.py, small_semantic.py, small_superres.py,
small_inpaint.py. They train on 32x32 images in minutes on two CPU cores. They show
whether samples follow a condition, not how good images can become.
"""

from ml_collections import ConfigDict

from ldm_jax.configs import common

AUTOENCODER = dict(
    bottleneck="kl",
    latent_channels=4,
    channels=16,
    channel_mult=(1, 1, 1),
    num_res_blocks=1,
    mid_attention=False,
    # Four channels in each group; 32 groups of 32 channels mixed up red and green.
    num_groups=4,
)


def get_config(arg: str = "") -> ConfigDict:
    """Returns the first stage's experiment."""
    common.parse(arg)
    config = common.first_stage()
    config.images.split = "all"
    config.transform = dict(image_size=32, crop="random", min_scale=0.5, flip=True)
    config.batch_size = 8
    config.autoencoder = AUTOENCODER
    # L1 only, because LPIPS needs weights that must be downloaded. The penalty is
    # larger than the paper's 1e-6: a small denoiser learns a smoother latent space.
    config.objective = dict(perceptual="none", pixel_loss="l1", penalty_weight=1e-3)
    num_steps = 1500
    config.optimizer = dict(name="adam")
    common.train_for(config, num_steps, learning_rate=2e-3, warmup_steps=50)
    config.train.update(report_every=50, checkpoint_every=500)
    config.train.evaluate_every = num_steps
    return config


def diffusion(num_steps: int = 700) -> ConfigDict:
    """Makes a small experiment without a condition: latents of 8x8x4 -> denoiser."""
    config = common.latent_diffusion(image_size=32)
    config.autoencoder = AUTOENCODER
    config.unet = dict(
        channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_levels=(1,),
        num_heads=2,
        # With 32 channels, a group of the norm is one channel, so the norm would
        # remove a time embedding that is only added before it.
        scale_shift_norm=True,
    )
    # With v, the estimate of x0 is not divided by the signal's share (0.012 at
    # the last step), which would amplify the errors of eps after so little training.
    config.prediction = "v"
    config.batch_size = 32
    common.train_for(config, num_steps, learning_rate=2e-3, warmup_steps=50)
    config.train.update(report_every=50, checkpoint_every=250)
    config.train.update(evaluate_every=num_steps, max_ema_decay=0.99)
    return config


def attend(config: ConfigDict, width: int) -> None:
    """Adds cross-attention to a context of `width`, which training drops at random."""
    config.unet.update(transformer_depth=1, context_dim=width)
    config.objective.drop_probability = 0.1
    config.sampling.guidance_scale = 3.0
