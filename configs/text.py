# SPDX-License-Identifier: Apache-2.0
r"""Text to image 256x256 (Rombach et al. 2022, Tab. 2 and 15; the released models).

    ldm-jax latents --config=text --model models/kl-f8 --out LATENTS \
        --manual-dir ./laion
    ldm-jax train --config=text --workdir=runs/text \
        --config.latents.directory=LATENTS --config.condition.vocab=vocab.txt

    model=laion        LDM-KL-8, 1.45B: UNet 872M, text encoder 543M; 390k steps with
                       batch 680 on LAION-400M. On COCO with 250 sampling steps (Tab.
                       2): FID 23.31, IS 20.03; with guidance scale 1.5, FID 12.63 and
                       IS 30.29.
    model=conceptual   LDM-4 of the released code: UNet 404M, text encoder 147M, on
                       Conceptual Captions. Its README gives FID 16.79 and IS 13.89 with
                       100 steps, eta 0, and says that it was fine-tuned from a model of
                       LAION. That model is not published (model=laion has other
                       widths); train.init_from takes one. Batch size 28 and learning
                       rate 5.6e-5 as in its config; the number of training steps is not
                       published.
    model=clip         Stable Diffusion 1.x: UNet 860M, with the pretrained CLIP
                       ViT-L/14 in text_encoder.directory (ldm-jax import), which is
                       not trained. Other hyperparameters as for model=laion.

Images and captions are read from tars, as img2dataset writes them. `vocab` is the
vocab.txt of bert-base-uncased. The released text encoders have 39M and 20M parameters
more, in an output layer that is never used. Classifier-free guidance needs training
with dropped texts. The paper's text and code do not give the probability; 0.1 is from
Ho & Salimans 2022.
"""

from ml_collections.config_dict import placeholder

from ldm_jax.configs import common

LAION = dict(
    autoencoder="kl-f8",
    unet=dict(
        channels=320,
        channel_mult=(1, 2, 4, 4),
        attention_levels=(0, 1, 2),
        num_heads=8,
    ),
    batch_size=680,
    learning_rate=1e-4,
    num_steps=390_000,
    sampling=dict(num_steps=250, guidance_scale=1.5),
)
CLIP_L = dict(encoder="clip", tokenizer="clip", depth=12, num_heads=12, mlp_width=3072)
MODELS = {
    "laion": dict(LAION, width=1280),
    "conceptual": dict(
        autoencoder="vq-f4",
        unet=dict(common.IMAGENET_UNETS[4], head_channels=32),
        width=640,
        batch_size=28,
        learning_rate=5.6e-5,
        num_steps=1_000_000,
        sampling=dict(num_steps=100),
    ),
    "clip": dict(LAION, width=768, encoder=CLIP_L),
}


def get_config(arg: str = ""):
    """Returns one model's experiment."""
    name = common.parse(arg, model="laion").model
    model = common.choose("model", name, MODELS)
    config = common.latent_diffusion(model["autoencoder"], "image_text")
    # Captions can mention left and right.
    config.latents.flip = False
    if name != "conceptual":
        # Between the schedules of the other models and Stable Diffusion's own.
        config.schedule.update(start=0.00085, end=0.012)
    width = model["width"]
    encoder = model.get("encoder") or dict(depth=32, tokenizer="bert")
    config.condition = dict(kind="text", width=width, vocab=placeholder(str), **encoder)
    if name == "clip":
        config.condition.merges = placeholder(str)
        common.add_text_encoder(config)
    config.unet = dict(model["unet"], transformer_depth=1, context_dim=width)
    config.objective.drop_probability = 0.1
    config.batch_size = model["batch_size"]
    config.optimizer.learning_rate = model["learning_rate"]
    config.train.num_steps = model["num_steps"]
    config.sampling.update(model["sampling"])
    return config
