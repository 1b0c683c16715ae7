# SPDX-License-Identifier: Apache-2.0
"""Flags for guidance: a classifier, images, and the query of a retrieval model."""

import argparse
from typing import Any

from ldm_jax.cli import values
from ldm_jax.cli.parser import CommandParser


def add_classifier(command: CommandParser) -> None:
    """Adds the flags of classifier guidance."""
    group = command.add_argument_group("classifier guidance")
    group.add_argument(
        "--classifier", help="directory of a classifier trained for this model"
    )
    group.add_argument(
        "--classifier-scale",
        type=values.finite_number,
        default=1.0,
        help="factor of the classifier's gradient; default: 1; the paper's LDM-8-G: 10",
    )
    group.add_argument(
        "--classifier-form",
        choices=("eps", "mean"),
        default="eps",
        help="eps corrects the predicted noise, for any sampler; mean shifts the mean "
        "of the sampler ddpm, as guided-diffusion does; default: eps",
    )


def classifier_flags(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the flags of classifier guidance; {} without a classifier."""
    if args.classifier is None:
        return {}
    return {
        "classifier": args.classifier,
        "classifier_scale": args.classifier_scale,
        "classifier_form": args.classifier_form,
    }


def add_image_guide(command: CommandParser) -> None:
    """Adds the flags of image guiding, the fields of `tasks.guides.ImageGuide`."""
    group = command.add_argument_group("image guiding, through the decoder (Eq. 18)")
    group.add_argument(
        "--guide",
        metavar="IMAGE",
        help="image, folder or .npz that the samples should match",
    )
    group.add_argument(
        "--double",
        action="store_true",
        help="sample into OUT/small, then images twice as large, guided by these",
    )
    group.add_argument(
        "--guide-by",
        choices=("l2", "lpips"),
        default="l2",
        help="distance between sample and --guide: l2, a sum over pixels, or lpips; "
        "default: l2",
    )
    group.add_argument(
        "--guide-scale",
        type=values.finite_number,
        default=1.0,
        help="factor of the gradient of this distance; 0 is off; default: 1. The "
        "paper's value is not published; ldm_jax/tasks/README.md has measured values",
    )
    group.add_argument(
        "--guide-transform",
        choices=("identity", "down2", "down4"),
        default="identity",
        help="how a sample is reduced before it is compared; default: identity",
    )
    group.add_argument(
        "--guide-interval",
        type=values.interval,
        metavar="FIRST,LAST",
        help="guide only while t is in this range; default: always",
    )
    group.add_argument(
        "--guide-through",
        choices=("network", "decoder"),
        default="network",
        help="the gradient goes through decoder and network, as in the paper, or only "
        "through the decoder, which is cheaper; default: network",
    )
    group.add_argument(
        "--guide-unquantized",
        action="store_true",
        help="skip quantization when the sample is decoded for the comparison (VQ)",
    )
    group.add_argument(
        "--guide-lpips", default="", metavar="FILE", help="LPIPS weights"
    )
    group.add_argument(
        "--guide-lpips-trunk",
        choices=("vgg", "alex", "squeeze"),
        default="vgg",
        help="network of LPIPS; default: vgg, the paper's",
    )
    group.add_argument(
        "--guide-at-once",
        type=values.count,
        metavar="N",
        help="samples that are decoded and compared at once, to save memory at large "
        "sizes; default: the batch",
    )


def image_guide(args: argparse.Namespace) -> Any:
    """Returns the images that guide, or None; with --double those of OUT/small."""
    path, transform = args.guide, args.guide_transform
    if args.double:
        if path is not None or transform != "identity":
            raise ValueError(
                "--double guides by its own samples, reduced by down2: got --guide or "
                "--guide-transform; leave them out."
            )
        path, transform = f"{args.out}/small", "down2"
    if path is None:
        return None
    from ldm_jax.experiment.guiding.image_guide import GuidingImages
    from ldm_jax.tasks.guides import ImageGuide

    how = ImageGuide(
        args.guide_by,
        args.guide_scale,
        transform,
        args.guide_interval,
        args.guide_through,
        not args.guide_unquantized,
        args.guide_lpips_trunk,
        args.guide_at_once,
    )
    return GuidingImages(path, how, args.guide_lpips)


def add_query(command: CommandParser) -> None:
    """Adds the flags of retrieval, the fields of `experiment.retrieval`."""
    group = command.add_argument_group(
        "retrieval models, with --prompt, --query, or --database alone"
    )
    add_embedder(group)
    group.add_argument(
        "--query", help="image, or folder of images, whose neighbours are used"
    )
    add_database(group)


def add_embedder(command: Any) -> None:
    """Adds the flags of the network that embeds images for retrieval."""
    command.add_argument(
        "--clip-model",
        metavar="FOLDER",
        help="CLIPModel that embeds texts and images for retrieval",
    )
    command.add_argument(
        "--feature-network",
        metavar="NAME",
        help="mobilenet, inception or random instead of CLIP; embeds images, not texts",
    )
    command.add_argument(
        "--feature-weights",
        metavar="FILE",
        help="weights of the feature network; default: "
        "weights/FEATURE_NETWORK.safetensors",
    )


def embedder_of(args: argparse.Namespace) -> Any:
    """Returns the `EmbedderSource` of the flags; it may name no network."""
    from ldm_jax.experiment.retrieval.image_embedder import EmbedderSource

    return EmbedderSource(
        args.clip_model or "", args.feature_network or "", args.feature_weights
    )


def add_database(group: Any) -> None:
    """Adds the database of a retrieval model and the number of neighbours."""
    group.add_argument(
        "--database", help="file of `ldm-jax database`, or a published database"
    )
    group.add_argument(
        "--neighbours",
        type=values.count,
        help="number of neighbours of each query, with --database; default: as in "
        "training",
    )


def query_from_database(args: argparse.Namespace) -> dict[str, Any]:
    """Returns "query", drawn from the database of the flags; {} without one."""
    if not args.database:
        return {}
    from ldm_jax.experiment.retrieval.context import RetrievalQuery
    from ldm_jax.experiment.retrieval.image_embedder import EmbedderSource

    source, number = EmbedderSource(), args.neighbours or 0
    query = RetrievalQuery(source, database=args.database, neighbours=number)
    return {"query": query}


def query_of(args: argparse.Namespace, inputs: dict[str, Any]) -> Any:
    """Returns the query of a retrieval model; takes the text out of the inputs.

    None where no flag of retrieval is given.
    """
    embedder = embedder_of(args)
    if not embedder.is_given and not args.database:
        for flag in ("query", "neighbours"):
            if getattr(args, flag):
                raise ValueError(
                    f"--{flag} is of retrieval models, with their CLIP model: got no "
                    "--clip-model."
                )
        return None
    from ldm_jax.experiment.retrieval.context import RetrievalQuery

    text = inputs.pop("text", None)
    return RetrievalQuery(
        embedder, text, args.query, args.database or "", args.neighbours or 0
    )
