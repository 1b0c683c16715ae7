# SPDX-License-Identifier: Apache-2.0
r"""A study of f, or of KL and VQ, that takes less than an hour on a CPU core.

    ldm-jax study --config=study_toy:images=./photos --out=runs/study
    ldm-jax study --config=study_toy:images=./photos,flops=1e13,stage_steps=2000 \
        --out=runs/long
    ldm-jax study --config=study_toy:axis=bottleneck --out=runs/bottlenecks

Images of 32x32, f = 1, 2, 4, 8 with the paper's latent channels (Tab. 8), two seeds,
equal FLOPs. Without images=FOLDER it uses scikit-learn's digits, which come with the
package. Distances are computed on random features: no weights are downloaded, and no
distance is called FID. `ldm_jax/study/README.md` has results on photographs of flowers.
"""

from ldm_jax.configs import common, small
from ldm_jax.study import Arm, Budget, Study

IMAGE_SIZE = 32
# f -> width of each level of the first stage, times 16; channels of the latent.
STAGES = {2: ((1, 2), 2), 4: ((1, 2, 2), 3), 8: ((1, 2, 2, 4), 4)}
# f -> width of each level of the denoiser, times 32; batch. The coarsest grid is 4x4 in
# all arms, and batches are small where an image is expensive, as in Tab. 13.
UNETS = {
    1: ((1, 1, 2, 2), 8),
    2: ((1, 1, 2), 16),
    4: ((1, 2), 32),
    8: ((2,), 64),
}


def get_study(arg: str = "") -> Study:
    """Returns the study over one axis, of a folder of images or of digits."""
    values = common.parse(
        arg,
        images="digits",
        axis="f",
        flops=6e11,
        stage_steps=500,
        num_samples=160,
    )
    axes = {
        "f": [(f"f={f}", f, "kl") for f in (1, 2, 4, 8)],
        "bottleneck": [(f"{b} f={f}", f, b) for b in ("kl", "vq") for f in (2, 4)],
    }
    arms = common.choose("axis", values.axis, axes)
    return Study(
        arms={name: arm(f, kind, values.stage_steps) for name, f, kind in arms},
        seeds=(0, 1),
        budget=Budget(flops=values.flops),
        images=dict(dataset=values.images, split="train"),
        image_size=IMAGE_SIZE,
        evaluate_at=3,
        num_steps=10,
        sampling_steps=(5, 10, 20),
        num_samples=values.num_samples,
        metrics=("fid", "kid"),
        feature_network="random",
        batch_size=32,
    )


def arm(f: int, bottleneck: str, stage_steps: int) -> Arm:
    """Makes the arm of one f: its first stage and its denoiser."""
    stage = first_stage(f, bottleneck, stage_steps) if f > 1 else None
    return Arm(denoiser(f), stage)


def first_stage(f: int, bottleneck: str, num_steps: int):
    """Makes the experiment of a first stage."""
    config = small.get_config()
    mult, channels = STAGES[f]
    config.autoencoder.update(channel_mult=mult, latent_channels=channels)
    if bottleneck == "vq":
        del config.autoencoder.bottleneck
        config.autoencoder = dict(
            config.autoencoder, bottleneck="vq", num_codes=256, code_range=0.5
        )
        del config.objective.penalty_weight
    config.transform.update(min_scale=0.75)
    config.train.num_steps = num_steps
    config.train.update(evaluate_every=None, checkpoint_every=100)
    return config


def denoiser(f: int):
    """Makes the experiment of a denoiser without a condition."""
    config = small.diffusion()
    config.autoencoder, config.images.split = {}, "train"
    mult, config.batch_size = UNETS[f]
    config.unet.update(channel_mult=mult, attention_levels=(len(mult) - 1,))
    config.train.update(max_ema_decay=0.995, report_every=20)
    config.sampling.grid = "even"
    return config
