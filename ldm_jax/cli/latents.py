# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax latents`."""

from ldm_jax.cli import guides, reconstruct, values
from ldm_jax.cli.parser import CommandParser

DETAILS = """
Denoisers are trained on latents: --config.latents.directory=OUT of `ldm-jax train`. To
write latents, give --model and --out; to look at some, --inspect.
"""
WRITES = """
  OUT, a TFDS data set, with the first stage in OUT/autoencoder. Open it with
  tfds.builder_from_directory(OUT).as_data_source("train"). If the command was stopped,
  run it again: it writes the missing shards.
"""
EXAMPLES = """
  ldm-jax latents --model runs/a --out runs/latents
  ldm-jax latents --model runs/a --images ./photos --split all --out runs/latents
  ldm-jax latents --inspect runs/latents
  ldm-jax latents --model runs/a --images ./photos --config=small_retrieval \\
      --database photos.npz --neighbours 4 --out runs/latents
"""


def add(commands) -> None:
    """Adds the command."""
    command = values.add_command(
        commands,
        "latents",
        _run,
        "Encode an image set into a data set of latents, with their statistics.",
        details=DETAILS,
        writes=WRITES,
        examples=EXAMPLES,
    )
    reconstruct.add_images(command, is_required=False)
    command.add_argument("--out", help="directory of the latents")
    command.add_argument(
        "--inspect",
        metavar="DIR",
        help="instead of writing latents, print the statistics of those in DIR, and "
        "write DIR/inspect.png: images next to their decoded latents",
    )
    command.add_argument(
        "--num",
        type=values.count,
        default=16,
        help="latents to inspect, up to 1,000; default: 16",
    )
    command.add_argument(
        "--buckets",
        default="",
        help="several image sizes, HEIGHTxWIDTH: 256x256,192x320,320x192; each image "
        "gets the one with the nearest aspect ratio",
    )
    values.add_batch_size(command)
    command.add_argument(
        "--dtype",
        default="float16",
        choices=("float16", "bfloat16", "float32"),
        help="type of the stored latents; default: float16",
    )
    command.add_argument(
        "--records-per-shard",
        type=values.count,
        default=4096,
        help="latents in each file; default: %(default)s",
    )
    command.add_argument(
        "--mirror",
        action="store_true",
        help="also store the latent of each mirrored image",
    )
    command.add_argument(
        "--num-crops",
        type=values.count,
        default=1,
        help="random crops that are stored of each image; needs a random transform; "
        "default: 1",
    )
    command.add_argument(
        "--config",
        help="experiment that will be trained on the latents: use its images and "
        "transform, and store the inputs of its condition",
    )
    command.add_argument(
        "--manual-dir",
        help="folder with the files of a set that is not prepared yet (ffhq, ...)",
    )
    _add_neighbours(command)


def _add_neighbours(command: CommandParser) -> None:
    """Adds the flags of the neighbours that a retrieval model is trained with."""
    group = command.add_argument_group("retrieval models")
    group.add_argument(
        "--database",
        help="file of `ldm-jax database`: store the neighbours of each image, without "
        "the image itself. If the database lacks some images, give the network that "
        "made it: --clip-model or --feature-network",
    )
    group.add_argument(
        "--neighbours",
        type=values.count,
        default=20,
        help="neighbours that are stored; default: 20",
    )
    guides.add_embedder(group)


def _run(args, overrides) -> None:
    from ldm_jax.commands.inspect_latents import inspect_latents
    from ldm_jax.commands.latents import encode_image_set
    from ldm_jax.experiment.config.config_files import load_config
    from ldm_jax.experiment.retrieval.image_neighbours import NeighbourSource

    if args.inspect:
        values.echo(inspect_latents(args.inspect, args.num))
        return
    if not args.model or not args.out:
        raise ValueError(
            "ldm-jax latents needs --model and --out to write latents, or --inspect "
            "DIR to look at some."
        )
    if overrides and not args.config:
        raise ValueError(
            f"{overrides[0]} replaces a value of a config: got no --config; give it, "
            "or leave this out."
        )
    neighbours = None
    if args.database:
        embedder = guides.embedder_of(args)
        neighbours = NeighbourSource(args.database, args.neighbours, embedder)
    encode_image_set(
        args.model,
        args.out,
        images=args.images,
        split=args.split,
        batch_size=args.batch_size,
        records_per_shard=args.records_per_shard,
        mirror=args.mirror,
        num_crops=args.num_crops,
        buckets=args.buckets,
        dtype=args.dtype,
        manual_dir=args.manual_dir,
        neighbours=neighbours,
        config=load_config(args.config, overrides) if args.config else None,
    )
