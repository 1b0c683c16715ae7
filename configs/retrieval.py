# SPDX-License-Identifier: Apache-2.0
r"""Retrieval-augmented LDM-4 (Blattmann et al. 2022, by the authors of the paper).

    ldm-jax database IMAGES --clip-model clip-vit-base-patch32 --out DATABASE.npz
    ldm-jax latents --config=retrieval --model models/vq-f4 --out LATENTS \
        --database DATABASE.npz --neighbours 20 --clip-model clip-vit-base-patch32
    ldm-jax train --config=retrieval --workdir=runs/retrieval \
        --config.latents.directory=LATENTS
    ldm-jax sample --model runs/retrieval --database DATABASE.npz --num 16 --out samples
    ldm-jax sample --model runs/retrieval --database DATABASE.npz --prompt "a fox" \
        --clip-model clip-vit-base-patch32 --out fox

    data=imagenet  UNet 401M; FID 5.32 with ImageNet as the database, 12.28 with
                   patches of Open Images (reported by the authors)
    data=ffhq      UNet 415M; no FID was reported

The values are those of the authors' released code: a database of 20 million random
256x256 patches of Open Images, embedded by CLIP ViT-B/32; 20 neighbours of each image
are stored, and the first 4 are read, as they are in the database; AdamW with 1e-4 and
batch 50; warm-up of 100 steps (imagenet) or 10,000 (ffhq); the condition is never
dropped. Samples: 100 steps of DDIM with guidance scale 2, where the null condition is
zeros. Differences: `ldm-jax database` embeds the middle square of each image instead of
random patches; a text is represented by its neighbours alone, without its own embedding
as a fifth token; queries are drawn uniformly from the database instead of from the rows
that were retrieved most often. The number of steps is not published; the one here is
LDM-4's on the same data; the attention heads are those of the same released UNets
(inferred).

The published 768x768 model, whose training is not published, can be imported:
ldm-jax import.
"""

from ldm_jax.configs import common

MODELS = {
    "imagenet": dict(
        unet=dict(common.IMAGENET_UNETS[4], num_heads=1),
        warmup_steps=100,
        num_steps=178_000,
    ),
    "ffhq": dict(unet=common.UNET_274M, warmup_steps=10_000, num_steps=635_000),
}


def get_config(arg: str = ""):
    """Returns the experiment on one data set."""
    data = common.parse(arg, data="imagenet").data
    model = common.choose("data", data, MODELS)
    config = common.latent_diffusion("vq-f4", data)
    width = 512
    config.condition = dict(
        kind="retrieval", width=width, length=4, has_query=False, unit_length=False
    )
    config.unet = dict(model["unet"], transformer_depth=1, context_dim=width)
    config.latents.flip = False
    config.batch_size = 50
    config.optimizer.schedule = dict(
        name="warmup_linear", warmup_steps=model["warmup_steps"]
    )
    config.train.num_steps = model["num_steps"]
    config.sampling.update(num_steps=100, guidance_scale=2.0)
    return config
