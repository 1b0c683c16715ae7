# SPDX-License-Identifier: Apache-2.0
"""Contains the defaults that configs share, and parses the arguments of configs.

A config's sections mirror constructors: `config.unet` has the fields of
`models.unet.UNet`, `config.optimizer` those of `training.optimizer.make_optimizer`, and
so on; `ldm_jax/experiment/config/schema.py` contains the table of sections. An unknown
field is an error, raised before anything runs.
"""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ldm_jax.configs import ArgumentError, autoencoders

# The denoiser of CelebA-HQ, FFHQ and LSUN bedrooms at f = 4.
UNET_274M = dict(
    channels=224,
    channel_mult=(1, 2, 3, 4),
    attention_levels=(1, 2, 3),
    head_channels=32,
)
# The denoiser of semantic synthesis and inpainting: attention in the middle only.
UNET_215M = dict(channels=128, channel_mult=(1, 4, 8), num_heads=8)
# The denoisers of the ablation, f -> fields (Tab. 13; all but f = 4 also Tab. 14).
_COARSE = dict(channels=256, channel_mult=(1, 2, 4), attention_levels=(0, 1, 2))
IMAGENET_UNETS = {
    1: dict(channels=192, channel_mult=(1, 1, 2, 2, 4, 4), attention_levels=(3, 4, 5)),
    2: dict(channels=192, channel_mult=(1, 2, 2, 4, 4), attention_levels=(2, 3, 4)),
    4: dict(channels=192, channel_mult=(1, 2, 3, 5), attention_levels=(1, 2, 3)),
    8: _COARSE,
    16: _COARSE,
    32: _COARSE,
}


def parse(arg: str, **defaults):
    """Parses a config's argument, "f=8,bottleneck=vq"; the defaults give the types.

    Args:
      arg: what follows the colon of --config=FILE:ARG; may be empty.
      **defaults: every name that the config takes, with its default value.

    Raises:
      ArgumentError: an unknown name, or a value that is not of the default's type.
    """
    values = dict(defaults)
    for item in filter(None, arg.split(",")):
        name, _, text = item.partition("=")
        if name not in defaults:
            known = ", ".join(f"{k}={v}" for k, v in defaults.items())
            raise ArgumentError(
                f"unknown config argument {name!r} in {arg!r}; this config takes "
                f"{known or 'no argument'}.",
                takes=defaults,
            )
        kind = type(defaults[name])
        try:
            values[name] = kind(text)
        except ValueError as error:
            raise ArgumentError(
                f"config argument {name} is of type {kind.__name__}: got {text!r}; "
                f"{name}={defaults[name]}, say."
            ) from error
    return ConfigDict(values)


def choose(what: str, name, table) -> Any:
    """Returns table[name].

    Raises:
      ArgumentError: there is no such row; the error lists the names.
    """
    if name not in table:
        known = ", ".join(f"{what}={key}" for key in table)
        raise ArgumentError(f"unknown {what}={name} of this config; one of: {known}.")
    return table[name]


def experiment(task: str) -> ConfigDict:
    """Makes the sections that all experiments have."""
    config = ConfigDict()
    config.task = task
    config.seed = 0
    config.batch_size = 48
    config.autoencoder = ConfigDict()
    config.mesh = dict(data=-1, fsdp=1, tensor=1, slices=-1)
    config.train = dict(
        num_steps=100_000,
        report_every=50,
        evaluate_every=5_000,
        evaluate_early=False,
        checkpoint_every=5_000,
        checkpoint_seconds=placeholder(float),
        keep=2,
        keep_every=placeholder(int),
        best=placeholder(str),
        best_is_lowest=True,
        # A model directory to fine-tune from; training/options.py explains all fields.
        init_from="",
        accumulate=1,
        ema_on_host=False,
        min_shard_mib=1.0,
        matmul_precision="",
        max_skipped=10,
        skip_norm_above=placeholder(float),
        step_timeout=1800.0,
        allow_data_change=False,
        allow_optimizer_change=False,
        histograms_every=placeholder(int),
        profile_steps=(),
        wandb="",
    )
    return config


def first_stage() -> ConfigDict:
    """Makes a first-stage experiment: images -> autoencoder."""
    config = experiment("first_stage")
    config.images = images("")
    config.transform = dict(image_size=256, crop="center", flip=False)
    config.objective = ConfigDict()
    # File of `ldm-jax weights lpips`; needed unless objective.perceptual is "none".
    config.lpips = dict(file="", fingerprint=placeholder(str))
    # Rombach et al. 2022: Adam(0.5, 0.9), no weight decay, constant rate.
    config.optimizer = dict(name="adam", learning_rate=4.5e-6, b1=0.5, b2=0.9)
    # Split whose reconstructions are evaluated during training; "" for none.
    config.held_out = ""
    return config


