# SPDX-License-Identifier: Apache-2.0
r"""Small first stages on photographs, with LPIPS and an adversary, on a CPU.

    ldm-jax weights lpips --download alex --out weights/lpips.safetensors
    ldm-jax train --config=flowers_first_stage:kind=kl,f=4 \
        --config.images.dataset=./photos --workdir=runs/flowers-kl-f4

kind=kl or vq, f = 2, 4, 8 or 16; windows of 32x32 from any photographs. The objective
is the paper's; the adversary starts after half of the steps. Use num_steps=4000 for f =
8. Training takes a few minutes on one core; results are in `ldm_jax/models/README.md`.
"""

from ldm_jax.configs import common

# f -> width of each level, times 16.
MULT = {2: (1, 2), 4: (1, 2, 2), 8: (1, 2, 2, 4), 16: (1, 2, 2, 4, 4)}
# f -> channels of the latent, as in the paper's models (Tab. 8).
CHANNELS = {"kl": {2: 2, 4: 3, 8: 4, 16: 16}, "vq": {2: 2, 4: 3, 8: 4, 16: 8}}


def get_config(arg: str = ""):
    """Returns the experiment of one bottleneck at one f."""
    values = common.parse(arg, kind="kl", f=4, num_steps=1200)
    kind, f, num_steps = values.kind, values.f, values.num_steps
    channels = common.choose("kind", kind, CHANNELS)
    config = common.first_stage()
    config.transform = dict(image_size=32, crop="random", min_scale=0.25, flip=True)
    config.held_out = "test"
    config.batch_size = 8
    config.autoencoder = dict(
        bottleneck=kind,
        latent_channels=common.choose("f", f, channels),
        channels=16,
        channel_mult=MULT[f],
        num_res_blocks=1,
        # Four channels in each group, as in the paper's narrowest level.
        num_groups=4,
    )
    if kind == "vq":
        # After 60 steps a batch uses 71 codes; 11 with the original's 1/256.
        config.autoencoder.update(num_codes=256, code_range=0.5)
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
    # Far above the paper's rate, for so few steps. At twice this rate, the model does
    # not learn colours.
    common.train_for(config, num_steps, learning_rate=2e-3, warmup_steps=30)
    config.train.update(report_every=20, checkpoint_every=300)
    config.train.evaluate_every = num_steps // 2
    return config
