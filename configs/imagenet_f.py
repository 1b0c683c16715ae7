# SPDX-License-Identifier: Apache-2.0
r"""The ablation on f, class-conditional ImageNet (Rombach et al. 2022, Tab. 13).

    ldm-jax latents --config=imagenet_f:f=8 --model models/vq-f8 \
        --out LATENTS
    ldm-jax train --config=imagenet_f:f=8 --workdir=runs/imagenet_f8 \
        --config.latents.directory=LATENTS

f=1 trains on pixels and needs no first stage and no latents. The UNets have 391M to
401M parameters and are trained for 2M steps each. At f=8 an image takes about 3.1e11
FLOPs (`ldm-jax plan --no-compile`) and the whole run 4.0e19: 140 hours of a v5e chip at
40 % of its peak. No run of this package has been measured. Fig. 6 of the paper plots
FID-5k over steps: LDM-4 to LDM-16 are best, and at the end the FID of LDM-1 is 38
higher than that of LDM-8. At f=32, Tab. 13 gives 32 latent channels and Tab. 8 gives
16; the model size in Tab. 13 agrees with 32.
"""

from ldm_jax.configs import common

# f -> autoencoder, batch size, learning rate.
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