def train_for(
    config: ConfigDict, num_steps: int, learning_rate: float, warmup_steps: int
) -> None:
    """Sets the number of steps, and a learning rate with warm-up and cosine decay."""
    config.optimizer.learning_rate = learning_rate
    # The length of the schedule follows train.num_steps.
    config.optimizer.schedule = dict(name="warmup_cosine", warmup_steps=warmup_steps)
    config.train.num_steps = num_steps


def images(dataset: str) -> dict:
    """Makes the section of one image set, or of several ("a,b"), which are mixed.

    The fields are the arguments of `data.images.open_images`.
    """
    return dict(
        dataset=dataset,
        split="train",
        data_dir=placeholder(str),
        manual_dir=placeholder(str),
        download=False,
        max_pixels=2**26,
        max_refused=placeholder(int),
        captions=placeholder(str),
        boxes=placeholder(str),
        label_maps=placeholder(str),
        min_side=0,
        weights=(),
    )


def latent_diffusion(
    autoencoder: str = "", dataset: str = "", image_size: int = 256
) -> ConfigDict:
    """Makes a latent-diffusion experiment: latents -> denoiser.

    `ldm-jax latents --config` encodes the images once. Without `latents.directory`,
    the first stage in `latents.first_stage` encodes them in every step.

    Args:
      autoencoder: a row of autoencoders.AUTOENCODERS; "" if the config sets its own.
      dataset: the argument of `open_images`.
      image_size: side of the images, in pixels.
    """
    config = experiment("latent_diffusion")
    config.latents = dict(
        directory="",
        first_stage=placeholder(str),
        image_size=image_size,
        flip=True,
        scale=placeholder(float),
        weights=(),
    )
    if autoencoder:
        config.autoencoder = autoencoders.autoencoder(autoencoder)
        # The paper divides KL latents by their standard deviation, which is measured
        # when they are written; VQ latents and pixels are not rescaled (App. G).
        if config.autoencoder.bottleneck != "kl":
            config.latents.scale = 1.0
    config.images = images(dataset)
    config.transform = dict(crop="center")
    config.condition = dict(kind="none")
    config.unet = ConfigDict()
    config.schedule = dict(
        kind="scaled_linear", num_timesteps=1000, start=0.0015, end=0.0195
    )
    config.prediction = "eps"
    config.objective = dict(distance="l2", drop_probability=0.0)
    config.optimizer = dict(name="adamw", learning_rate=1e-4)
    config.train.update(ema_of=("unet",), max_ema_decay=0.9999)
    config.sampling = dict(sampler="ddim", num_steps=50, eta=0.0, guidance_scale=1.0)
    # With a reference (ldm-jax stats), samples are drawn and compared with it at
    # every evaluation.
    config.evaluation = dict(
        reference="",
        feature_network="inception",
        feature_weights="",
        num=2_000,
        metrics=("fid",),
        # Further sheets: "inputs", "conditions", "noising", "denoising".
        pictures=(),
    )
    return config


def classifier(directory: str = "") -> ConfigDict:
    """Makes an experiment of a classifier of noisy latents, which guides a denoiser.

    Autoencoder, schedule, latent scale, image size and classes are taken from the
    diffusion model; a model without classes needs `classifier.num_classes`.

    Args:
      directory: the diffusion model's; usually given on the command line.
    """
    config = experiment("classifier")
    del config.autoencoder
    config.diffusion = dict(directory=directory)
    config.latents = dict(
        directory="", image_size=placeholder(int), flip=True, scale=placeholder(float)
    )
    config.classifier = dict(num_classes=placeholder(int), pool="attention")
    # Latents of other images, classified at ten noise levels at every evaluation.
    config.held_out_latents = ""
    config.optimizer = dict(name="adamw", learning_rate=3e-4, weight_decay=0.05)
    return config


def add_classes(config: ConfigDict, num_classes: int, has_null: bool) -> None:
    """Adds a class condition, embedded as one token of width 512 (Tab. 13, 15)."""
    width = 512
    config.condition = dict(
        kind="class", num_classes=num_classes, width=width, has_null=has_null
    )
    config.unet.update(transformer_depth=1, context_dim=width)


def add_text_encoder(config: ConfigDict) -> None:
    """Adds the section of a pretrained text encoder, which is not trained.

    `ldm-jax import` writes its directory; a run records its fingerprint.
    """
    config.text_encoder = dict(directory="", fingerprint=placeholder(str))


def add_concat(config: ConfigDict, channels: int) -> None:
    """Adds a condition's channels to the denoiser's input, after the latent's."""
    pixels = 3  # channels of an "autoencoder" of pixels, which has no such field
    learned = config.autoencoder.get("latent_channels", pixels)
    config.unet.in_channels = learned + channels
