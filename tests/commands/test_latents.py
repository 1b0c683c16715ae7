# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax latents`: buckets, dtypes, and inspection."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from ldm_jax import cli
from ldm_jax.commands.train import train_config
from ldm_jax.data.latents.sets import open_latent_sets
from ldm_jax.data.records import DamagedRecord
from ldm_jax.experiment import models
from ldm_jax.experiment.config import config_files
from ldm_jax.experiment.prepare import prepare
from ldm_jax.training.checkpoints.params import save_params

CONFIG = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Twelve pictures, a third of them wide, and a first stage that saw nothing."""
    root = tmp_path_factory.mktemp("encode")
    (root / "photos").mkdir()
    for i in range(12):
        size = (24, 12) if i % 3 == 0 else (16, 16)
        shade = np.linspace(0, 20 * i, size[0], dtype=np.uint8)
        pixels = np.broadcast_to(shade[None, :, None], (size[1], size[0], 3))
        Image.fromarray(np.ascontiguousarray(pixels)).save(root / f"photos/{i:02}.png")
    overrides = [
        f"--config.images.dataset={root / 'photos'}",
        "--config.images.split=all",
        "--config.autoencoder.channels=32",
        "--config.transform.image_size=8",
    ]
    config = config_files.load_config(f"{CONFIG}:stage=first_stage", overrides)
    autoencoder = models.make_first_stage(config).autoencoder
    image = np.zeros((1, 8, 8, 3), np.float32)
    params = autoencoder.init(jax.random.key(0), image, jax.random.key(1))["params"]
    save_params(str(root / "model"), {"autoencoder": params}, config.to_dict())
    argv = ["latents", f"--model={root / 'model'}", "--batch-size=8"]
    assert cli.main([*argv, f"--out={root / 'one'}", "--dtype=bfloat16"]) == 0
    buckets = "--buckets=8x8,8x16,32x8"
    assert cli.main([*argv, f"--out={root / 'many'}", buckets]) == 0
    return root


def test_every_image_is_in_the_bucket_of_its_shape(root):
    source, stats, shapes = open_latent_sets(root / "many")
    assert shapes == ((4, 4, 2), (4, 8, 2)) and stats.count == 12
    assert [len(span) for span in source.spans] == [8, 4]
    names = json.loads((root / "many/buckets.json").read_text())["buckets"]
    assert names == ["8x8", "8x16"]  # no image is as tall as the third


def test_latents_are_stored_in_the_requested_dtype(root):
    source, _, _ = open_latent_sets(root / "one")
    assert source[0]["moments"].dtype.name == "bfloat16"
    assert len(source) == 12


def test_the_same_command_resumes_and_another_kind_is_refused(root, capsys):
    argv = ["latents", f"--model={root / 'model'}", "--batch-size=8"]
    assert cli.main([*argv, f"--out={root / 'many'}", "--buckets=8x8,8x16,32x8"]) == 0
    assert cli.main([*argv, f"--out={root / 'many'}"]) == 2
    assert cli.main([*argv, f"--out={root / 'one'}", "--buckets=8x8"]) == 2
    errors = capsys.readouterr().err
    assert "latents of buckets" in errors and "latents of one size" in errors


def test_inspection_shows_images_next_to_their_decoded_latents(root, capsys):
    """Oracle: the left one of each pair is the image as it was encoded."""
    assert cli.main(["latents", f"--inspect={root / 'one'}", "--num=3"]) == 0
    printed = capsys.readouterr().out
    words = ("records      12", "4x4x2, f = 2", "scale", "+-", "PSNR", "bfloat16")
    for word in (*words, "SNR at t     0, 500, 999 of the default schedule: 666, 0.13"):
        assert word in printed, word
    sheet = np.asarray(Image.open(root / "one/inspect.png").convert("RGB"))
    source = Image.open(root / "photos/11.png")
    small = np.asarray(source.resize((8, 8), Image.Resampling.BICUBIC))
    third = sheet[2:10, 2 + 4 * 10 : 10 + 4 * 10]  # pairs of 8 pixels, 2 between
    assert abs(third.astype(int) - small).max() <= 1


def test_inspection_of_buckets_shows_each(root, capsys):
    assert cli.main(["latents", f"--inspect={root / 'many'}", "--num=2"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("PSNR") == 2 and "4x8x2" in printed
    assert (root / "many/8x16/inspect.png").is_file()


def test_inspection_without_the_images_shows_the_decoded_ones(root, capsys):
    (root / "photos").rename(root / "moved")
    try:
        assert cli.main(["latents", f"--inspect={root / 'one'}"]) == 0
    finally:
        (root / "moved").rename(root / "photos")
    printed = capsys.readouterr().out
    assert "PSNR" not in printed and "records      12" in printed


def test_a_first_stage_is_tried_at_other_sizes(root, capsys):
    """Oracle: the two commands, one of which compares bytes, agree; f divides."""
    flags = [f"--model={root / 'model'}", f"--images={root / 'photos'}", "--split=all"]
    flags += ["--size=12x24", "--batch-size=8"]
    pairs = root / "pairs.png"
    assert cli.main(["reconstruct", *flags, f"--out={pairs}", "--num=4"]) == 0
    psnr = float(capsys.readouterr().out.split()[1])
    # Four pairs in a row, enlarged five times, with a margin of 2 pixels.
    assert Image.open(pairs).size == (8 * (5 * 24 + 2) + 2, 5 * 12 + 4)
    evaluate = ["evaluate", *flags, f"--out={root / 'results'}", "--metrics=psnr,ssim"]
    assert cli.main(evaluate) == 0
    result = json.loads((root / "results/results.json").read_text())
    assert result["num_images"] == 12 and result["settings"]["size"] == "12x24"
    assert result["figures"]["psnr"]["value"] == pytest.approx(psnr, abs=0.1)
    flags[-2] = "--size=9x8"
    for command in (["reconstruct", f"--out={pairs}"], [*evaluate[:1], *evaluate[-2:]]):
        assert cli.main([*command, *flags]) == 2
        assert "multiples of f=2: got images of 9x8" in capsys.readouterr().err


def test_images_without_classes_are_refused_for_a_model_of_classes(root, capsys):
    """Before anything is encoded, not by the training that reads the latents."""
    argv = ["latents", f"--model={root / 'model'}", f"--out={root / 'x'}"]
    argv += [f"--images={root / 'photos'}", "--split=all"]
    assert cli.main([*argv, f"--config={CONFIG}:stage=diffusion"]) == 2
    error = capsys.readouterr().err
    assert 'the "class" condition is made of label: got records with image' in error
    assert not (root / "x").exists()


def test_missing_inputs_are_named(root, capsys):
    assert cli.main(["latents", f"--out={root / 'x'}"]) == 2
    assert "--model and --out" in capsys.readouterr().err
    assert cli.main(["latents", f"--inspect={root / 'one'}", "--num=1001"]) == 2
    assert "--num must be at most 1,000 latents" in capsys.readouterr().err
    assert cli.main(["latents", f"--inspect={root / 'photos'}"]) == 2
    assert "is not a model directory" in capsys.readouterr().err
    inside = root / "photos" / "latents"
    assert cli.main(["latents", f"--model={root / 'model'}", f"--out={inside}"]) == 2
    assert "--out must be outside of the images" in capsys.readouterr().err
    assert not inside.exists()


@pytest.mark.parametrize("directory", ["many", "one,one"])
def test_a_model_learns_from_buckets_and_from_mixtures(root, directory, tmp_path):
    """Every shape has its program; the same parameters serve them all."""
    paths = ",".join(str(root / name) for name in directory.split(","))
    overrides = [
        f"--config.latents.directory={paths}",
        "--config.latents.image_size=8",
        "--config.latents.flip=False",
        "--config.autoencoder.channels=32",
        "--config.unet.channels=32",
        "--config.unet.channel_mult=(1,)",
        "--config.unet.attention_levels=()",
        "--config.condition.kind=none",
        "--config.batch_size=8",
        "--config.train.num_steps=4",
        "--config.train.report_every=1",
        "--config.sampling.num_steps=2",
    ]
    config = config_files.load_config(f"{CONFIG}:stage=diffusion", overrides)
    config.condition = dict(kind="none")
    config.unet.context_dim = None
    config.objective.drop_probability = 0.0
    config.sampling.guidance_scale = 1.0
    assert int(train_config(config, str(tmp_path)).step) == 4
    losses = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len([row for row in losses if "loss" in row]) >= 4


@pytest.mark.parametrize("size", [4, 12])
def test_a_batch_that_the_devices_cannot_divide_is_refused_at_once(root, size, capsys):
    argv = ["latents", f"--model={root / 'model'}", f"--out={root / 'x'}"]
    assert cli.main([*argv, f"--batch-size={size}"]) == 2
    error = capsys.readouterr().err
    assert "batch_size must be a multiple of 8" in error
    assert len(error.splitlines()) == 1 and not (root / "x").exists()


def test_a_damaged_record_is_replaced_where_records_are_shown(root, tmp_path, capsys):
    """By the next one, as in training; and a training run of such a set begins."""
    copy = tmp_path / "one"
    shutil.copytree(root / "one", copy)
    (shard,) = copy.glob("*.array_record-00000-of-00001")
    data = bytearray(shard.read_bytes())
    first = next(i for i in range(70, len(data)) if data[i])
    data[first] ^= 1
    shard.write_bytes(data)
    source, _, _ = open_latent_sets(copy)
    with pytest.raises(DamagedRecord):
        source[0]
    for argv in (["info", str(copy)], ["latents", f"--inspect={copy}", "--num=2"]):
        assert cli.main(argv) == 0
        assert "4x4x2" in capsys.readouterr().out
    config = config_files.load_config(
        "photos:stage=diffusion,condition=none",
        [f"--config.latents.directory={copy}", "--config.batch_size=8"],
    )
    assert prepare(config).batch_shapes["moments"].shape == (8, 4, 4, 4)


@pytest.mark.parametrize(
    "transform", [{"kind": "os"}, {"image_size": 10**9}, {"image_size": [8, 8], "a": 1}]
)
def test_a_transform_that_cannot_be_is_named(root, transform, tmp_path, caplog, capsys):
    copy = tmp_path / "one"
    shutil.copytree(root / "one", copy)
    metadata = json.loads((copy / "metadata.json").read_text())
    metadata["stats"]["transform"] = transform
    (copy / "metadata.json").write_text(json.dumps(metadata))
    assert cli.main(["latents", f"--inspect={copy}", "--num=2"]) == 0
    assert "metadata.json" in caplog.text and "PSNR" not in capsys.readouterr().out
