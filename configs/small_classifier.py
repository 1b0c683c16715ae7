# SPDX-License-Identifier: Apache-2.0
r"""A small classifier of noisy latents that guides a small diffusion model.

    ldm-jax train --config=small_classifier --workdir=runs/classifier \
        --config.diffusion.directory=runs/class --config.latents.directory=LATENTS
    ldm-jax sample --model runs/class --classifier runs/classifier \
        --classifier-scale 2 --label 0,1,2 --num 12 --out samples

--config.held_out_latents=DIR measures its accuracy by noise level on latents of other
images. For a model without a condition (small_class.py:kind=none), give the number of
classes: --config.classifier.num_classes=10.
"""

from ldm_jax.configs import common


def get_config(arg: str = ""):
    """Returns the experiment."""
    common.parse(arg)
    config = common.classifier()
    config.classifier.update(
        channels=64,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_levels=(1,),
        head_channels=32,
    )
    config.batch_size = 64
    common.train_for(config, 1_000, learning_rate=1e-3, warmup_steps=50)
    config.train.update(report_every=50, checkpoint_every=500)
    return config
