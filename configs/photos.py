# SPDX-License-Identifier: Apache-2.0
r"""Trains a first stage and a denoiser on your own pictures, a few hundred or more.

    ldm-jax quickstart --images ./photos          # everything below, with a report

    ldm-jax train --config=photos:stage=first_stage --workdir=runs/photos/first_stage \
        --config.images.dataset=./photos
    ldm-jax latents --model=runs/photos/first_stage --out=runs/photos/latents --mirror
    ldm-jax train --config=photos:stage=diffusion --workdir=runs/photos/diffusion \
        --config.latents.directory=runs/photos/latents
    ldm-jax sample --model=runs/photos/diffusion --out=samples --label=roses --num=16

The first stage is a KL autoencoder with f = 2, so pictures of 32x32 have latents of
16x16x4. The denoiser is a UNet that attends to a token for the class, or to the words
of a caption. Its image size, autoencoder and class names are taken from the latents.

Measured on 600 photographs of five kinds of flowers, in about 50 minutes on one CPU
core with two threads (0.52 s a step of the denoiser): the PSNR of held-out pictures is
27.9 dB; samples are like paintings of flower beds, so that classes are recognized by
colour and texture, but few single flowers have petals. With num_steps=9000, in about an
hour (0.33 s a step), daisies have yellow centres, and some sunflowers dark ones. With
f = 4, in 17 minutes, the PSNR was 21.6 dB, and samples were blurred.

condition=class (sub-folders are classes), text (captions stored with the pictures) or
none. Every choice is an argument: the quickstart writes the arguments that it chooses
for a folder and a device to a file config.py.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ldm_jax.configs import ArgumentError, common
from ldm_jax.files.errors import nearest_name

# f -> width of each level of the first stage, in units of its channels.
STAGE_MULT = {2: (1, 2), 4: (1, 2, 2), 8: (1, 2, 2, 4)}
# Side of the latents -> channel_mult and attention_levels of the denoiser.
UNET_LEVELS = {
    8: ((1, 2), (1,)),
    16: ((1, 2, 2), (1, 2)),
    32: ((1, 2, 4), (1, 2)),
    64: ((1, 2, 2, 4), (2, 3)),
}
CONTEXT_DIM = 64
CHOICES = dict(
    image_size=32,
    f=2,
    latent_channels=4,
    stage_channels=24,
    stage_steps=4000,
    stage_batch_size=8,
    stage_rate=2e-3,
    channels=64,
    num_steps=5000,
    batch_size=16,
    rate=1e-3,
    condition="class",
    captions="",
    held_out="test",
    guidance_scale=2.0,
)


def first_stage(choices) -> ConfigDict:
    """Makes the experiment of the KL autoencoder, on random windows of the pictures."""
    config = common.first_stage()
    config.transform = dict(
        image_size=choices.image_size, crop="random", min_scale=0.7, flip=True
    )
    config.held_out = choices.held_out
    if not choices.held_out:
        config.images.split = "all"
    if choices.captions:
        config.images.captions = choices.captions
    config.batch_size = choices.stage_batch_size
    config.autoencoder = dict(
        bottleneck="kl",
        latent_channels=choices.latent_channels,
        channels=choices.stage_channels,
        channel_mult=common.choose("f", choices.f, STAGE_MULT),
        num_res_blocks=1,
        mid_attention=False,
        # Four channels in each group: 32 groups in narrow levels mix up the colours.
        num_groups=choices.stage_channels // 4,
    )
    config.objective = dict(perceptual="none", pixel_loss="l1", penalty_weight=1e-4)
    config.optimizer = dict(name="adam")
    steps = choices.stage_steps
    common.train_for(config, steps, choices.stage_rate, warmup_steps=min(50, steps))
    every = max(steps // 4, 1)
    config.train.update(report_every=max(steps // 60, 1), checkpoint_every=every)
    config.train.evaluate_every = every
    return config


def diffusion(choices) -> ConfigDict:
    """Makes the experiment of the denoiser; its latents describe its inputs."""
    config = common.latent_diffusion()
    config.latents.image_size = placeholder(int)
    side = choices.image_size // choices.f
    mult, attention = common.choose("image_size / f", side, UNET_LEVELS)
    config.unet = dict(
        channels=choices.channels,
        channel_mult=mult,
        num_res_blocks=1,
        attention_levels=attention,
        num_heads=2,
        # In narrow levels, a group of the norm is one channel, so the norm would
        # remove a time embedding that is only added before it.
        scale_shift_norm=True,
    )
    if choices.condition != "none":
        config.condition = common.choose("condition", choices.condition, CONDITIONS)()
        config.unet.update(transformer_depth=1, context_dim=CONTEXT_DIM)
        config.objective.drop_probability = 0.1
        config.sampling.guidance_scale = choices.guidance_scale
    if choices.captions:
        config.images.captions = choices.captions
    # With v, the estimate of x0 is not divided by the signal's share (0.012 at
    # the last step), which would amplify the errors of eps after little training.
    config.prediction = "v"
    config.batch_size = choices.batch_size
    steps = choices.num_steps
    common.train_for(config, steps, choices.rate, warmup_steps=min(100, steps))
    every = max(steps // 4, 1)
    config.train.update(report_every=max(steps // 80, 1), checkpoint_every=every)
    config.train.update(evaluate_every=every, max_ema_decay=0.999)
    return config


CONDITIONS = dict(
    none=lambda: dict(kind="none"),
    text=lambda: dict(kind="text", width=CONTEXT_DIM, depth=2, length=96),
    # The number and names of the classes are read from the latents.
    **{"class": lambda: dict(kind="class", num_classes=placeholder(int), width=64)},
)
STAGES = dict(first_stage=first_stage, diffusion=diffusion)


def choose(
    arg: str = "", images: str = "", classes: tuple[str, ...] = (), **choices
) -> ConfigDict:
    """Makes the experiments for the given choices.

    Args:
      arg: "stage=NAME" returns one stage by itself; "" returns all of them.
      images: the folder of pictures; if "", the latents describe the denoiser's data.
      classes: names of the folder's classes.
      **choices: fields of CHOICES; the others keep their defaults.

    Raises:
      ArgumentError: a choice has another name.
    """
    for name in choices.keys() - CHOICES.keys():
        raise ArgumentError(
            f'unknown choice "{name}"{nearest_name(name, CHOICES)} There are: '
            f"{', '.join(CHOICES)}."
        )
    values = common.parse(arg, stage="all", **{**CHOICES, **choices})
    made = {name: make(values) for name, make in STAGES.items()}
    if images:
        for config in made.values():
            config.images.dataset = images
        describe_data(made["diffusion"], made["first_stage"], classes)
    if values.stage in made:
        return made[values.stage]
    if values.stage != "all":
        known = ", ".join(["all", *made])
        raise ArgumentError(f"unknown stage={values.stage}; one of: {known}.")
    return ConfigDict({**made, "latents": dict(mirror=True)})


def describe_data(
    config: ConfigDict, stage: ConfigDict, classes: tuple[str, ...]
) -> None:
    """Sets the denoiser's fields that are otherwise read from its latents."""
    config.autoencoder = stage.autoencoder
    config.latents.image_size = stage.transform.image_size
    if config.condition.kind == "class":
        config.condition.num_classes = len(classes)
        config.condition.class_names = classes


def get_config(arg: str = "") -> ConfigDict:
    """Returns one stage's experiment, or all of them."""
    return choose(arg)
