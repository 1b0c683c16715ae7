# SPDX-License-Identifier: Apache-2.0
"""Imported models: complete or not written, and used like trained ones."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import ldm_jax
from ldm_jax import cli
from ldm_jax.commands.export import export_weights
from ldm_jax.commands.import_ import import_weights
from ldm_jax.diffusion.samplers.base import seed_keys
from ldm_jax.experiment import stored_config
from ldm_jax.experiment.config import config_files
from ldm_jax.experiment.stored_config import first_stage_of
from ldm_jax.interop.compvis.read_config import image_size_of
from ldm_jax.interop.torch_files.writer import write_ckpt
from ldm_jax.interop.weight_files import read_weights
from ldm_jax.tasks.generate import make_generate
from ldm_jax.tasks.sampling import make_sampling
from tests.conditions.test_tokens import write_vocab
from tests.interop import published, small

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
RUNNER = pathlib.Path(__file__).with_name("exports") / "stablehlo_runner.py"


def assert_same(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """(directory, params) of a model of 8x8 pixels that came in a diffusers folder."""
    root = tmp_path_factory.mktemp("pixels")
    params = small.pipeline(root / "source", small.PIXELS)
    report = import_weights(str(root / "source"), str(root / "imported"))
    note = "The folder asks for 'DDIMScheduler': sampling.sampler is \"ddim\"."
    assert report == ("latent_diffusion", "raw", (note,))
    return str(root / "imported"), params


def test_a_pipeline_of_pixels_becomes_a_model_of_pixels(pixels):
    """Identity: parameters, schedule and bound of x0; there is no first stage."""
    directory, params = pixels
    model, loaded = ldm_jax.load(directory)
    assert model.autoencoder.bottleneck == "pixels"
    assert_same(loaded, {**params, "autoencoder": {}})
    config = stored_config.read_config(directory)
    assert config.latents.image_size == 8 and config.sampling.clip == 1.0
    assert dict(config.schedule) == small.PIXELS["schedule"]
    assert not (pathlib.Path(directory) / "autoencoder").exists()


def test_its_programs_run_without_this_package(pixels, tmp_path):
    """Identity: `ldm-jax export --to stablehlo`, then the documented runner."""
    directory, _ = pixels
    out = str(tmp_path / "programs")
    assert cli.main(["export", directory, "--to=stablehlo", f"--out={out}"]) == 0
    barred = "import sys; sys.modules.update(ldm_jax=None, flax=None, orbax=None)\n"
    use = (
        "\nkey = np.uint32([[0, 3], [0, 4]])\n"
        "np.save('image.npy', load('programs', 'sampler')(key=key)['image'])\n"
    )
    command = [sys.executable, "-c", barred + RUNNER.read_text() + use]
    subprocess.run(command, cwd=tmp_path, check=True)
    model, params = ldm_jax.load(directory)
    sampling = make_sampling(**stored_config.read_config(directory).sampling)
    generate = make_generate(model, (8, 8, 3), sampling)
    expected = generate(params, {}, seed_keys([3, 4]), {})
    np.testing.assert_allclose(np.load(tmp_path / "image.npy"), expected, atol=1e-4)


@pytest.mark.parametrize("form", ["compvis", "npz", "diffusers"])
def test_an_imported_model_is_exported_again(pixels, tmp_path, form):
    """Identity: through each of the formats that hold weights."""
    directory, params = pixels
    name = {"compvis": "a.ckpt", "npz": "a.npz", "diffusers": "a"}[form]
    paths = export_weights(directory, str(tmp_path / name), form)
    assert all(path.exists() for path in paths)
    if form == "npz":
        bias = np.load(tmp_path / name)["unet/conv_in/bias"]
        np.testing.assert_array_equal(bias, params["unet"]["conv_in"]["bias"])
        return
    import_weights(str(tmp_path / name), str(tmp_path / "again"))
    assert_same(ldm_jax.load(str(tmp_path / "again"))[1], {**params, "autoencoder": {}})


@pytest.mark.parametrize(
    ("sampler", "name", "pipeline"),
    [
        ("plms", "PNDMScheduler", "LDMPipeline"),
        ("heun", "HeunDiscreteScheduler", "LDMPipeline"),
        ("ddpm", "DDPMScheduler", "DDPMPipeline"),
    ],
)
def test_the_sampler_that_a_folder_asks_for_is_kept(
    sampler, name, pipeline, tmp_path, capsys
):
    """In what import and info say, and in the export; of Heun's steps DDIM's are."""
    is_pixels = pipeline == "DDPMPipeline"
    small.pipeline(
        tmp_path / "a",
        small.PIXELS if is_pixels else small.diffusion(dict(kind="none")),
    )
    scheduler = tmp_path / "a" / "scheduler" / "scheduler_config.json"
    config = json.loads(scheduler.read_text()) | {"_class_name": name}
    scheduler.write_text(json.dumps(config | {"skip_prk_steps": True}))
    directory = str(tmp_path / "b")
    assert cli.main(["import", str(tmp_path / "a"), f"--out={directory}"]) == 0
    said = f"The folder asks for '{name}': sampling.sampler is \"{sampler}\""
    assert said in capsys.readouterr().out
    assert cli.main(["info", directory]) == 0
    assert f"sampler {sampler}" in capsys.readouterr().out
    export_weights(directory, str(tmp_path / "c"), "diffusers")
    index = json.loads((tmp_path / "c" / "model_index.json").read_text())
    expected = name if sampler != "heun" else "DDIMScheduler"
    assert index["_class_name"] == pipeline
    assert index["scheduler"] == ["diffusers", expected]


def test_a_denoiser_alone_is_a_model_of_its_channels(tmp_path, capsys):
    """UNet2DConditionModel: its context is handed in ready-made."""
    params = small.pipeline(tmp_path / "source", small.CLASSES)
    import_weights(str(tmp_path / "source" / "unet"), str(tmp_path / "imported"))
    model, loaded = ldm_jax.load(str(tmp_path / "imported"))
    assert_same(loaded["unet"], params["unet"])
    cond = model.condition(loaded, context=np.ones((2, 5, 8), np.float32))
    z_t, t = np.zeros((2, 8, 8, 2), np.float32), np.array([3, 9], np.int32)
    assert jax.eval_shape(model.denoise, loaded, z_t, t, cond).shape == z_t.shape
    argv = ["sample", f"--model={tmp_path / 'imported'}", f"--out={tmp_path / 'out'}"]
    assert cli.main(argv) == 2
    assert "this model makes arrays of 2, latents" in capsys.readouterr().err


def test_a_denoiser_with_classes_takes_class_labels(tmp_path):
    """UNet2DModel with num_class_embeds."""
    unet = {**small.PIXELS["unet"], "num_classes": 5}
    small.pipeline(tmp_path / "source", small.PIXELS | {"unet": unet})
    import_weights(str(tmp_path / "source" / "unet"), str(tmp_path / "imported"))
    model, params = ldm_jax.load(str(tmp_path / "imported"))
    cond = model.condition(params, class_label=[0, 4])
    assert cond.class_label.tolist() == [0, 4]


@pytest.mark.parametrize("autoencoder", [small.FIRST_STAGE, small.VQ])
def test_a_first_stage_alone_becomes_a_first_stage(tmp_path, autoencoder):
    """Identity: AutoencoderKL and VQModel, and the checkpoint they were made of."""
    spec = dict(task="first_stage", autoencoder=autoencoder, latent_scale=1.0)
    ckpt = small.checkpoint(tmp_path / "compvis", spec)
    report = import_weights(ckpt, str(tmp_path / "a"), image_size=64)
    assert report == ("first_stage", "raw", ())
    export_weights(str(tmp_path / "a"), str(tmp_path / "source"), "diffusers")
    import_weights(str(tmp_path / "source"), str(tmp_path / "b"))
    params = ldm_jax.load(str(tmp_path / "a"))[1]
    assert_same(ldm_jax.load(str(tmp_path / "b"))[1], params)
    assert stored_config.read_config(str(tmp_path / "b")).transform.image_size == 64


BOXES = [[{"label": 3, "box": [0, 0, 0.5, 1]}], []]
IMAGE = np.zeros((2, 16, 32, 3), np.float32)
LAYOUT = dict(kind="layout", num_classes=600, max_objects=2, width=8, depth=1)


@pytest.mark.parametrize(
    ("spec", "keywords"),
    [
        (
            small.diffusion(dict(kind="inpaint", autoencoder=small.VQ), more=3),
            {"image": IMAGE, "mask": IMAGE[..., :1]},
        ),
        (
            small.diffusion(dict(kind="semantic", num_classes=5, f=2), more=3),
            {"segmentation": np.zeros((2, 16, 32), int)},
        ),
        (
            small.diffusion(dict(kind="superres"), more=3),
            {"low_res": IMAGE[:, ::2, ::2]},
        ),
        (small.diffusion(LAYOUT, small.CROSS), {"boxes": BOXES}),
    ],
    ids=["inpaint", "semantic", "superres", "layout"],
)
def test_imported_conditions_are_given_by_keyword(tmp_path, spec, keywords):
    import_weights(small.checkpoint(tmp_path, spec), str(tmp_path / "imported"))
    model, params = ldm_jax.load(str(tmp_path / "imported"))
    cond = jax.eval_shape(lambda p: model.condition(p, **keywords), params)
    z_t, t = np.zeros((2, 8, 16, 2), np.float32), np.array([0, 999], np.int32)
    eps_hat = jax.eval_shape(model.denoise, params, z_t, t, cond)
    assert eps_hat.shape == z_t.shape


def test_a_vocabulary_is_carried_along_and_out_again(tmp_path):
    """Identity: texts are read after the directory was moved, and in the export."""
    vocab = write_vocab(tmp_path / "vocab.txt", 30522)
    ckpt = small.checkpoint(tmp_path / "source", small.TEXT)
    report = import_weights(ckpt, str(tmp_path / "a"), vocab=vocab)
    assert report == ("latent_diffusion", "raw", ())
    pathlib.Path(vocab).unlink()
    (tmp_path / "a").rename(tmp_path / "moved")
    model, params = ldm_jax.load(str(tmp_path / "moved"))
    tokens = model.conditioner.from_user(["a cat"])["tokens"]
    assert tokens[0, :5].tolist() == [2, 5, 8, 3, 0]
    shape = jax.eval_shape(lambda p: model.condition(p, text="a cat"), params)
    assert shape.context.shape == (1, 77, 8)
    # Their YAML counts latents of images of 256.
    moved = stored_config.read_config(str(tmp_path / "moved"))
    assert moved.latents.image_size == 256
    export_weights(str(tmp_path / "moved"), str(tmp_path / "out"), "diffusers")
    import_weights(str(tmp_path / "out"), str(tmp_path / "b"))
    again, _ = ldm_jax.load(str(tmp_path / "b"))
    assert again.conditioner.from_user(["a cat"])["tokens"].tolist() == tokens.tolist()
    from transformers import BertTokenizer

    tokenizer = BertTokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
    ids = tokenizer(["a cat"], padding="max_length", max_length=77)["input_ids"]
    assert ids == tokens.tolist()


def test_a_text_model_without_its_vocabulary_takes_tokens(tmp_path, capsys):
    ckpt = small.checkpoint(tmp_path / "source", small.TEXT)
    assert cli.main(["import", ckpt, f"--out={tmp_path / 'a'}"]) == 0
    stdout = capsys.readouterr().out
    assert "diffusion model with the raw weights, there being no averages" in stdout
    assert "vocab.txt not given: the model takes tokens" in stdout
    model, params = ldm_jax.load(str(tmp_path / "a"))
    tokens = np.zeros((1, 77), int)
    shape = jax.eval_shape(lambda p: model.condition(p, tokens=tokens), params)
    assert shape.context.shape == (1, 77, 8)
    with pytest.raises(ValueError, match=r"no vocab\.txt of the tokenizer"):
        model.condition(params, text="a cat")


def test_a_text_encoder_alone_is_a_model_directory(tmp_path, capsys):
    """Identity: an LDMBertModel, which other commands refuse by what it is."""
    params = small.pipeline(tmp_path / "source", small.TEXT)
    assert "model.embed_tokens.weight" in read_weights(tmp_path / "source" / "bert")
    out = str(tmp_path / "b")
    assert cli.main(["import", str(tmp_path / "source" / "bert"), f"--out={out}"]) == 0
    assert "text encoder with the raw weights" in capsys.readouterr().out
    model, loaded = ldm_jax.load(out)
    assert_same(loaded["conditioner"], params["conditioner"])
    shape = jax.eval_shape(lambda p: model.condition(p, text=""), loaded).context.shape
    assert shape == (1, 77, 8)
    for command in ("sample", "reconstruct", "latents"):
        argv = [command, f"--model={out}", f"--out={tmp_path / 'out.png'}"]
        assert cli.main(argv) == 2
        assert "holds one of the task text_encoder" in capsys.readouterr().err


def test_the_condition_of_a_model_alone_is_refused(tmp_path):
    small.pipeline(tmp_path / "source", small.CLASSES)
    with pytest.raises(ValueError, match="import the folder of the whole pipeline"):
        import_weights(str(tmp_path / "source" / "conditioner"), str(tmp_path / "b"))


def test_a_diffusion_model_lends_its_first_stage(tmp_path, pixels, capsys):
    """Commands of first stages take it; those of diffusion models refuse one alone."""
    small.pipeline(tmp_path / "source", small.diffusion(dict(kind="none")))
    import_weights(str(tmp_path / "source"), str(tmp_path / "a"))
    stage = str(tmp_path / "a" / "autoencoder")
    for directory in (str(tmp_path / "a"), stage):
        assert first_stage_of(directory)[0] == stage
    with pytest.raises(ValueError, match="has no first stage"):
        first_stage_of(pixels[0])
    out = f"--out={tmp_path / 'out'}"
    assert cli.main(["sample", f"--model={stage}", out]) == 2
    assert "holds one of the task first_stage" in capsys.readouterr().err
    assert cli.main(["latents", f"--model={tmp_path / 'a'}", out]) == 2
    assert "has no training images: give --images" in capsys.readouterr().err


def test_files_that_no_tokenizer_reads_are_refused(tmp_path):
    spec = dict(task="first_stage", autoencoder=small.VQ, latent_scale=1.0)
    ckpt = small.checkpoint(tmp_path, spec)
    for files in (dict(vocab=__file__), dict(merges=__file__)):
        with pytest.raises(ValueError, match=r"\(none\) takes none; leave"):
            import_weights(ckpt, str(tmp_path / "a"), **files)
    assert not (tmp_path / "a").exists()


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """(tensors by name, YAML) of a class-conditional checkpoint."""
    folder = tmp_path_factory.mktemp("state")
    weights = read_weights(small.checkpoint(folder, small.CLASSES))
    return dict(weights), (folder / "model.yaml").read_text()


@pytest.mark.parametrize(
    "damage", ["cut off", "missing", "left over", "another schedule", "malicious"]
)
def test_what_cannot_be_imported_leaves_nothing(tmp_path, state, capsys, damage):
    """One message that names the problem, exit code 2, and no directory."""
    tensors, described = state
    path, out = tmp_path / "model.ckpt", tmp_path / "out"
    path.with_suffix(".yaml").write_text(described)
    bias = "first_stage_model.encoder.conv_in.bias"
    if damage == "missing":
        tensors = {n: x for n, x in tensors.items() if n != bias}
    elif damage == "another schedule":
        tensors = tensors | {"betas": tensors["betas"] * 2}
    elif damage == "left over":
        tensors = tensors | {"more.weight": np.zeros(2, np.float32)}
    write_ckpt(path, tensors)
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:-5000])
    elif damage == "malicious":
        path.write_bytes(b"\x80\x02cos\nsystem\n(S'touch x'\ntR.")
    assert cli.main(["import", str(path), f"--out={out}"]) == 2
    error = capsys.readouterr().err
    expected = {
        "cut off": "cut off",
        "missing": f"missing: {bias} (32,)",
        "left over": "left over: more.weight (2,)",
        "another schedule": "schedule is not the config's",
        "malicious": "model.ckpt",
    }
    assert expected[damage] in error and "Traceback" not in error
    assert {p.name for p in tmp_path.iterdir()} == {"model.ckpt", "model.yaml"}


def test_an_unknown_scale_must_be_given(tmp_path):
    """A constant scale is in no checkpoint; 1 instead of it would decode to noise."""
    config = str(CONFIGS / "small_class.py:kind=none")
    # CompVis knows no v, and norms of 32 groups only.
    known = {"prediction": "eps", "autoencoder.channels": 32}
    known["autoencoder.num_groups"] = 32
    flags = [f"--config.{field}={value}" for field, value in known.items()]
    spec = config_files.load_config(config, flags).to_dict() | {"latent_scale": 0.5}
    argv = ["import", small.checkpoint(tmp_path, spec), f"--config={config}", *flags]
    argv += [f"--out={tmp_path / 'imported'}"]
    with pytest.raises(ValueError, match="scale of the latents must be known"):
        import_weights(argv[1], str(tmp_path / "imported"), config, overrides=flags)
    assert not (tmp_path / "imported").exists()
    assert cli.main([*argv, "--config.latents.scale=0.5"]) == 0
    assert stored_config.read_config(str(tmp_path / "imported")).latents.scale == 0.5


def test_a_directory_that_is_taken_is_left_alone(tmp_path):
    """Else other weights with the same settings would seem imported."""
    spec = dict(task="first_stage", autoencoder=small.VQ, latent_scale=1.0)
    ckpt = small.checkpoint(tmp_path, spec)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("kept")
    with pytest.raises(ValueError, match=r"out exists; choose another --out"):
        import_weights(ckpt, str(tmp_path / "out"))
    (tmp_path / "out" / "notes.txt").unlink()
    import_weights(ckpt, str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("name", "more", "size"),
    [
        ("kl-f8", {}, 256),
        ("celeba256", {"image_size": 64}, 256),
        ("semantic_synthesis512", {"image_size": 128}, 512),
        ("celeba256", {}, None),
    ],
)
def test_the_size_trained_on_is_read_from_the_config(name, more, size):
    """Paper: latents of 64 at f = 4 are of images of 256."""
    assert image_size_of({"model": {"params": published.ALL[name] | more}}) == size
