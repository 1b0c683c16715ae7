# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax export --to=all --check`: files, errors and differences."""

import jax
import numpy as np
import pytest

from ldm_jax import cli
from ldm_jax.commands import export
from ldm_jax.commands.exports.card import HubOptions
from ldm_jax.commands.exports.check import RUNNERS, check_export
from ldm_jax.commands.import_ import import_weights
from ldm_jax.interop.safetensors import read_safetensors, write_safetensors
from tests.interop import small


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model directory of a small class-conditional model that predicts v."""
    root = tmp_path_factory.mktemp("model")
    spec = {**small.CLASSES, "autoencoder": small.FIRST_STAGE}
    checkpoint = small.checkpoint(root / "source", spec)
    import_weights(checkpoint, str(root / "a"), image_size=8)
    config = root / "a" / "config.json"
    config.write_text(config.read_text().replace('"eps"', '"v"'))
    return str(root / "a")


def test_all_writes_every_applicable_format_and_lists_the_others(
    model, tmp_path, capsys
):
    out = tmp_path / "all"
    assert cli.main(["export", model, "--to=all", f"--out={out}"]) == 0
    output = capsys.readouterr().out.splitlines()
    lines = dict(line.split(": ", 1) for line in output if ": " in line)
    assert lines["compvis"].startswith('refused: CompVis models predict "eps" or "x0"')
    assert not (out / "compvis").exists()
    written = ["compact", "diffusers", "npz", "orbax", "safetensors", "stablehlo"]
    for form in (*written, "torch"):
        suffix = export.SUFFIXES.get(form)
        path = out / form / f"model{suffix}" if suffix else out / form
        assert lines[form] == str(path) and path.exists()


@pytest.mark.parametrize("form", ["compact", "npz", "orbax", "safetensors"])
def test_parameters_that_are_read_back_are_the_same(form, model, tmp_path):
    out = tmp_path / f"model{export.SUFFIXES.get(form, '')}"
    export.export_weights(model, str(out), form)
    report = export.check(model, form, out)
    if form == "compact":
        assert "half precision: relative difference parameters" in report
    else:
        assert report.endswith("relative difference parameters 0.0e+00")


@pytest.mark.torch
@pytest.mark.parametrize("form", ["diffusers", "torch"])
def test_pytorch_runs_the_denoiser_and_the_decoder(form, tmp_path):
    """Golden: a trained model, within 1e-5 of ours; other weights are refused."""
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    out = tmp_path / "model"
    export.export_weights("digits", str(out), form)
    loaded = export.Loaded.read("digits", "ema", "model", HubOptions())
    check = check_export(form, out, loaded.programs(), loaded.params)
    assert sorted(check.differences) == ["decoder", "denoiser", "encoder"]
    assert max(check.differences.values()) < 1e-5
    place = "unet/diffusion_pytorch_model" if form == "diffusers" else "model"
    file = out / f"{place}.safetensors"
    weights = {name: 1.01 * array for name, array in read_safetensors(file).items()}
    write_safetensors(file, weights)
    with pytest.raises(ValueError, match="must compute what ours does: checked with"):
        check_export(form, out, loaded.programs(), loaded.params)


def test_stablehlo_runs_from_its_files_alone(model, tmp_path):
    export.export_weights(model, str(tmp_path / "a"), "stablehlo")
    report = export.check(model, "stablehlo", tmp_path / "a")
    assert report.startswith("checked with JAX") and "encoder" in report


def test_a_program_that_is_not_installed_is_named(model, tmp_path, monkeypatch):
    def missing(path):
        raise ImportError("no module torch")

    monkeypatch.setitem(RUNNERS, "torch", missing)
    assert export.check(model, "torch", tmp_path) == "not checked: no module torch"


def test_a_decoder_without_parameters_is_not_run(tmp_path, monkeypatch):
    """ONNX exports of models of pixels do not have one."""
    small.pipeline(tmp_path / "source", small.PIXELS)
    import_weights(str(tmp_path / "source"), str(tmp_path / "a"))
    loaded = export.Loaded.read(str(tmp_path / "a"), "raw", "model", HubOptions())
    programs = loaded.programs()

    def run(name, inputs):
        params = {"unet": loaded.params["unet"]}
        (output,) = jax.jit(programs[name].function)(params, dict(inputs)).values()
        return np.asarray(output)

    monkeypatch.setitem(RUNNERS, "onnx", lambda path: ("itself", run))
    check = check_export("onnx", tmp_path, programs, loaded.params)
    assert check.differences == {"denoiser": 0.0}
