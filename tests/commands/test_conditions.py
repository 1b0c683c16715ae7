# SPDX-License-Identifier: Apache-2.0
"""Every kind of condition from the data through training to sampling."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from ldm_jax import cli
from ldm_jax.commands.train import train_config
from ldm_jax.conditions.kinds.boxes import BoxTokens
from ldm_jax.conditions.registry import make_condition
from ldm_jax.configs import small
from ldm_jax.experiment import model_directory
from ldm_jax.experiment.config import config_files
from ldm_jax.tasks.condition_transform import ConditionTransform
from ldm_jax.training.checkpoints.params import save_params

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
SIDE = 8


def save_png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)
    return path


def noise(seed):
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3))


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    """A model of pixels that learned for two steps to paint, straight from images."""
    root = tmp_path_factory.mktemp("painter")
    for i in range(8):
        save_png(root / "photos" / f"{i}.png", noise(i))
    config = config_files.load_config(f"{CONFIGS / 'small_inpaint.py'}")
    with config.unlocked():
        config.autoencoder = dict(bottleneck="pixels")
        config.images.update(dataset=str(root / "photos"), split="all")
        config.latents.update(image_size=SIDE, scale=1.0)
        config.unet.update(channel_mult=(1,), attention_levels=(), in_channels=7)
        config.batch_size = 8
        config.train.update(num_steps=2, ema_of=(), evaluate_every=2)
        config.sampling.num_steps = 2
    train_config(config, str(root / "model"))
    return root


def test_a_model_learns_from_images_and_paints_holes_only(painter, tmp_path):
    """Identity: every level outside of the hole comes back as it was."""
    image = save_png(tmp_path / "in" / "image.png", noise(50))
    mask = np.zeros((SIDE, SIDE))
    mask[2:5, 3:7] = 255
    mask = save_png(tmp_path / "in" / "mask.png", mask)
    argv = ["sample", f"--model={painter / 'model'}", f"--out={tmp_path / 'out'}"]
    assert cli.main([*argv, f"--image={image}", f"--mask={mask}", "--num=2"]) == 0
    hole = np.asarray(Image.open(mask)) > 0
    for i in range(2):
        painted = np.asarray(Image.open(tmp_path / "out" / f"{i:06d}.png"))
        np.testing.assert_array_equal(painted[~hole], noise(50)[~hole])
        assert (painted[hole] != noise(50)[hole]).mean() > 0.5


def test_the_size_of_samples_is_that_of_the_condition(painter, tmp_path, capsys):
    wide = np.concatenate([noise(1), noise(2)], axis=1)
    image = save_png(tmp_path / "wide.png", wide)
    mask = save_png(tmp_path / "mask.png", np.full(wide.shape[:2], 255))
    argv = ["sample", f"--model={painter / 'model'}", f"--out={tmp_path / 'out'}"]
    argv += [f"--image={image}", f"--mask={mask}"]
    assert cli.main(argv) == 0
    assert Image.open(tmp_path / "out" / "000000.png").size == (2 * SIDE, SIDE)
    assert cli.main([*argv, "--size=8x8"]) == 2
    assert "must be that of the condition, 8x16: got --size 8x8" in (
        capsys.readouterr().err
    )


def test_options_that_fail_leave_no_mark_on_the_folder(painter, tmp_path, capsys):
    """The corrected command must not fail because the folder holds other samples."""
    image = save_png(tmp_path / "image.png", noise(1))
    mask = save_png(tmp_path / "mask.png", np.full((SIDE, SIDE), 255))
    argv = ["sample", f"--model={painter / 'model'}", f"--out={tmp_path / 'out'}"]
    argv += [f"--image={image}", f"--mask={mask}"]
    for flag, message in (
        ("--num-steps=400", "has no 400 steps of T=1000"),
        ("--strength=0.5", "strength=0.5 is the share of the steps that --start"),
        ("--seed=-1", "must be a whole number from 0 to 4294967295: got '-1'"),
    ):
        try:
            code = cli.main([*argv, flag])
        except SystemExit as error:  # of flags that argparse checks
            code = error.code
        assert code == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images.dataset": ""}, "got neither config.latents.directory nor"),
        ({"latents.scale": None}, "config.latents.scale must be given"),
        ({}, "config.latents.first_stage must be the directory"),
        ({"images.dataset": "imagenet"}, "config.latents.first_stage must be the dir"),
    ],
)
def test_training_from_images_names_what_it_lacks(painter, tmp_path, changes, message):
    config = config_files.load_config(f"{CONFIGS / 'small_inpaint.py'}")
    given = {"images.dataset": str(painter / "photos"), "latents.scale": 1.0, **changes}
    config.update_from_flattened_dict(given)
    config.images.split = "all"
    with pytest.raises(ValueError, match=message):
        train_config(config, str(tmp_path))


def test_mirrored_images_have_mirrored_boxes():
    """Identity: the tokens are of the box after the transform."""
    tokens = BoxTokens(num_classes=2, max_objects=3)
    conditioner = make_condition(
        "layout", num_classes=2, width=8, depth=1, max_objects=3
    )

    def mirror(record, rng):
        return {**record, "boxes": np.float32([[0.5, 0, 0.5, 1], [0, 0, 0, 0]])}

    record = {
        "moments": np.zeros((2, 2, 4)),
        "boxes": np.float32([[0, 0, 0.5, 1], [0, 0, 0, 0]]),
        "box_labels": np.int32([1, -1]),
        "label": np.int32(0),
    }
    transform = ConditionTransform(mirror, conditioner)
    example = transform(record, np.random.default_rng(0))
    assert set(example) == {"moments", "tokens"}
    ((box,), _) = tokens.decode(example["tokens"])
    assert box.label == 1 and abs(box.x - 0.5) < 0.01 and abs(box.width - 0.5) < 0.01


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Untrained model directories: flags are checked before any weight is used."""
    root = tmp_path_factory.mktemp("models")
    for kind in ("class", "text", "layout", "semantic", "superres", "inpaint"):
        config = config_files.load_config(f"{CONFIGS / f'small_{kind}.py'}")
        config.latents.scale = 1.0
        if kind == "class":  # what training takes from the latents
            config.condition.num_classes, config.latents.image_size = 10, 32
            config.autoencoder = small.diffusion().autoencoder
        params = {"unet": {"nothing": np.zeros(1)}}
        save_params(str(root / kind), params, config.to_dict())
    return root


