# SPDX-License-Identifier: Apache-2.0
r"""The ablation on f, unconditional CelebA-HQ (Rombach et al. 2022, Tab. 14, Fig. 7).

    ldm-jax latents --config=celebahq_f:f=8 --model models/vq-f8 \
        --out LATENTS
    ldm-jax train --config=celebahq_f:f=8 --workdir=runs/celebahq_f8 \
        --config.latents.directory=LATENTS

f=1 trains on pixels and needs no first stage and no latents. UNets of 258M to 274M,
500k steps each. Fig. 7 plots FID over throughput for 10 to 200 sampling steps; LDM-4
and LDM-8 are best. Tab. 14 prints 260M at f=16, but its hyperparameters give 258M.
"""

from ldm_jax.configs import common

# f -> autoencoder, batch size, learning rate.
MODELS = {
    1: ("pixels", 9, 9e-5),
    2: ("vq-f2", 11, 1.1e-4),
    4: ("vq-f4", 48, 9.6e-5),
    8: ("vq-f8", 96, 9.6e-5),
    16: ("vq-f16", 128, 1.3e-4),
    32: ("vq-f32-c32", 128, 1.3e-4),
}


def get_config(arg: str = ""):
    """Returns the experiment at one f."""
    f = common.parse(arg, f=8).f
    autoencoder, batch_size, rate = common.choose("f", f, MODELS)
    config = common.latent_diffusion(autoencoder, "celebahq")
    config.latents.flip = False
    config.unet = dict(common.IMAGENET_UNETS[f], head_channels=32)
    if f == 4:
        config.unet = common.UNET_274M
    config.batch_size = batch_size
    config.optimizer.learning_rate = rate
    config.train.num_steps = 500_000
    config.sampling.num_steps = 200
    return config
