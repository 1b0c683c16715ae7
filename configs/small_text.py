# SPDX-License-Identifier: Apache-2.0
r"""Pictures with captions, e.g. emoji with their names.

    ldm-jax latents --config=small_text --model runs/first_stage \
        --out LATENTS --images ./emoji
    ldm-jax train --config=small_text --workdir=runs/text \
        --config.latents.directory=LATENTS
    ldm-jax sample --model runs/text --out samples --prompt "red heart" --num 4

The folder contains captions.csv with the columns file and caption. small.py trains the
first stage. By default, the tokens of a text are its bytes, which needs no vocabulary
file. Training is much faster with word tokens and a vocabulary such as vocab.txt of
bert-base-uncased:

    ldm-jax train --config=small_text --workdir=runs/text \
        --config.latents.directory=LATENTS --config.condition.tokenizer=bert \
        --config.condition.vocab=vocab.txt --config.condition.length=16

With a pretrained text encoder of width 768 instead of one that is trained here:

    ldm-jax import clip-vit-large-patch14/ --out models/clip
    ldm-jax train --config=small_text:frozen=768 --workdir=runs/text \
        --config.latents.directory=LATENTS --config.text_encoder.directory=models/clip
"""

from ldm_jax.configs import common, small


def get_config(arg: str = ""):
    """Returns the experiment."""
    frozen = common.parse(arg, frozen=0).frozen
    config = small.diffusion(num_steps=2500)
    config.images.update(split="all", captions="captions.csv")
    config.latents.flip = False
    width = frozen or 64
    if frozen:  # the other fields are read from the encoder's directory
        config.condition = dict(kind="text", width=width, is_frozen=True)
        common.add_text_encoder(config)
    else:
        config.condition = dict(kind="text", width=width, depth=2, length=32)
    small.attend(config, width)
    return config