def files(root):
    """Inputs that are wrong in one way each."""
    (root / "empty.txt").write_text("\n \n")
    box = {"label": 3, "box": [0.5, 0.5, 0.7, 0.2]}
    (root / "outside.json").write_text(json.dumps([box]))
    (root / "unknown.json").write_text(json.dumps([{**box, "label": 80}]))
    (root / "torn.json").write_text("[{")
    save_png(root / "map.png", np.full((32, 32), 77))
    save_png(root / "colours.png", noise(0))
    save_png(root / "odd_map.png", np.zeros((30, 32)))
    save_png(root / "image.png", np.zeros((32, 32, 3)))
    save_png(root / "mask.png", np.full((16, 16), 255))
    (root / "text.png").write_text("no picture")
    (root / "nothing").mkdir()
    return root


WRONG = [
    ("class", "--label=10", "a class is in 0..9: got '10'"),
    ("class", "--label=shoe", "a class is in 0..9: got 'shoe'"),
    (
        "class",
        "--prompt=shoe",
        'with the "class" condition takes --label: got --prompt',
    ),
    ("text", "--prompt=empty.txt", "there must be a prompt: got none in"),
    ("text", "--prompt=lost.txt", "there must be a file to read: no"),
    ("layout", "--boxes=outside.json", "a box must be inside the image"),
    ("layout", "--boxes=unknown.json", "a class is in 0..79: got 80"),
    ("layout", "--boxes=torn.json", "a layout must be JSON"),
    ("semantic", "--segmentation=map.png", "in 0..11 (or 12, unknown): got [77]"),
    ("semantic", "--segmentation=colours.png", "PNG of class numbers"),
    ("semantic", "--segmentation=odd_map.png", "must be multiples of 4: got 30x32"),
    ("semantic", "--segmentation=nothing", "a folder of pictures must hold some"),
    ("superres", "--low-res=text.png", "must be readable"),
    ("inpaint", "--image=image.png --mask=mask.png", "got 16x16 for an image of 32x32"),
    ("inpaint", "--image=image.png", "takes --image and --mask: got --image;"),
]


def test_errors_of_conditions_are_one_line(models, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(files(tmp_path))
    # These models are settings without parameters: none is sampled.
    monkeypatch.setattr(model_directory, "_check_params", lambda *_: None)
    for kind, flags, message in WRONG:
        argv = ["sample", f"--model={models / kind}", "--out=out", *flags.split()]
        assert cli.main(argv) == 2, flags
        stderr = capsys.readouterr().err
        assert message in stderr and len(stderr.strip().splitlines()) == 1, (
            flags,
            stderr,
        )
    assert not (tmp_path / "out").exists()
