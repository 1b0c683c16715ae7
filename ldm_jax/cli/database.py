# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax database`."""

from ldm_jax.cli import guides, values

DETAILS = """
A retrieval model (config.condition.kind=retrieval) is conditioned on the embeddings of
similar images, its neighbours. `ldm-jax latents --database` finds them for training,
`ldm-jax sample --database` for sampling. Use the same network for both; the published
model needs CLIP ViT-L/14. A feature network (--feature-network) can replace CLIP, but
it cannot embed texts. Of every image, the central square is embedded.
"""
WRITES = """
  OUT, an .npz file in the layout of the published databases: embedding [N, d], img_id
  [N] (the number of the image in its set), patch_coords [N, 4], clip (the encoder) and
  images (the image set).
"""
EXAMPLES = """
  ldm-jax database ./photos --clip-model clip-vit-large-patch14 --out photos.npz
  ldm-jax database ./photos --feature-network mobilenet --out photos.npz
  ldm-jax sample --model models/rdm768 --out fox --prompt "a fox" \\
      --clip-model clip-vit-large-patch14 --database photos.npz
"""


def add(commands) -> None:
    """Adds the command."""
    command = values.add_command(
        commands,
        "database",
        _run,
        "Embed an image set with CLIP, as a database of neighbours for retrieval.",
        details=DETAILS,
        writes=WRITES,
        examples=EXAMPLES,
    )
    command.add_argument("dataset", help="name of a data set, or a folder (./...)")
    guides.add_embedder(command)
    command.add_argument("--out", required=True, help="new .npz file to write")
    command.add_argument("--split", default="train", help="default: train")
    command.add_argument("--data-dir", help="folder of the TFDS data sets")
    values.add_batch_size(command)


def _run(args, overrides) -> None:
    from ldm_jax.commands.database import build_database
    from ldm_jax.data.images.image_sets import open_images

    images = dict(dataset=args.dataset, split=args.split, data_dir=args.data_dir)
    database = build_database(
        lambda: open_images(**images),
        guides.embedder_of(args).open,
        args.out,
        args.batch_size,
        images,
    )
    count, width = database.embedding.shape
    values.echo(f"{count} embeddings of {width} numbers in {args.out}")
