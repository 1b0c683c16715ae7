# SPDX-License-Identifier: Apache-2.0
r"""The ablation on f, class-conditional ImageNet (Rombach et al. 2022, Tab. 13).

    ldm-jax latents --config=imagenet_f:f=8 --model models/vq-f8 \
        --out LATENTS
    ldm-jax train --config=imagenet_f:f=8 --workdir=runs/imagenet_f8 \
        --config.latents.directory=LATENTS

f=1, pixels, needs no first stage and no latents. UNets of 391M to 401M, 2M steps each;
FID-5k over steps is read off Fig. 6: LDM-1 is 38 behind LDM-8 at the end, LDM-4 to
LDM-16 lead. Tab. 13 prints 32 latent channels at f=32 where Tab. 8 has 16; its model
size agrees with 32.
"""

from ldm_jax.configs import common

# f -> autoencoder, batch, learning rate.
MODELS = {
    1: ("pixels", 7, 4.9e-5),
    2: ("vq-f2", 9, 6.3e-5),
    4: ("vq-f4", 40, 8e-5),
    8: ("vq-f8", 64, 6.4e-5),
    16: ("vq-f16", 112, 4.5e-5),
    32: ("vq-f32-c32", 112, 4.5e-5),
}


def get_config(arg: str = ""):
    """Returns the experiment at one f."""
    f = common.parse(arg, f=8).f
    autoencoder, batch_size, rate = common.choose("f", f, MODELS)
    config = common.latent_diffusion(autoencoder, "imagenet")
    config.latents.flip = False
    config.transform.crop = "random"
    config.unet = dict(common.IMAGENET_UNETS[f], num_heads=1)
    common.add_classes(config, 1000, has_null=False)
    config.batch_size = batch_size
    config.optimizer.learning_rate = rate
    config.train.num_steps = 2_000_000
    config.sampling.num_steps = 100
    return config
