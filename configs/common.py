# SPDX-License-Identifier: Apache-2.0
"""What configs share: defaults of the two kinds of experiment, and argument parsing.

A config's sections mirror constructors: `config.unet` are the fields of
`models.unet.UNet`, `config.optimizer` those of `training.optimizer.make_optimizer`, and
so on; `ldm_jax/experiment.py` holds the table of sections. An unknown field is refused
before anything runs.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def parse(arg: str, **defaults):
    """Reads a config's argument, "f=8,bottleneck=vq", into the types of its defaults.

    Args:
      arg: what follows the colon of --config=FILE:ARG; may be empty.
      **defaults: every name the config knows, with the value it has when absent.

    Raises:
      ValueError: an unknown name, or a value that is not of the default's type.
    """
    values = dict(defaults)
    for item in filter(None, arg.split(",")):
        name, _, text = item.partition("=")
        if name not in defaults:
            raise ValueError(
                f"unknown config argument {name!r} in {arg!r}; this config takes "
                f"{', '.join(f'{k}={v}' for k, v in defaults.items())}."
            )
        values[name] = type(defaults[name])(text)
    return ConfigDict(values)


def experiment(task: str) -> ConfigDict:
    """Makes the sections that every experiment has."""
    config = ConfigDict()
    config.task = task
    config.seed = 0
    config.batch_size = 48
    config.autoencoder = ConfigDict()
    config.mesh = dict(data=-1, fsdp=1, tensor=1)
    config.train = dict(
        num_steps=100_000,
        report_every=50,
        evaluate_every=5_000,
        checkpoint_every=5_000,
        checkpoint_seconds=placeholder(float),
        keep=2,
        best=placeholder(str),
        best_is_lowest=True,
        # A model directory to fine-tune from; training/loop.py tells of every field.
        init_from="",
        accumulate=1,
        ema_on_host=False,
        min_shard_mib=4.0,
        matmul_precision="",
        max_skipped=10,
        skip_norm_above=placeholder(float),
        step_timeout=1800.0,
        allow_data_change=False,
        histograms_every=placeholder(int),
        profile_steps=(),
        wandb="",
    )
    return config


def first_stage() -> ConfigDict:
    """Makes a first-stage experiment: images -> autoencoder."""
    config = experiment("first_stage")
    config.images = dict(dataset="", split="train", data_dir=placeholder(str))
    config.transform = dict(image_size=256, crop="center", flip=False)
    config.objective = ConfigDict()
    # Rombach et al. 2022: Adam(0.5, 0.9), no weight decay, constant rate.
    config.optimizer = dict(name="adam", learning_rate=4.5e-6, b1=0.5, b2=0.9)
    # Split of images that are reconstructed and measured on the way; "" for none.
    config.held_out = ""
    return config


def latent_diffusion() -> ConfigDict:
    """Makes a latent-diffusion experiment: latents -> denoiser."""
    config = experiment("latent_diffusion")
    config.latents = dict(
        directory="", image_size=256, flip=True, scale=placeholder(float)
    )
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
    return config
