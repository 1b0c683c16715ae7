# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax weights`: the published networks that losses and metrics look through."""

import argparse

LPIPS_EPILOG = """
LPIPS (Zhang et al. 2018, v0.1) has two published parts: a trunk, which is a network of
torchvision, and linear weights. What each file is shows in its names and shapes. The
paper trains with the trunk vgg; alex and squeeze are smaller.

examples:
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
FEATURE_NETWORK_EPILOG = """
SOURCE is the published .pth on disk; without it the file is downloaded beside OUT. Its
checksum is known and checked.

examples:
  ldm-jax weights inception
  ldm-jax weights inception pt_inception-2015-12-05-6726825d.pth
"""


def add(commands) -> None:
    """Adds the command that makes files of weights."""
    command = commands.add_parser(
        "weights",
        help="Make a file of weights for a perceptual loss from published ones.",
        description="Make a file of weights from published ones.",
    )
    kinds = command.add_subparsers(dest="kind", required=True, metavar="KIND")
    _add_lpips(kinds)
    for kind, text in FEATURE_NETWORKS.items():
        _add_feature_network(kinds, kind, text)


def _add_lpips(kinds) -> None:
    command = kinds.add_parser(
        "lpips",
        help="LPIPS: the perceptual loss of first stages",
        description="Put LPIPS together in one .safetensors file.",
        epilog=LPIPS_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("files", nargs="*", help=".pth, .npz or .safetensors")
    command.add_argument("--out", required=True, help=".safetensors file to write")
    command.add_argument(
        "--download",
        action="append",
        default=[],
        metavar="TRUNK",
        help="fetch both parts of vgg, alex or squeeze; may be given often",
    )
    command.set_defaults(run=_lpips)


def _lpips(args, overrides) -> None:
    from ldm_jax.interop.feature_networks.lpips import build_lpips

    trunks = build_lpips(args.files, args.out, args.download)
    print(f"LPIPS with {', '.join(trunks)} in {args.out}")


def _add_feature_network(kinds, kind: str, text: str) -> None:
    command = kinds.add_parser(
        kind,
        help=text,
        description=f"Make a file of weights: {text}.",
        epilog=FEATURE_NETWORK_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("source", nargs="?", help="the published .pth")
    command.add_argument(
        "--out", default=f"weights/{kind}.safetensors", help="default: %(default)s"
    )
    command.add_argument(
        "--skip-checksum",
        action="store_true",
        help="accept a file with another checksum; its metrics are not called FID",
    )
    command.set_defaults(run=_feature_network)


def _feature_network(args, overrides) -> None:
    from ldm_jax.interop.feature_networks.weights import build_feature_network

    official = build_feature_network(
        args.kind, args.out, args.source, args.skip_checksum
    )
    what = "the published" if official else "other"
    print(f"{args.kind} with {what} weights in {args.out}")
