# SPDX-License-Identifier: Apache-2.0
"""Full disks, kills and two writers at once, for the commands that write."""

import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from ldm_jax import cli
from ldm_jax.commands.import_ import import_weights
from ldm_jax.experiment import models
from ldm_jax.experiment.config import config_files
from ldm_jax.training.checkpoints.checkpointer import save_params
from tests.conditions.test_tokens import write_vocab
from tests.interop import small

pytestmark = pytest.mark.slow

# {root} has the inputs, {out} is the output.
COMMANDS = {
    "import": "import {root}/source/model.ckpt --out={out}",
    "export npz": "export {root}/text --to=npz --out={out}.npz",
    "export compvis": "export {root}/text --to=compvis --out={out}.ckpt",
    "export diffusers": "export {root}/text --to=diffusers --out={out}",
    "export orbax": "export {root}/text --to=orbax --out={out}",
    "latents": "latents --model={root}/model --out={out} --records-per-shard=4",
    "reconstruct": "reconstruct --model={root}/model --out={out}.png",
    "sample": "sample --model={root}/text --tokens --num=2 --out={out}",
    "evaluate": "evaluate --images={root}/photos --pairs={root}/photos --metrics=psnr "
    "--out={out}",
    "train": "train --config=quickstart:stage=first_stage --workdir={out} "
    "--config.images.dataset={root}/photos --config.images.split=all "
    "--config.held_out= --config.transform.image_size=8 --config.batch_size=8 "
    "--config.autoencoder.channels=32 --config.train.num_steps=2",
}
NEW = ("import", "export npz", "export compvis", "export diffusers", "export orbax")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Twelve pictures, an untrained first stage, a text model and its checkpoint."""
    root = tmp_path_factory.mktemp("inputs")
    (root / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(root / f"photos/{i:02}.png")
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
    checkpoint = small.checkpoint(root / "source", small.TEXT)
    assert pathlib.Path(checkpoint) == root / "source" / "model.ckpt"
    vocab = write_vocab(root / "vocab.txt", 30522)
    import_weights(checkpoint, str(root / "text"), vocab=vocab)
    return root


def line(name, root, out):
    words = COMMANDS[name].format(root=root, out=out).split()
    if "--tokens" in words:
        words[words.index("--tokens")] = "--prompt=a cat"
        words += ["--num-steps=2", "--grid=even", "--size=32"]
    return words


def results(folder):
    """Names of the files below a folder, without what is hidden or named at random."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {
        path.as_posix()
        for path in files
        if not path.name.startswith(".") and path.parent.name != "d"  # orbax's data
    }


@pytest.fixture
def disk(tmp_path):
    """A disk of 2 MiB; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a disk")
    yield folder
    # Lazily: a failed checkpoint keeps a file of it open.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("kib", [0, 72])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_reported_in_one_line(name, kib, root, disk, capfd):
    (disk / "ballast").write_bytes(b"\0" * (2048 - kib) * 1024)
    code = cli.main(line(name, root, disk / "out"))
    error = capfd.readouterr().err
    if code == 0 and kib:
        pytest.skip("the result fits into what is free")
    assert code == 2
    assert "Traceback" not in error
    last = error.strip().splitlines()[-1]
    assert "could not write" in last and str(disk) in last
    assert "0.00 GiB free" in last
    if name in NEW:
        assert results(disk) == {"ballast"}


@pytest.mark.parametrize("name", COMMANDS)
def test_of_two_writers_one_wins_and_the_other_gets_an_error(name, root, tmp_path):
    argv = [sys.executable, "-m", "ldm_jax.cli", *line(name, root, tmp_path / "out")]
    both = [subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) for _ in "ab"]
    errors = [process.communicate()[1] for process in both]
    codes = sorted(process.returncode for process in both)
    if codes == [0, 0]:  # one after the other
        assert name not in NEW
        return
    assert codes == [0, 2], errors
    (loser,) = (e for e, p in zip(errors, both, strict=True) if p.returncode == 2)
    assert "in use by process" in loser or "must be new" in loser
    alone = tmp_path / "alone"
    alone.mkdir()
    assert cli.main(line(name, root, alone / "out")) == 0
    written = results(tmp_path) - {f"alone/{path}" for path in results(alone)}
    if name != "train":  # whose event files have other names in each run
        assert written == results(alone)


KILLED = """
import sys
from ldm_jax import cli
from tests.kills import kill_at_operation
kill_at_operation(int(sys.argv[1]), sys.argv[2])
sys.exit(cli.main(sys.argv[3:]))
"""


@pytest.mark.parametrize("operation", [4, 12])
@pytest.mark.parametrize("name", COMMANDS)
def test_after_a_kill_the_same_command_finishes(name, operation, root, tmp_path):
    words = line(name, root, tmp_path / "out")
    argv = [sys.executable, "-c", KILLED, str(operation), str(tmp_path / "out")]
    code = subprocess.run([*argv, *words], capture_output=True).returncode
    assert code in (0, -signal.SIGKILL)
    if name in NEW and results(tmp_path):  # whole or not there
        assert cli.main(words) == 2
    else:
        assert cli.main(words) == 0
    written = results(tmp_path)
    alone = tmp_path / "alone"
    alone.mkdir()
    assert cli.main(line(name, root, alone / "out")) == 0
    if name != "train":
        assert written == results(alone)
