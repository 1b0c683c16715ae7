# SPDX-License-Identifier: Apache-2.0
r"""Small first stages on photographs, with LPIPS and an adversary, on a CPU.

    ldm-jax weights lpips --download alex --out weights/lpips.safetensors
    ldm-jax train --config=configs/flowers_first_stage.py:kind=kl,f=4 \
        --config.images.dataset=./photos --workdir=runs/flowers-kl-f4

kind=kl or vq, f = 2, 4, 8 or 16; parts of 32x32 of any photographs. The objective is
the paper's, at a 32nd of its parameters; the adversary enters after 300 steps.
What came of it on one core: `ldm_jax/models/README.md`.
"""

from configs import common

# f -> width of each level, times 32.
MULT = {2: (1, 2), 4: (1, 2, 2), 8: (1, 2, 2, 4), 16: (1, 2, 2, 4, 4)}
# f -> channels of the latent, those of the paper's models (Tab. 8).
CHANNELS = {"kl": {2: 2, 4: 3, 8: 4, 16: 16}, "vq": {2: 2, 4: 3, 8: 4, 16: 8}}


def get_config(arg: str = ""):
    """Returns the experiment of one bottleneck at one f."""
    values = common.parse(arg, kind="kl", f=4)
    kind, f = values.kind, values.f
    channels = common.choose("kind", kind, CHANNELS)
    config = common.first_stage()
    config.transform = dict(image_size=32, crop="random", min_scale=0.25, flip=True)
    config.held_out = "test"
    config.batch_size = 4
    config.autoencoder = dict(
        bottleneck=kind,
        latent_channels=common.choose("f", f, channels),
        channels=32,
        channel_mult=MULT[f],
        num_res_blocks=1,
    )
    if kind == "vq":
        # After 60 steps a batch has 71 codes in it; 11 from the original's 1/256.
        config.autoencoder.update(num_codes=256, code_range=0.5)
    num_steps = 600
    config.objective = dict(
        perceptual="alex",
        adversary=dict(
            disc_start=num_steps // 2,
            disc_weight={"kl": 0.5, "vq": 0.75}[kind],
            num_layers=2,
            channels=32,
        ),
    )
    config.lpips.file = "weights/lpips.safetensors"
    # Twenty times the paper's rate for this batch: there are so few steps.
    config.optimizer.learning_rate = 8e-4
    config.train.update(num_steps=num_steps, report_every=20, evaluate_every=300)
    config.train.checkpoint_every = 300
    return config
