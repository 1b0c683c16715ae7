# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax weights`."""

from ldm_jax.cli import values

EXAMPLES = """
  ldm-jax weights inception
  ldm-jax weights lpips --download vgg --out weights/lpips.safetensors
"""
LPIPS = """
LPIPS (Zhang et al. 2018, v0.1) is published in two parts: a trunk, which is a network
of torchvision, and linear weights. The files are recognised by their names and shapes.
The paper trains with the trunk vgg; alex and squeeze are smaller. No code in a file is
run, and PyTorch is not needed.
"""
LPIPS_EXAMPLES = """
  ldm-jax weights lpips vgg16-397923af.pth lpips/weights/v0.1/vgg.pth \\
      --out weights/lpips.safetensors
  ldm-jax weights lpips --download vgg --out weights/lpips.safetensors    (528 MB)
  ldm-jax train --config=first_stage_kl:f=8 \\
      --config.lpips.file=weights/lpips.safetensors --workdir=runs/kl-f8
"""

FEATURE_NETWORKS = {
    "inception": "InceptionV3 of 2015: FID, sFID, KID, IS, precision and recall",
    "mobilenet": "MobileNetV2 of torchvision, for FD(mobilenet): much faster",
}
PUBLISHED = {
    "inception": "pt_inception-2015-12-05-6726825d.pth",
    "mobilenet": "mobilenet_v2-b0353104.pth",
}
FEATURE_NETWORK = """
SOURCE is the published .pth file on disk; without it the file is downloaded to the
folder of OUT. Its checksum is compared with the published one.
"""


def add(commands) -> None:
    """Adds the command."""
    command = values.add_command(
        commands,
        "weights",
        None,
        "Convert published networks of the perceptual loss and of metrics.",
        writes="  One .safetensors file, which training and evaluate read.\n",
        examples=EXAMPLES,
        uses_devices=False,
    )
    kinds = command.add_subparsers(
        dest="kind", required=True, metavar="KIND", title="kinds"
    )
    _add_lpips(kinds)
    for kind, text in FEATURE_NETWORKS.items():
        _add_feature_network(kinds, kind, text)


def _add_lpips(kinds) -> None:
    command = values.add_command(
        kinds,
        "lpips",
        _lpips,
        "LPIPS: the perceptual loss of first stages",
        details=LPIPS,
        examples=LPIPS_EXAMPLES,
        uses_devices=False,
    )
    command.add_argument("files", nargs="*", help=".pth, .npz or .safetensors")
    command.add_argument("--out", required=True, help=".safetensors file to write")
    command.add_argument(
        "--download",
        action="append",
        default=[],
        metavar="TRUNK",
        help="download both parts of vgg, alex or squeeze; may be repeated",
    )


def _lpips(args, overrides) -> None:
    from ldm_jax.interop.feature_networks.lpips import build_lpips

    trunks = build_lpips(args.files, args.out, args.download)
    values.echo(f"LPIPS with {', '.join(trunks)} in {args.out}")


def _add_feature_network(kinds, kind: str, text: str) -> None:
    command = values.add_command(
        kinds,
        kind,
        _feature_network,
        text,
        details=FEATURE_NETWORK,
        examples=f"  ldm-jax weights {kind}\n"
        f"  ldm-jax weights {kind} {PUBLISHED[kind]}\n",
        uses_devices=False,
    )
    command.add_argument("source", nargs="?", help="the published .pth")
    command.add_argument(
        "--out",
        default=f"weights/{kind}.safetensors",
        help="file to write; default: %(default)s",
    )
    command.add_argument(
        "--skip-checksum",
        action="store_true",
        help="accept a file with another checksum; its metrics are not called FID",
    )


def _feature_network(args, overrides) -> None:
    from ldm_jax.interop.feature_networks.weights import build_feature_network

    official = build_feature_network(
        args.kind, args.out, args.source, args.skip_checksum
    )
    what = "the published" if official else "other"
    values.echo(f"{args.kind} with {what} weights in {args.out}")
