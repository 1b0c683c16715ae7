# SPDX-License-Identifier: Apache-2.0
r"""LDM-8-G: a classifier that guides LDM-8 on ImageNet (Rombach et al. 2022, Tab. 10).

    ldm-jax latents --config=imagenet:f=8 --model models/vq-f8 --out LATENTS \
        --num-crops=4
    ldm-jax train --config=imagenet_classifier --workdir=runs/imagenet_classifier \
        --config.diffusion.directory=runs/imagenet --config.latents.directory=LATENTS
    ldm-jax sample --model runs/imagenet --classifier runs/imagenet_classifier \
        --classifier-scale 10 --num-steps 200 --eta 1 --out samples

111.6M parameters; with LDM-8's 395.0M, this gives the 506M of the paper. Cost: 12 V100
days (Tab. 18). Paper: FID 7.76, IS 209.52, precision 0.84, recall 0.35 with 200 DDIM
steps and scale 10; with the denoiser after 2.9M steps, FID 8.11, IS 190.43, precision
0.83, recall 0.36 (Tab. 10; Tab. 18 gives 100 steps for this one, and 1.93 images/s on
an A100). Whether the denoiser saw the class too is not printed; here it does (inferred
from the size, which is that of the class-conditional LDM-8).

The paper does not give the learning rate, batch size and steps of this classifier. The
values here, and the weight decay, are those of the 256x256 classifier of Dhariwal &
Nichol 2021 (Tab. 12). Its random crops are made when the latents are written.
--config.held_out_latents=DIR, latents of the validation images, measures its accuracy
by noise level, as the released code does.
"""

from ldm_jax.configs import common


def get_config(arg: str = ""):
    """Returns the experiment."""
    common.parse(arg)
    config = common.classifier()
    config.classifier.update(
        channels=256,
        channel_mult=(1, 2, 4),
        attention_levels=(0, 1, 2),
        head_channels=32,
    )
    config.batch_size = 256
    config.optimizer.schedule = dict(
        name="linear_schedule", init_value=1.0, end_value=0.0
    )
    config.train.num_steps = 500_000
    return config
