# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax database`."""

from ldm_jax.cli import values

DETAILS = """
A database is what `ldm-jax sample --database` finds neighbours in, for models that
retrieve (config.condition.kind=retrieval). The CLIP model must be that of the denoiser:
ViT-L/14 for the published one. The middle square of every image is embedded.
"""
WRITES = """
  OUT, an .npz file in the layout of the published databases: embedding [N, d], img_id
  [N] (the number of the image in its set), patch_coords [N, 4], and clip, the encoder.
"""
EXAMPLES = """
  ldm-jax database ./photos --clip-model clip-vit-large-patch14 --out photos.npz
  ldm-jax sample --model models/rdm768 --out fox --prompt "a fox" \\
      --clip-model clip-vit-large-patch14 --database photos.npz
"""


def add(commands) -> None:
    """Adds the command."""
    command = values.add_command(
        commands,
        "database",
        _run,
        "Embed an image set with CLIP, to retrieve neighbours from.",
        details=DETAILS,
        writes=WRITES,
        examples=EXAMPLES,
    )
    command.add_argument("dataset", help="a name, or a folder (./...)")
    command.add_argument("--clip-model", required=True, help="folder of a CLIPModel")
    command.add_argument("--out", required=True, help=".npz file to write, new")
    command.add_argument("--split", default="train", help="default: train")
    command.add_argument("--data-dir", help="folder of the TFDS data sets")
    values.add_batch_size(command)


def _run(args, overrides) -> None:
    from ldm_jax.commands.database import build_database
    from ldm_jax.data.images.image_sets import open_images

    source = open_images(args.dataset, args.split, data_dir=args.data_dir)
    found = build_database(source, args.clip_model, args.out, args.batch_size)
    count, width = found.embedding.shape
    values.say(f"{count} embeddings of {width} numbers in {args.out}")
