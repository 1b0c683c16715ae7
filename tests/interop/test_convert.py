# SPDX-License-Identifier: Apache-2.0
"""One function imports models of every format, one exports them."""

import subprocess
import sys

import jax
import numpy as np
import pytest
import yaml

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.files.formats.structured import read_yaml
from ldm_jax.interop.cannot_express import CannotExpress
from ldm_jax.interop.compvis.state_dict import import_compvis
from ldm_jax.interop.convert import export_model, import_model
from ldm_jax.interop.safetensors import write_safetensors
from ldm_jax.interop.torch_files.writer import write_ckpt
from ldm_jax.interop.weight_files import read_weights
from tests.interop import small
from tests.interop.states import load_golden

FIRST_STAGE, DENOISER = "tiny-kl-f8", "tiny-lsun_churches256"


def assert_same_params(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_an_exported_checkpoint_is_imported_with_its_yaml(tmp_path, suffix):
    """Identity: weights, averages, scale and spec."""
    state, spec, _ = load_golden(DENOISER)
    raw, ema = import_compvis(state, spec, "raw"), import_compvis(state, spec)
    out = tmp_path / f"model{suffix}"
    averages = {"unet": ema.params["unet"]}
    paths = export_model(
        out, "compvis", raw.spec, raw.params, ema=averages, extras=raw.extras
    )
    assert paths == [out, tmp_path / "model.yaml"]
    assert set(read_weights(out)) == set(state)
    for which, expected in (("ema", ema), ("raw", raw)):
        again = import_model(out, which=which)
        assert again.spec == raw.spec and again.used == which
        assert_same_params(again.params, expected.params)


def test_the_yaml_describes_the_checkpoint(tmp_path):
    """`use_ema`, `scale_by_std` decide which names the original expects."""
    state, spec, _ = load_golden(DENOISER)
    raw = import_compvis(state, spec, "raw")
    for name, options, expected in (
        ("bare", {}, (False, None, raw.spec["latent_scale"])),
        ("full", {"ema": raw.params, "extras": raw.extras}, (True, True, 1.0)),
    ):
        export_model(
            tmp_path / f"{name}.ckpt", "compvis", raw.spec, raw.params, **options
        )
        params = yaml.safe_load((tmp_path / f"{name}.yaml").read_text())
        params = params["model"]["params"]
        actual = tuple(
            params.get(k) for k in ("use_ema", "scale_by_std", "scale_factor")
        )
        assert actual == expected


def test_jax_arrays_are_exported_too(tmp_path):
    state, spec, _ = load_golden(FIRST_STAGE)
    imported = import_compvis(state, spec)
    params = jax.tree.map(jax.numpy.asarray, imported.params)
    export_model(tmp_path / "a.safetensors", "compvis", imported.spec, params)
    for name, array in read_weights(tmp_path / "a.safetensors").items():
        np.testing.assert_array_equal(array, state[name])


def test_a_config_may_be_a_file_a_dict_or_our_own_sections(tmp_path):
    state, spec, _ = load_golden(FIRST_STAGE)
    write_ckpt(tmp_path / "model.ckpt", state)
    imported = import_compvis(state, spec)
    export_model(tmp_path / "x.safetensors", "compvis", imported.spec, imported.params)
    config = read_yaml(tmp_path / "x.yaml")
    listed = {
        **spec,
        "autoencoder": dict(spec["autoencoder"], channel_mult=[1, 2, 4, 4]),
    }
    for given in (tmp_path / "x.yaml", config, spec, listed):
        again = import_model(tmp_path / "model.ckpt", given)
        assert_same_params(again.params, imported.params)


def test_a_checkpoint_without_a_config_names_what_is_missing(tmp_path):
    state, _, _ = load_golden(FIRST_STAGE)
    write_safetensors(tmp_path / "model.safetensors", state)
    with pytest.raises(FileNotFoundError, match=r"no model\.yaml or config\.yaml"):
        import_model(tmp_path / "model.safetensors")


def test_a_folder_takes_no_config(tmp_path):
    with pytest.raises(ValueError, match="describes itself"):
        import_model(tmp_path, config={})


@pytest.mark.parametrize(
    "text", ["- 1\n", "a: [", "!!python/object/apply:os.getcwd []"]
)
def test_yaml_that_is_no_object_is_refused_and_runs_nothing(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"x\.yaml"):
        read_yaml(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("out", "form", "message"),
    [
        ("a.bin", "compvis", r"writes \.safetensors or \.ckpt"),
        ("a", "onnx", 'unknown form "onnx"; one of: compvis, diffusers'),
    ],
)
def test_a_form_and_a_name_that_do_not_go_together_are_refused(
    tmp_path, out, form, message
):
    with pytest.raises(ValueError, match=message):
        export_model(tmp_path / out, form, {}, {})
    with pytest.raises(ValueError, match="leave ema out"):
        export_model(tmp_path / "a", "diffusers", {}, {}, ema={})


def test_a_refused_export_writes_nothing(tmp_path):
    state, spec, _ = load_golden(DENOISER)
    imported = import_compvis(state, spec)
    for out, form, change in (
        ("folder", "diffusers", {}),  # eight heads of several widths
        ("a.ckpt", "compvis", {"prediction": "v"}),
    ):
        with pytest.raises(ValueError, match=r"cannot express|predict"):
            export_model(tmp_path / out, form, imported.spec | change, imported.params)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("form", "section", "fields", "formats"),
    [
        ("compvis", "prediction", "v", "diffusers, npz"),
        ("compvis", "autoencoder", {"num_groups": 16}, "diffusers, npz"),
        ("diffusers", "autoencoder", {"tanh_out": True}, "compvis, npz"),
        ("compvis", "schedule", {"zero_terminal_snr": True}, "diffusers, npz"),
    ],
)
def test_a_refused_export_names_the_formats_that_can(form, section, fields, formats):
    spec = small.diffusion(dict(kind="none"))
    old = spec[section]
    spec[section] = {**old, **fields} if isinstance(fields, dict) else fields
    out = "a.ckpt" if form == "compvis" else "a"
    with pytest.raises(CannotExpress, match=f"Formats that can: {formats}"):
        export_model(out, form, spec, {})


def test_a_cut_off_checkpoint_is_an_error_whole(tmp_path):
    state, spec, _ = load_golden(FIRST_STAGE)
    path = tmp_path / "model.ckpt"
    write_ckpt(path, state)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UnreadableFile, match="cut off"):
        import_model(path, spec)


def test_reading_takes_the_copies_and_one_tensor(tmp_path):
    """Memory beyond what is kept stays near one tensor, not the file."""
    big = {f"{i}": np.ones((2**22,), np.float32) for i in range(12)}  # 12 x 16 MiB
    write_ckpt(tmp_path / "a.ckpt", big)
    program = (
        "import resource, numpy as np\n"
        "from ldm_jax.interop.weight_files import read_weights\n"
        f"weights = read_weights({str(tmp_path / 'a.ckpt')!r})\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "before = peak()\n"
        "for name in weights: np.array(weights[name], np.float32, order='C')\n"
        "print(peak() - before)"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    # A tensor mapped, a copy of it, and the copy before: 48 of 192 MiB.
    assert int(out.stdout) < 64
