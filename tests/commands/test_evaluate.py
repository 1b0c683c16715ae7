# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax stats` and `evaluate` from end to end, with a small feature network."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from ldm_jax import cli
from ldm_jax.data.images.finished_images import open_set
from ldm_jax.metrics.evaluation import Evaluation, make_sample_metrics
from tests.metrics.features import write_feature_network


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of 24 pictures of two classes, their noisy twins, and a network."""
    root = tmp_path_factory.mktemp("evaluated")
    rng = np.random.default_rng(0)
    for i in range(24):
        image = np.full((16, 16, 3), 10 * i, np.uint8)
        image[4:12, 4:12, i % 3] = 255
        noisy = np.clip(image + rng.normal(0, 20, image.shape), 0, 255)
        for name, pixels in (("real", image), ("fake", noisy.astype(np.uint8))):
            file = root / name / f"class{i % 2}" / f"{i:03d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    write_feature_network(root / "mobilenet.safetensors")
    return root


def run(place, command, *flags):
    file = place / "mobilenet.safetensors"
    network = ["--feature-network=mobilenet", f"--feature-weights={file}"]
    return cli.main([command, *network, "--batch-size=24", *map(str, flags)])


@pytest.fixture(scope="module")
def reference(place):
    out = place / "ref.npz"
    size = ["--size=16", "--split=all"]
    assert run(place, "stats", f"{place / 'real'}", *size, f"--out={out}") == 0
    return out


def test_finished_images_are_evaluated_against_statistics(place, reference, capsys):
    out = place / "out"
    # Every k-th file of the two sub-folders is another's twin: the order is the same.
    flags = ["--metrics=fid,kid,precision,recall,psnr,ssim", f"--out={out}"]
    flags += [f"--reference={reference}", f"--pairs={place / 'real'}"]
    assert run(place, "evaluate", f"--images={place / 'real'}", *flags) == 0
    same = json.loads((out / "results.json").read_text())
    assert run(place, "evaluate", f"--images={place / 'fake'}", *flags) == 0
    noisy = json.loads((out / "results.json").read_text())
    page = capsys.readouterr().out
    assert "| FD(mobilenet) | lower is better |" in page
    assert page.count("24 images cannot fill a covariance of 1280 features") == 4
    assert (out / "results.md").read_text() in page
    value = {name: same["figures"][name]["value"] for name in same["figures"]}
    # Features are float32 and of other batches; the distance is of their rounding.
    assert abs(value["fid"]) < 1e-4 * noisy["figures"]["fid"]["value"]
    assert value["precision"] == value["recall"] == 1
    assert value["psnr"] == 100 and value["ssim"] == pytest.approx(1, abs=1e-4)
    assert 18 < noisy["figures"]["psnr"]["value"] < 25  # noise of 20 of 255
    assert noisy["reference_metadata"]["transform"]["interpolation"] == "bicubic"
    assert noisy["reference_metadata"]["count"] == 24


def test_images_are_compared_with_two_references(place, reference, capsys):
    """Identity: the second one's figures are those that it has alone."""
    half = place / "half.npz"
    size = ["--size=16", "--split=class0", f"--out={half}"]
    assert run(place, "stats", f"{place / 'real'}", *size) == 0
    flags = [f"--images={place / 'fake'}", "--metrics=fid", f"--out={place / 'two'}"]

    def distances(*references):
        given = [f"--reference={path}" for path in references]
        assert run(place, "evaluate", *flags, *given) == 0
        results = json.loads((place / "two" / "results.json").read_text())
        return {name: f["value"] for name, f in results["figures"].items()}

    both, alone = distances(reference, half), distances(half)
    assert both["fid@2"] == alone["fid"] != both["fid"]
    assert "| FD(mobilenet), half.npz | lower is better |" in capsys.readouterr().out


def test_images_are_chosen_by_the_share_of_their_masks(place, capsys):
    """Oracle: masks of i rows of 16; half of the picture is 8 rows."""
    (place / "masks").mkdir()
    for i in range(24):
        mask = np.zeros((16, 16), np.uint8)
        mask[: 1 + i % 12] = 255
        Image.fromarray(mask).save(place / f"masks/{i:03d}.png")
    flags = [f"--images={place / 'fake'}", f"--pairs={place / 'real'}"]
    flags += ["--metrics=psnr", f"--out={place / 'chosen'}"]
    masks = f"--masks={place / 'masks'}"
    assert run(place, "evaluate", *flags, masks, "--mask-share=0.4,0.5") == 0
    results = json.loads((place / "chosen/results.json").read_text())
    assert results["num_images"] == 4  # 7 and 8 rows, twice each
    fake, real = (next(open_set(place / n).batches(24)) for n in ("fake", "real"))
    rows = [6, 7, 18, 19]
    errors = np.square((fake[rows] - real[rows].astype(float)) / 255).mean((1, 2, 3))
    expected = np.mean(-10 * np.log10(errors))
    assert results["figures"]["psnr"]["value"] == pytest.approx(expected, rel=1e-4)
    assert run(place, "evaluate", *flags, masks) == 2
    assert run(place, "evaluate", *flags, masks, "--mask-share=0.8,0.9") == 2
    assert run(place, "evaluate", *flags, masks, "--num=3", "--mask-share=0,1") == 2
    errors = capsys.readouterr().err
    assert "--mask-share None; give both" in errors
    assert "must cover 0.8 to 0.9 of an image: none of the 24" in errors
    assert "got 24 masks in" in errors and "for 3 images" in errors


