# SPDX-License-Identifier: Apache-2.0
r"""Pictures with their neighbours in a database (retrieval, small).

    ldm-jax database ./photos --split train --feature-network mobilenet \
        --out photos.npz
    ldm-jax latents --config=small_retrieval --model runs/first_stage \
        --out LATENTS --images ./photos --split train --database photos.npz \
        --neighbours 4
    ldm-jax train --config=small_retrieval --workdir=runs/retrieval \
        --config.latents.directory=LATENTS
    ldm-jax sample --model runs/retrieval --database photos.npz --num 16 --out samples
    ldm-jax sample --model runs/retrieval --database photos.npz --out similar \
        --query ./other_photos --feature-network mobilenet

small.py trains the first stage. The network that embeds images is MobileNetV2 (`ldm-jax
weights mobilenet`) or a CLIP model (--clip-model FOLDER), which also embeds texts; then
width=512 or 768 is the width of its embeddings. The model reads the rows of four
neighbours as they are, without an embedding of the query, as the paper's models do.
kind=none trains on the same latents without a condition.
"""

from ldm_jax.configs import common, small


def get_config(arg: str = ""):
    """Returns the experiment with neighbours, or with no condition."""
    values = common.parse(arg, kind="retrieval", width=1280)
    retrieves = common.choose("kind", values.kind, {"retrieval": True, "none": False})
    config = small.diffusion()
    config.latents.flip = False
    if retrieves:
        config.condition = dict(
            kind="retrieval",
            width=values.width,
            length=4,
            has_query=False,
            unit_length=False,
        )
        config.unet.update(transformer_depth=1, context_dim=values.width)
        config.objective.drop_probability = 0.1
    return config
