# SPDX-License-Identifier: Apache-2.0
"""A tiny run of all stages: it finishes, resumes to the same bits, and its parts fit.

The model is too small and too briefly trained to draw digits; that it does when trained
is what `ldm-jax quickstart` itself checks.
"""

import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from ldm_jax import cli
from ldm_jax.commands import quickstart
from ldm_jax.commands.sampling.drawing import Drawing
from ldm_jax.experiment.config import config_files
from ldm_jax.metrics.image_sets.reference import load_reference, save_reference
from tests.metrics.features import write_feature_network

CONFIG = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py")
TINY = [
    "--config.first_stage.autoencoder.num_res_blocks=1",
    "--config.first_stage.autoencoder.channel_mult=(1, 1)",
    "--config.diffusion.autoencoder.channel_mult=(1, 1)",
    "--config.first_stage.batch_size=16",
    "--config.diffusion.batch_size=16",
    "--config.first_stage.train.num_steps=12",
    "--config.diffusion.train.num_steps=12",
    "--config.first_stage.train.checkpoint_every=4",
    "--config.diffusion.train.checkpoint_every=4",
    "--config.first_stage.train.report_every=2",
    "--config.diffusion.train.report_every=2",
    "--config.diffusion.unet.channel_mult=(1,)",
    "--config.diffusion.unet.attention_levels=(0,)",
    "--config.diffusion.sampling.num_steps=5",
    "--config.classifier.samples_per_class=2",
    "--config.classifier.min_held_out_accuracy=0.0",
    "--config.classifier.min_sample_accuracy=0.0",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A directory in which the tiny quickstart ran to its end."""
    root = tmp_path_factory.mktemp("quickstart")
    quickstart.run_quickstart(config_files.load_config(CONFIG, TINY), str(root))
    return root


def test_the_chain_leaves_its_models_figures_and_pictures(finished):
    figures = json.loads((finished / "results.json").read_text())
    # 1-nearest-neighbour on 8x8 digits enlarged; the 1,797 digits are a known set.
    assert figures["classifier_accuracy_held_out"] >= 0.97
    assert 0 < figures["nearest_distance_held_out"] < 0.5
    assert np.isfinite(list(figures.values())).all()
    for name in ("samples.png", "reconstructions.png", "loss.png"):
        assert Image.open(finished / name).size[0] > 80
    for name in ("first_stage", "diffusion"):
        rows = (finished / name / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(row)["step"] for row in rows] == [2, 4, 6, 8, 10, 12]


def test_a_diffusion_directory_can_be_moved_and_sampled_from(finished, tmp_path):
    """It holds its first stage; a sample depends on its seed and label alone."""
    model = tmp_path / "elsewhere"
    (finished / "diffusion").rename(model)
    try:
        for out, flags in (
            ("a", ["--num=4", "--batch-size=8"]),
            ("b", ["--num=2", "--seed=2", "--label=2,3", "--previews=3"]),
        ):
            labels = [] if "--label=2,3" in flags else ["--label=0,1,2,3"]
            argv = ["sample", f"--model={model}", f"--out={tmp_path / out}"]
            assert cli.main([*argv, *labels, *flags, "--npz"]) == 0
    finally:
        model.rename(finished / "diffusion")
    first = np.load(tmp_path / "a" / "samples.npz")["arr_0"]
    second = np.load(tmp_path / "b" / "samples.npz")["arr_0"]
    assert first.shape == (4, 16, 16, 3) and len(np.unique(first)) > 10
    np.testing.assert_array_equal(first[2:], second)
    picture = Image.open(tmp_path / "b" / "000000.png")
    assert picture.text["ldm_jax:seed"] == "2"
    previews = np.asarray(Image.open(tmp_path / "b" / "previews.png"))
    # Two rows of three previews and the image; two pixels lie between them.
    assert previews.shape == (2 * 18 + 2, 4 * 18 + 2, 3)
    np.testing.assert_array_equal(previews[2:18, 2 + 3 * 18 : 18 + 3 * 18], second[0])


def test_sampling_resumes_and_refuses_a_directory_of_other_samples(
    finished, tmp_path, capsys
):
    argv = ["sample", f"--model={finished / 'diffusion'}", f"--out={tmp_path}"]
    argv += ["--label=1", "--batch-size=8"]
    assert cli.main([*argv, "--num=2"]) == 0
    before = (tmp_path / "000000.png").stat().st_mtime_ns
    assert cli.main([*argv, "--num=3"]) == 0
    assert (tmp_path / "000000.png").stat().st_mtime_ns == before
    assert (tmp_path / "000002.png").exists()
    assert cli.main([*argv, "--num=3", "--guidance-scale=5"]) == 2
    assert "made with other settings (sampling)" in capsys.readouterr().err
    settings = json.loads((tmp_path / "settings.json").read_text())
    settings["weights_and_inputs"] = "of a model that was replaced"
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    assert cli.main([*argv, "--num=3"]) == 2
    assert "other settings (weights_and_inputs)" in capsys.readouterr().err
    (tmp_path / "settings.json").unlink()
    assert cli.main([*argv, "--num=4"]) == 2
    assert "got 000000.png without a settings.json" in capsys.readouterr().err


def test_no_more_images_are_sampled_at_once_than_are_requested(
    finished, tmp_path, monkeypatch
):
    """A batch is filled up, so 64 at once would make 64 images for one."""
    sizes = []
    real = Drawing.draw

    def draw(self, rows, batch_size, *more):
        sizes.append(batch_size)
        return real(self, rows, batch_size, *more)

    monkeypatch.setattr(Drawing, "draw", draw)
    argv = ["sample", f"--model={finished / 'diffusion'}", "--num-steps=2", "--label=3"]
    for num, size in ((5, 5), (9, 8)):
        out = f"--out={tmp_path / str(num)}"
        assert cli.main([*argv, out, f"--num={num}", "--batch-size=8"]) == 0
        assert sizes.pop() == size


def test_a_condition_the_model_does_not_take_is_refused(finished, tmp_path, capsys):
    argv = ["sample", f"--model={finished / 'diffusion'}", f"--out={tmp_path}"]
    assert cli.main([*argv, "--prompt=a dog"]) == 2
    assert 'with the "class" condition takes --label' in capsys.readouterr().err
    assert cli.main([*argv, "--label=11"]) == 2
    error = capsys.readouterr().err
    assert (
        "a class is in 0..9, or one of the names 0, 1, 2" in error and "'11'" in error
    )
    assert not list(tmp_path.iterdir())


def test_latents_of_another_first_stage_are_refused(finished, tmp_path):
    """The fingerprint in the latents is that of the first stage stored with them."""
    from ldm_jax.data.latents.source import open_latents
    from ldm_jax.training.checkpoints.digest import params_fingerprint
    from ldm_jax.training.checkpoints.params import load_params

    _, stats = open_latents(finished / "latents")
    params = load_params(str(finished / "first_stage"))
    stats.check(params_fingerprint(params))
    params["autoencoder"]["encoder"]["conv_in"]["bias"][0] += 1e-3
    with pytest.raises(ValueError, match="were written by autoencoder"):
        stats.check(params_fingerprint(params))


def test_every_part_of_the_chain_is_described(finished, capsys):
    """Identity: latents and first stage are described with one fingerprint."""
    assert cli.main(["info", str(finished)]) == 0
    pages = capsys.readouterr().out.split(str(finished))
    (stage,) = (page for page in pages if page.startswith("/first_stage\n  kind"))
    (latents,) = (page for page in pages if page.startswith("/latents\n  kind"))
    mark = re.search(r"fingerprint +(\w{16})", stage)[1]
    assert mark in latents
    assert "latents 8x8x2" in stage and "8x8x2, f = 2" in latents
    assert any("condition    class" in page for page in pages)


def test_what_has_no_description_is_refused(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("")
    for path in (tmp_path, tmp_path / "notes.txt", tmp_path / "none"):
        assert cli.main(["info", str(path)]) == 2
        assert str(path) in capsys.readouterr().err


@pytest.fixture(scope="module")
def statistics(finished, tmp_path_factory):
    """Statistics of ten digits, and the flags of a small feature network."""
    root = tmp_path_factory.mktemp("statistics")
    weights = write_feature_network(root / "mobilenet.safetensors")
    network = [
        "--feature-network=mobilenet",
        f"--feature-weights={weights}",
        "--batch-size=16",
    ]
    reference = root / "reference.npz"
    argv = ["stats", f"--like={finished / 'diffusion'}", "--split=test[:10]"]
    assert cli.main([*argv, *network, f"--out={reference}"]) == 0
    return reference, network


def test_a_trained_model_is_evaluated_next_to_the_papers_row(
    finished, statistics, tmp_path, capsys
):
    """Figures are stored with their settings; a folder and an .npz give the same."""
    reference, network = statistics
    flags = [f"--reference={reference}", "--metrics=fid,is,precision"]
    flags += [*network, "--paper-row=imagenet-1.5", "--num=10"]
    model = ["--num-steps=2", f"--model={finished / 'diffusion'}"]
    out = tmp_path / "results"
    assert (
        cli.main(["evaluate", *model, *flags, "--standard-error", f"--out={out}"]) == 0
    )
    page = (out / "results.md").read_text()
    assert page in capsys.readouterr().out
    for line in (
        r"\| FD\(mobilenet\) \| lower is better \| [\d.]+ \| [\d.]+ \| 3.6 \|",
        r"\| precision\(mobilenet\) \| higher is better \| [\d.]+ \|  \| 0.87 \|",
        r"\* bytes: truncation to bytes, as the original",
        r"\* classes: balanced",
        r"\* sampling: .*'num_steps': 2",
        r"\* protocol: paper-class\n",
        r"\* paper: imagenet-1.5, Tab. 3 250 DDIM, scale 1.5",
        r"\* WARNING: paper-class takes 50000 images: these figures are of 10,",
    ):
        assert re.search(line, page), line
    results = json.loads((out / "results.json").read_text())
    assert results["reference_metadata"]["split"] == "test[:10]"
    settings = json.loads((out / "images" / "settings.json").read_text())
    assert settings["condition"] == {"class_label": str(list(range(10)))}
    rows = [np.asarray(Image.open(out / "images" / f"{i:06d}.png")) for i in range(10)]
    np.savez(tmp_path / "samples.npz", arr_0=np.stack(rows))
    expected = {name: figure["value"] for name, figure in results["figures"].items()}
    for images in (out / "images", tmp_path / "samples.npz"):
        argv = ["evaluate", f"--images={images}", f"--out={tmp_path / 'again'}"]
        assert cli.main([*argv, *flags]) == 0
        again = json.loads((tmp_path / "again" / "results.json").read_text())["figures"]
        # A spread sums moments up in another order.
        values = {name: figure["value"] for name, figure in again.items()}
        assert values == pytest.approx(expected, rel=1e-6)


def test_what_cannot_be_evaluated_is_refused_before_anything_is_sampled(
    finished, statistics, tmp_path, capsys
):
    reference, network = statistics
    made = load_reference(reference)
    metadata = {**made.metadata, "image_size": [32, 32]}
    other = dataclasses.replace(made, metadata=metadata, features=None)
    save_reference(tmp_path / "other.npz", other)
    model = ["evaluate", f"--model={finished / 'diffusion'}", *network]
    for flags, message in (
        ([], "fid compare with a reference: got none"),
        (["--reference=other.npz"], "same image_size: got [16, 16], but"),
        (["--reference=other.npz", "--metrics=kid"], "features of single images"),
        (["--metrics=sfid"], "sfid needs spatial features"),
        (["--metrics=psnr"], "got nothing to compare with; give --pairs"),
        (
            ["--paper-row=imagenet-1.6"],
            'unknown row "imagenet-1.6" of the paper; one of',
        ),
    ):
        flags = [
            flag.replace("other.npz", f"{tmp_path / 'other.npz'}") for flag in flags
        ]
        assert cli.main([*model, *flags, f"--out={tmp_path / 'out'}"]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_denoiser_is_evaluated_by_its_use_of_its_condition(
    finished, tmp_path, capsys
):
    """Twelve steps teach nothing: the gaps are noise, but smaller than the error."""
    model = ["evaluate", f"--model={finished / 'diffusion'}"]
    latents = [f"--latents={finished / 'latents'}", "--batch-size=16"]
    out = [f"--out={tmp_path / 'out'}"]
    assert cli.main([*model, *latents, *out, "--num=24"]) == 0
    assert "| more with another's | higher is better |" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    figures = results["figures"]
    assert list(figures) == ["condition_error", "condition_gap", "null_gap"]
    assert results["num_images"] == 24
    assert 0 < figures["condition_error"]["value"] < 3
    assert 0 < figures["condition_gap"]["spread"] < figures["condition_error"]["value"]
    for flags, message in (
        (["--metrics=fid", *latents], "on latents takes no metrics"),
        (["--num-steps=4", *latents], "on latents takes no num_steps"),
        ([*latents, "--num=9999"], "9999 records must be in"),
        ([*latents, "--num=1"], "got --num 1; take 2 or more"),
        ([f"--latents={tmp_path}"], "ldm-jax latents"),
    ):
        assert cli.main([*model, *flags, *out]) == 2
        assert message in capsys.readouterr().err
    stage = ["evaluate", f"--model={finished / 'first_stage'}"]
    assert cli.main([*stage, *latents, *out]) == 2
    assert "a first stage takes no latents" in capsys.readouterr().err


def test_a_first_stage_is_evaluated_by_its_reconstructions(
    finished, statistics, tmp_path, capsys
):
    """The images are their own reference; PSNR is that of `ldm-jax reconstruct`."""
    model = [f"--model={finished / 'first_stage'}", "--split=test[:10]"]
    flags = ["--paper-row=kl-f8", "--metrics=fid,psnr,ssim", f"--out={tmp_path}"]
    assert cli.main(["evaluate", *model, *statistics[1], *flags]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["num_images"] == 10
    assert list(results["figures"]) == ["fid", "psnr", "ssim"]
    assert results["settings"]["protocol"] == "paper-reconstruction"
    assert cli.main(["reconstruct", *model, f"--out={tmp_path / 'pairs.png'}"]) == 0
    (psnr,) = re.findall(r"PSNR ([\d.]+) dB", capsys.readouterr().out)
    # Truncated to bytes, half a level too dark, here; real numbers there.
    assert results["figures"]["psnr"]["value"] == pytest.approx(float(psnr), abs=0.2)


def start(root):
    command = [sys.executable, "-m", "ldm_jax.cli", "quickstart", f"--config={CONFIG}"]
    return subprocess.Popen([*command, f"--workdir={root}", *TINY])


def kill_when(root, process, pattern):
    """Kills the process as soon as a file of this pattern exists."""
    while process.poll() is None and not list(root.glob(pattern)):
        time.sleep(0.02)
    assert process.poll() is None, f"ended before {pattern} existed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_killed_in_every_stage_it_ends_with_the_same_numbers(tmp_path):
    """Identity: four SIGKILLs change no bit of the losses or of the results."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait() == 0
    for pattern in (
        "first_stage/checkpoints/4",
        "latents/*.array_record*",
        "diffusion/checkpoints/8",
        "samples.png",
    ):
        kill_when(killed, start(killed), pattern)
    assert start(killed).wait() == 0
    for name in ("first_stage/metrics.jsonl", "diffusion/metrics.jsonl"):
        assert (killed / name).read_text() == (whole / name).read_text()
    for name in ("results.json", "samples.png"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


def test_checkpoints_and_numbers_of_steps_are_evaluated_in_one_call(
    finished, tmp_path, capsys
):
    """Identity: a point is what an evaluation of it alone would be."""
    model, reference = finished / "diffusion", tmp_path / "reference.npz"
    stats = ["stats", "--feature-network=random", f"--like={finished / 'first_stage'}"]
    assert cli.main([*stats, f"--out={reference}", "--keep=50"]) == 0
    argv = ["evaluate", f"--model={model}", "--feature-network=random", "--num=16"]
    argv += [f"--reference={reference}", "--metrics=fid,kid", "--batch-size=8"]
    out = tmp_path / "several"
    assert cli.main([*argv, "--step=8,12", "--num-steps=2,5", f"--out={out}"]) == 0
    several = {
        p.name: json.loads((p / "results.json").read_text()) for p in out.iterdir()
    }
    assert sorted(several) == [f"step{s}-sampled{n}" for s in (12, 8) for n in (2, 5)]
    alone = tmp_path / "alone"
    assert cli.main([*argv, "--num-steps=5", f"--out={alone}"]) == 0
    one = json.loads((alone / "results.json").read_text())
    assert one["figures"] == several["step12-sampled5"]["figures"]
    assert one["figures"] != several["step8-sampled5"]["figures"]
    assert one["figures"]["kid"]["label"] == "KD(random)"
    speeds = [result["throughput"]["images_per_second"] for result in several.values()]
    assert min(speeds) > 0
    assert several["step8-sampled2"]["settings"]["step"] == 8
    capsys.readouterr()
    assert cli.main([*argv, "--step=5", f"--out={tmp_path / 'x'}"]) == 2
    assert "got 5, there are 8, 12" in capsys.readouterr().err


def test_the_sampling_speed_of_a_trained_model_is_measured(finished, capsys):
    argv = ["bench", "sampler", f"--model={finished / 'diffusion'}"]
    assert cli.main([*argv, "--num-steps=2", "--batch-size=8", "--repeats=1"]) == 0
    out = capsys.readouterr().out
    assert "2 steps of ddim, guidance scale 3, no other guide, batches of 8 on" in out
    speed = re.search(r"with decoder +([\d.]+) s a batch, ([\d.]+) images/s", out)
    assert float(speed[2]) == pytest.approx(8 / float(speed[1]), rel=0.05)