def test_an_npz_holds_the_same_images_as_a_folder(place):
    folder = open_set(place / "real")
    whole = np.concatenate(list(folder.batches(5)))
    np.savez(place / "real.npz", whole)
    np.savez_compressed(place / "packed.npz", arr_0=whole, mu=np.zeros(4))
    for name in ("real.npz", "packed.npz"):
        images = open_set(place / name, num=10)
        assert (images.count, images.size) == (10, (16, 16))
        rows = list(images.batches(4))
        assert [len(x) for x in rows] == [4, 4, 2]
        np.testing.assert_array_equal(np.concatenate(rows), whole[:10])


def test_a_file_of_somebody_else_is_not_replaced_by_statistics(
    place, reference, tmp_path, capsys
):
    flags = [place / "real", "--size=16", "--split=all"]
    assert run(place, "stats", *flags, f"--out={reference}") == 0  # its own result
    np.savez(tmp_path / "a.npz", mu=np.zeros(4))
    content = (tmp_path / "a.npz").read_bytes()
    assert run(place, "stats", *flags, f"--out={tmp_path / 'a.npz'}") == 2
    assert "a.npz is another file; choose another --out" in capsys.readouterr().err
    assert (tmp_path / "a.npz").read_bytes() == content
    assert run(place, "stats", *flags, f"--out={tmp_path / 'a.png'}") == 2
    assert "--out must end in .npz: got" in capsys.readouterr().err


def test_images_that_cannot_be_evaluated_are_refused(
    place, reference, tmp_path, capsys
):
    with pytest.raises(ValueError, match="has 24; make more"):
        open_set(place / "real", num=25)
    np.savez(tmp_path / "float.npz", np.zeros((2, 8, 8, 3), np.float32))
    with pytest.raises(ValueError, match=r"bytes .* got float32 .* truncate"):
        open_set(tmp_path / "float.npz")
    np.savez(tmp_path / "two.npz", a=np.zeros((1, 2, 2, 3)), b=np.zeros((1, 2, 2, 3)))
    with pytest.raises(ValueError, match="holds one array"):
        open_set(tmp_path / "two.npz")
    with pytest.raises(ValueError, match=r"a folder or an \.npz file"):
        open_set(tmp_path / "nothing")
    for i, size in enumerate((8, 9)):
        Image.new("RGB", (size, 8)).save(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match=r"must have one size: .*8x8, .* is 8x9"):
        list(open_set(tmp_path).batches(4))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="must hold some"):
        open_set(tmp_path / "empty")
    np.savez(tmp_path / "large.npz", np.zeros((24, 32, 32, 3), np.uint8))
    flags = [f"--reference={reference}", f"--out={tmp_path / 'out'}"]
    images = f"--images={tmp_path / 'large.npz'}"
    assert run(place, "evaluate", images, *flags) == 2
    assert "same image_size: got [32, 32], but" in capsys.readouterr().err
    assert run(place, "evaluate", images, *flags, "--metrics=psnr") == 2
    assert "got nothing to compare with; give --pairs" in capsys.readouterr().err
    pairs = [f"--images={place / 'real'}", f"--pairs={tmp_path / 'large.npz'}"]
    assert run(place, "evaluate", *pairs, *flags, "--metrics=psnr") == 2
    assert "must have one size: got 16x16, but" in capsys.readouterr().err
    assert run(place, "evaluate", images, *flags, "--metrics=fidd") == 2
    assert "unknown metrics fidd" in capsys.readouterr().err
    assert cli.main(["evaluate", images, *flags, "--feature-weights=gone"]) == 2
    assert "make one with `ldm-jax weights inception`" in capsys.readouterr().err
    assert cli.main(["evaluate", *flags]) == 2
    assert "--model or --images" in capsys.readouterr().err
    assert run(place, "stats", place / "real", f"--out={tmp_path / 'x.npz'}") == 2
    assert "need a size of image" in capsys.readouterr().err


def test_a_run_evaluates_its_samples(place, reference):
    """The section `evaluation`: its figures by name, and what does not fit at once."""
    fields = dict(
        feature_network="mobilenet",
        feature_weights=str(place / "mobilenet.safetensors"),
    )
    evaluation = Evaluation(reference=str(reference), num=24, **fields)
    compute = make_sample_metrics(evaluation, (16, 16))
    figures = compute(open_set(place / "fake").batches(24))
    assert compute.figures == tuple(figures)
    assert list(figures) == ["FD(mobilenet)"] and figures["FD(mobilenet)"] > 0
    assert make_sample_metrics(Evaluation(), (16, 16)) is None
    with pytest.raises(ValueError, match="same image_size"):
        make_sample_metrics(evaluation, (32, 32))
    with pytest.raises(ValueError, match="sfid needs spatial features"):
        make_sample_metrics(
            dataclasses.replace(evaluation, metrics=("sfid",)), (16, 16)
        )
    with pytest.raises(ValueError, match="must be at least 10 samples: got 9"):
        Evaluation(num=9)
    with pytest.raises(ValueError, match="metrics has psnr"):
        Evaluation(metrics=("psnr",))
