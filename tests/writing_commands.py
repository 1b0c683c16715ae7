# SPDX-License-Identifier: Apache-2.0
"""Every command that writes, on small inputs: a row for each, and the inputs."""

import importlib.util
import pathlib
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from ldm_jax.commands.import_ import import_weights
from ldm_jax.experiment import models
from ldm_jax.experiment.config import config_files
from ldm_jax.interop.torch_files.writer import write_ckpt
from ldm_jax.training.checkpoints.params import save_params
from tests.conditions.test_tokens import write_vocab
from tests.interop import small
from tests.metrics.features import published_tensors


class Row(NamedTuple):
    """A command that writes.

    Attributes:
      line: its arguments: {root} has the inputs, {out} is the output.
      kind: of the result: "new" appears whole where nothing was, "file" replaces a
        file, "folder" is continued by the same command.
      suffix: of the output.
      needs: a package without which the command cannot run.
    """

    line: str
    kind: str
    suffix: str = ""
    needs: str = ""

    @property
    def can_run(self) -> bool:
        """Whether the package is installed."""
        return not self.needs or importlib.util.find_spec(self.needs) is not None

    def words(self, root: pathlib.Path, out: pathlib.Path) -> list[str]:
        """Makes the arguments of the command line; no path may have a space."""
        return self.line.format(root=root, out=f"{out}{self.suffix}").split()


def export(form: str, suffix: str = "", model: str = "text", needs: str = "") -> Row:
    """Makes the row of a target of export."""
    line = f"export {{root}}/{model} --to={form} --out={{out}}"
    return Row(line, "new", suffix, needs)


IMAGES = "--config.images.dataset={root}/photos --config.images.split=all"
COMMANDS = {
    "import": Row("import {root}/source/model.ckpt --out={out}", "new"),
    "export safetensors": export("safetensors"),
    "export npz": export("npz", ".npz"),
    "export orbax": export("orbax"),
    "export compvis": export("compvis", ".ckpt"),
    "export diffusers": export("diffusers"),
    "export torch": export("torch"),
    "export onnx": export("onnx", model="model", needs="jax2onnx"),
    "export stablehlo": export("stablehlo", model="model"),
    "export compact": export("compact", model="model"),
    "export all": export("all", model="model"),
    "weights": Row(
        "weights mobilenet {root}/mobilenet.pth --skip-checksum --out={out}",
        *("file", ".safetensors"),
    ),
    "stats": Row(
        "stats {root}/photos --split=all --size=8 --feature-network=random --out={out}",
        *("file", ".npz"),
    ),
    "reconstruct": Row("reconstruct --model={root}/model --out={out}", "file", ".png"),
    "latents": Row(
        "latents --model={root}/model --out={out} --records-per-shard=4", "folder"
    ),
    "sample": Row(
        "sample --model={root}/text --prompt=cat --num=2 --num-steps=2 --grid=even "
        "--size=32 --out={out}",
        "folder",
    ),
    "evaluate": Row(
        "evaluate --images={root}/photos --pairs={root}/photos --metrics=psnr "
        "--out={out}",
        "folder",
    ),
    "train": Row(
        f"train --config=quickstart:stage=first_stage --workdir={{out}} {IMAGES} "
        "--config.held_out= --config.transform.image_size=8 --config.batch_size=8 "
        "--config.autoencoder.channels=32 --config.train.num_steps=2",
        "folder",
    ),
    "study": Row("study --config={root}/study.py --out={out}", "folder"),
    "quickstart": Row(
        "quickstart --images={root}/classes --workdir={out} --size=16 "
        "--config.first_stage.train.num_steps=2 --config.diffusion.train.num_steps=2 "
        "--config.diffusion.sampling.num_steps=4 --config.diffusion.batch_size=8",
        "folder",
    ),
}

STUDY = """
from ldm_jax.study import Budget
from tests.study.conftest import *

def get_study(arg=""):
    return Study(
        arms={{"f=1": Arm(make_denoiser()), "f=2": Arm(make_denoiser(), make_stage())}},
        budget=Budget(steps=2),
        images=dict(dataset="{photos}", split="all"),
        image_size=SIDE,
        evaluate_at=1,
        num_steps=2,
        sampling_steps=(2,),
        num_samples=8,
        metrics=("kid",),
        feature_network="random",
        num_shown=2,
        batch_size=8,
    )
"""


def write_inputs(root: pathlib.Path) -> pathlib.Path:
    """Writes pictures, an untrained first stage, a text model and its checkpoint."""
    rng = np.random.default_rng(0)
    for i, image in enumerate(rng.integers(0, 256, (12, 16, 16, 3), np.uint8)):
        (root / "photos").mkdir(exist_ok=True)
        Image.fromarray(image).save(root / f"photos/{i:02}.png")
    for i, image in enumerate(rng.integers(0, 256, (64, 18, 20, 3), np.uint8)):
        folder = root / "classes" / ("red", "blue")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i:02}.png")
    _write_first_stage(root)
    checkpoint = small.checkpoint(root / "source", small.TEXT)
    vocab = write_vocab(root / "vocab.txt", 30522)
    import_weights(checkpoint, str(root / "text"), vocab=vocab)
    write_ckpt(root / "mobilenet.pth", published_tensors("mobilenet"))
    (root / "study.py").write_text(STUDY.format(photos=root / "photos"))
    return root


def _write_first_stage(root: pathlib.Path) -> None:
    """Writes an untrained first stage of the pictures."""
    overrides = [
        f"--config.images.dataset={root / 'photos'}",
        "--config.images.split=all",
        "--config.autoencoder.channels=32",
        "--config.transform.image_size=8",
    ]
    config = config_files.load_config("quickstart:stage=first_stage", overrides)
    autoencoder = models.make_first_stage(config).autoencoder
    image = np.zeros((1, 8, 8, 3), np.float32)
    params = autoencoder.init(jax.random.key(0), image, jax.random.key(1))["params"]
    save_params(str(root / "model"), {"autoencoder": params}, config.to_dict())
