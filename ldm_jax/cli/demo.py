# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax demo`."""

from ldm_jax.cli import values

DETAILS = """
On the page you choose the condition of the samples (classes, a prompt, boxes that you
draw, a label map or a hole that you paint, a small image), the sampler, the number of
steps, the guidance, the seed and the size. It can compare two settings or two models,
from the same noise, and reconstruct your pictures.

The page is served on 127.0.0.1, to this machine alone, and loads nothing from other
sites. Requests are answered one at a time. Nothing is written.
"""
EXAMPLES = """
  ldm-jax demo                                  (the digits of the package)
  ldm-jax demo --model runs/photos/diffusion --port 8080
  ldm-jax demo --model runs/a/diffusion --beside runs/b/diffusion
"""


def add(commands) -> None:
    """Adds the command."""
    command = values.add_command(
        commands,
        "demo",
        _run,
        "Serve a web page for trying out a model.",
        details=DETAILS,
        examples=EXAMPLES,
    )
    command.add_argument(
        "--model", default="digits", help="a diffusion model; default: digits"
    )
    command.add_argument(
        "--beside", help="a second model to compare, with the same kind of condition"
    )
    command.add_argument(
        "--port",
        type=values.port,
        default=7860,
        help="port of the page; default: %(default)s",
    )


def _run(args, overrides) -> None:
    from ldm_jax.commands.demo.server import open_models

    models = [args.model, *([args.beside] if args.beside else [])]
    with open_models(models, args.port) as server:
        address, port = server.server_address[:2]
        values.echo(f"{', '.join(models)}: http://{address}:{port}  (Ctrl-C ends it)")
        server.serve_forever()
