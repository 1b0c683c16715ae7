# SPDX-License-Identifier: Apache-2.0
r"""A small first stage for pictures of your own, and what the small experiments share.

    ldm-jax train --config=configs/small.py --workdir=runs/first_stage \
        --config.images.dataset=./photos
    ldm-jax latents --model runs/first_stage --out runs/latents --config=CONFIG
    ldm-jax train --config=CONFIG --workdir=runs/model \
        --config.latents.directory=runs/latents

KL, f = 4, four channels, trained on random parts of 24x24; being convolutions only, it
takes any larger size. The small experiments, one per kind of condition, all stand on
it: fashion_mnist.py, emoji_text.py, coco_layout_small.py, camvid_semantic.py,
flowers.py. They run on two CPU cores in minutes, and show that a condition is obeyed,
not how good pictures can be.
"""

from ml_collections import ConfigDict

from configs import common

AUTOENCODER = dict(
    bottleneck="kl",
    latent_channels=4,
    channels=32,
    channel_mult=(1, 2, 2),
    num_res_blocks=1,
    mid_attention=False,
)


def get_config(arg: str = "") -> ConfigDict:
    """Returns the first stage's experiment."""
    common.parse(arg)
    config = common.first_stage()
    config.images.split = "all"
    config.transform = dict(image_size=24, crop="random", min_scale=0.5, flip=True)
    config.batch_size = 8
    config.autoencoder = AUTOENCODER
    # Plain L1: LPIPS needs weights that you would have to bring. The penalty is heavier
    # than the paper's 1e-6: a smoother latent space suits a small denoiser.
    config.objective = dict(
        perceptual="none", pixel_loss="l1", penalty_weight=1e-3
    )
    num_steps = 1500
    config.optimizer = dict(
        name="adam",
        learning_rate=2e-3,
        schedule=dict(name="warmup_cosine", warmup_steps=50, num_steps=num_steps),
    )
    config.train.update(num_steps=num_steps, report_every=50, checkpoint_every=500)
    config.train.evaluate_every = num_steps
    return config
