# SPDX-License-Identifier: Apache-2.0
"""A tiny quickstart from a folder to samples and a report, and its errors."""

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from ldm_jax import cli
from ldm_jax.files.formats.png import save_png

TINY = [
    "--config.first_stage.train.num_steps=2",
    "--config.diffusion.train.num_steps=2",
    "--config.diffusion.sampling.num_steps=4",
    "--config.diffusion.batch_size=8",
    "--config.diffusion.unet.channel_mult=(1,)",
    "--config.diffusion.unet.attention_levels=()",
]


def colours(folder, classes=("blue sky", "red"), count=40):
    """Makes a folder of pictures of one colour each, with a little noise."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(classes):
        for i in range(count):
            image = rng.integers(0, 60, (18, 20, 3), np.uint8)
            image[..., k] += 150
            save_png(folder / name / f"{i}.png", image)
    return folder


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """A quickstart: (folder of pictures, working directory, output, its figures)."""
    root = tmp_path_factory.mktemp("photos")
    images, workdir = colours(root / "photos"), root / "run"
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert cli.main(quickstart(images, workdir)) == 0
    figures = json.loads((workdir / "results.json").read_text())["figures"]
    return images, workdir, output.getvalue(), figures


@pytest.fixture(scope="module")
def finished(printed):
    """A finished quickstart: (folder of pictures, working directory)."""
    return printed[:2]


def quickstart(images, workdir, *more):
    return ["quickstart", f"--images={images}", f"--workdir={workdir}", *TINY, *more]


def test_everything_that_is_promised_is_there(finished):
    _, workdir = finished
    results = json.loads((workdir / "results.json").read_text())
    assert set(results["figures"]) == {
        "psnr",
        *(f"{kind}_distance_samples" for kind in ("colour", "nearest")),
        *(f"{kind}_distance_held_out" for kind in ("colour", "nearest")),
    }
    assert "--label 'blue sky'" in results["next"][0]
    page = (workdir / "report.html").read_text()
    assert page.count("<img") >= 2 and "blue sky" in page and "http" not in page
    sheet = np.asarray(Image.open(workdir / "samples.png"))
    assert sheet.shape[0] > 2 * 128 and sheet.shape[1] > 8 * 128  # two rows of eight


def test_the_closing_summary_shows_samples_beside_held_out_pictures(printed):
    """Identity: with the figures of results.json; every line begins in one column."""
    _, _, page, figures = printed
    assert "is not repeated" not in page
    lines = dict(
        (line[2:15].strip(), line[15:])
        for line in page[page.rindex("PSNR") - 2 :].splitlines()
    )
    assert lines["PSNR"].startswith(f"{figures['psnr']:.2f} dB")
    samples, held_out = (
        f"{figures[f'nearest_distance_{name}']:.4g}" for name in ("samples", "held_out")
    )
    assert lines["nearest"] == (
        f"distance {samples} for samples, {held_out} for held-out pictures"
    )


def test_classes_are_sampled_by_name(finished, tmp_path, capsys):
    _, workdir = finished
    argv = ["sample", f"--model={workdir / 'diffusion'}", "--num-steps=2"]
    assert cli.main([*argv, "--label=red,blue sky", f"--out={tmp_path / 'a'}"]) == 0
    assert len(list((tmp_path / "a").glob("0*.png"))) == 2
    assert cli.main([*argv, "--label=green", f"--out={tmp_path / 'b'}"]) == 2
    assert "one of the names blue sky, red" in capsys.readouterr().err


def test_an_edited_config_is_run_again(finished, capsys):
    images, workdir = finished
    path = workdir / "config.py"
    text = path.read_text().replace("held_out=", "guidance_scale=9.0, held_out=")
    path.write_text(text)
    # The copies of the first stage were made with another interval of its reports.
    often = "--config.first_stage.train.report_every=1"
    assert cli.main(quickstart(images, workdir, often)) == 0
    page = capsys.readouterr().out
    assert f"those of {path}" in page and "trained already is not repeated" in page
    assert "flags are not stored in it" in page
    assert "16x16\n" in page and "pictures\n" in page  # images, held-out pictures
    assert "64 channels, 2 steps of 8\n" in page  # as replaced on the command line
    settings = json.loads((workdir / "diffusion" / "config.json").read_text())
    assert settings["sampling"]["guidance_scale"] == 9.0
    assert cli.main(quickstart(images, workdir, "--size=16")) == 2
    assert "edit image_size there" in capsys.readouterr().err
    rate = "--config.diffusion.optimizer.schedule.warmup_steps=1"
    assert cli.main(quickstart(images, workdir, rate)) == 2
    allow = "give --config.diffusion.train.allow_optimizer_change=True"
    assert allow in capsys.readouterr().err


def test_another_folder_is_refused_in_the_same_directory(finished, tmp_path, capsys):
    _, workdir = finished
    others = colours(tmp_path / "others")
    assert cli.main(quickstart(others, workdir)) == 2
    error = capsys.readouterr().err
    assert "must be those that" in error and "--workdir" in error


@pytest.mark.parametrize("inside", ["", "runs/photos"])
def test_a_result_among_the_pictures_is_refused(inside, tmp_path, capsys):
    images = colours(tmp_path / "photos", count=1)
    before = sorted(images.rglob("*"))
    assert cli.main(quickstart(images, images / inside)) == 2
    error = capsys.readouterr().err
    assert "--workdir must be outside of the images" in error
    assert f"--workdir={tmp_path / 'runs' / 'photos'}" in error
    assert sorted(images.rglob("*")) == before


def test_a_folder_that_changes_between_two_calls_is_refused(finished, capsys):
    images, workdir = finished
    moved = (images / "red" / "0.png").rename(images.parent / "moved.png")
    assert cli.main(quickstart(images, workdir)) == 2
    assert (
        "got 79 in" in (error := capsys.readouterr().err) and "begun with, 80" in error
    )
    moved.rename(images / "red" / "0.png")


def test_pictures_can_be_added_to_a_folder_that_had_too_few(tmp_path, capsys):
    """Nothing of the refused call is stored, so the next one is the first."""
    images = colours(tmp_path / "photos", count=4)
    assert cli.main(quickstart(images, tmp_path / "run")) == 2
    assert "at least 16 pictures" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--images=./none"], "is not a directory"),
        (["--images=./empty"], "holds no image file"),
        (["--images=./empty", "--config=quickstart"], "chooses its own config"),
        (["--size=32"], "give --images too"),
    ],
)
def test_bad_input_is_one_line(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert cli.main(["quickstart", *argv]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_the_same_can_be_done_by_hand(finished, tmp_path, capsys):
    """Size, autoencoder and class names are taken from the latents."""
    _, workdir = finished
    config = ["--config=photos:stage=diffusion,channels=32"]
    config += [f"--config.latents.directory={workdir / 'latents'}"]
    assert cli.main(["train", *config, "--workdir=x", "--dry-run"]) == 0
    page = capsys.readouterr().out
    assert "config.condition.class_names = ('blue sky', 'red')" in page
    assert "config.latents.image_size = 16" in page
    other = ["--config.condition.num_classes=7", "--workdir=x", "--dry-run"]
    assert cli.main(["train", *config, *other]) == 2
    assert "num_classes must be that of the data" in capsys.readouterr().err


@pytest.mark.slow
def test_a_folder_with_captions_becomes_a_text_model(tmp_path, capsys):
    """In one command; and by hand, where the latents know the images."""
    images, workdir = colours(tmp_path / "photos", count=20), tmp_path / "run"
    for path in images.rglob("*.png"):
        path.with_suffix(".txt").write_text(f"a picture of {path.parent.name}\n")
    assert cli.main(quickstart(images, workdir)) == 0
    results = json.loads((workdir / "results.json").read_text())
    assert "--prompt" in results["next"][0]
    assert "text: captions in txt" in results["chosen"]["condition"]

    stage, latents = workdir / "first_stage", tmp_path / "latents"
    config = "--config=photos:stage=diffusion,condition=text"
    argv = ["latents", f"--model={stage}", f"--out={latents}"]
    assert cli.main([*argv, config]) == 2
    assert "config.images.captions names" in capsys.readouterr().err
    assert cli.main([*argv, f"{config},captions=txt"]) == 0
    data = f"--config.latents.directory={latents}"
    assert cli.main(["train", config, data, "--dry-run"]) == 0
    assert "config.condition.kind = 'text'" in capsys.readouterr().out
