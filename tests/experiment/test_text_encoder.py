# SPDX-License-Identifier: Apache-2.0
"""A text encoder alone: imported, run on texts, used by a run that never trains it."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import ldm_jax
from ldm_jax import cli
from ldm_jax.commands.export import export_weights
from ldm_jax.commands.import_ import import_weights
from ldm_jax.commands.train import train_config
from ldm_jax.conditions.registry import make_condition
from ldm_jax.experiment import stored_config
from ldm_jax.experiment.config import config_files
from ldm_jax.experiment.prepare import prepare
from ldm_jax.files.errors import UnreadableFile
from ldm_jax.interop.convert import import_model
from ldm_jax.interop.networks import token_transformer
from ldm_jax.interop.weight_files import read_weights
from tests.interop import small

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "small_text.py"
CLIP = dict(kind="text", encoder="clip", tokenizer="clip", vocab_size=49408, length=77)
CLIP |= dict(width=8, depth=1, num_heads=2, mlp_width=16, activation="quick_gelu")
STABLE = small.diffusion(CLIP, small.CROSS)
CAPTIONS = ["a cat", "a dog", "cat", "dog", "a", "at", "tac", "god"]


def write_vocabulary(folder):
    """Writes vocab.json and merges.txt of CLIP's size, which know bytes only."""
    folder.mkdir(exist_ok=True)
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [256 + i for i in range(256 - len(plain))]
    letters = [chr(i) for i in plain + rest]
    rows = letters + [letter + "</w>" for letter in letters]
    rows += [f"word{i}" for i in range(49406 - len(rows))]
    rows += ["<|startoftext|>", "<|endoftext|>"]
    ids = {row: i for i, row in enumerate(rows)}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\n")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """(model directory of a random CLIP text tower, its parameters).

    The folder stable/ contains the diffusion model that it belongs to.
    """
    root = tmp_path_factory.mktemp("clip")
    params = small.pipeline(root / "source", STABLE)
    write_vocabulary(root / "source" / "tokenizer")
    import_weights(str(root / "source"), str(root / "stable"), image_size=16)
    folder = root / "source" / "text_encoder"  # a CLIPTextModel of transformers
    write_vocabulary(folder)
    assert cli.main(["import", str(folder), f"--out={root / 'imported'}"]) == 0
    return str(root / "imported"), params["conditioner"]


def test_a_text_encoder_encodes_texts_for_a_denoiser(clip):
    """Identity: ClipText on the ids of CLIP's tokenizer, in which "a" is 320."""
    directory, params = clip
    model, loaded = ldm_jax.load(directory)
    jax.tree.map(np.testing.assert_array_equal, loaded["conditioner"], params)
    cond = model.condition(loaded, text=["a cat", "dog"])
    tokens = model.conditioner.from_user(["a cat"])["tokens"]
    assert tokens[0, :6].tolist() == [49406, 320, 66, 64, 339, 49407]
    expected = token_transformer(CLIP).apply({"params": params}, tokens)
    np.testing.assert_allclose(cond.context[:1], expected, atol=1e-6)
    null = model.null(loaded, text=["a cat", "dog"])
    assert null.context.shape == (2, 77, 8)
    assert (null.context[0] != cond.context[0]).any()


def test_an_exported_text_encoder_equals_the_imported_one(clip, tmp_path):
    """Identity: parameters, vocabulary and every field."""
    directory, params = clip
    export_weights(directory, str(tmp_path / "source"), "diffusers")
    import_weights(str(tmp_path / "source"), str(tmp_path / "again"))
    _, loaded = ldm_jax.load(str(tmp_path / "again"))
    jax.tree.map(np.testing.assert_array_equal, loaded["conditioner"], params)
    read = [
        stored_config.read_config(d).condition for d in (directory, tmp_path / "again")
    ]
    for condition in read:
        assert condition.vocab and condition.merges
        condition.update(vocab="", merges="")
    assert read[0].to_dict() == read[1].to_dict()
    for form, out in {"compvis": "a.ckpt", "stablehlo": "programs"}.items():
        with pytest.raises(ValueError, match="text encoder alone"):
            export_weights(directory, str(tmp_path / out), form)


def test_the_text_tower_of_a_whole_clip_is_taken(clip, tmp_path):
    """Identity: CLIPModel, whose other half and config of it are left out."""
    from ldm_jax.interop.safetensors import write_safetensors

    text_encoder = pathlib.Path(clip[0]).parent / "source" / "text_encoder"
    tensors = dict(read_weights(text_encoder))
    tensors = {
        f"text_model.{n.removeprefix('text_model.')}": tensors[n] for n in tensors
    }
    more = {"vision_model.x": np.zeros(3), "logit_scale": np.zeros(())}
    write_safetensors(tmp_path / "model.safetensors", tensors | more)
    text = json.loads((text_encoder / "config.json").read_text())
    config = {"architectures": ["CLIPModel"], "text_config": text, "vision_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    imported = import_model(tmp_path)
    assert imported.spec["task"] == "text_encoder"
    jax.tree.map(np.testing.assert_array_equal, imported.params["conditioner"], clip[1])


def experiment_of(root, directory, stable, **condition):
    """Pictures with captions: fine-tunes an imported model with a frozen encoder.

    The config leaves defaults out that the import spells out.
    """
    config = config_files.load_config(f"{CONFIG}:frozen=8")
    with config.unlocked():
        config.autoencoder = small.VQ
        config.images.update(dataset=str(root / "photos"))
        config.latents.update(image_size=16, scale=0.5, first_stage=stable)
        config.text_encoder.directory = directory
        config.condition.update(condition)
        config.unet = STABLE["unet"]
        config.batch_size = 8
        config.train.update(num_steps=1, evaluate_every=None, init_from=stable)
        config.sampling.num_steps = 2
    return config


@pytest.fixture(scope="module")
def run(clip, tmp_path_factory):
    """(root, imported diffusion model, the directory of a run that began with it)."""
    root = tmp_path_factory.mktemp("run")
    (root / "photos").mkdir()
    rng = np.random.default_rng(0)
    for i, caption in enumerate(CAPTIONS):
        picture = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(picture).save(root / "photos" / f"{i}.png")
        rows = root / "photos" / "captions.csv"
        text = rows.read_text() if rows.exists() else "file,caption\n"
        rows.write_text(f"{text}{i}.png,{caption}\n")
    stable = str(pathlib.Path(clip[0]).parent / "stable")
    train_config(experiment_of(root, stable, stable), str(root / "model"))
    return root, stable, root / "model"


def test_a_run_reads_it_and_never_trains_it(run, clip):
    _, _, directory = run
    model, params = ldm_jax.load(str(directory))
    jax.tree.map(np.testing.assert_array_equal, params["conditioner"], clip[1])
    names = {p.name for p in directory.iterdir()}
    assert {"text_encoder", "tokenizer"} <= names
    noted = json.loads((directory / "config.json").read_text())
    assert noted["condition"]["vocab"] == "tokenizer/vocab.json"
    assert noted["condition"]["is_frozen"] and len(noted["text_encoder"]["fingerprint"])
    from ldm_jax.training.checkpoints.params import load_params

    assert set(load_params(str(directory))) == {"unet"}
    assert model.condition(params, text="a cat").context.shape == (1, 77, 8)
    report = json.loads((directory / "initial.json").read_text())
    assert report["share"] == 1 and not report["made_new"] and not report["widened"]


def test_an_encoder_with_other_settings_than_the_model_is_refused(run, tmp_path):
    """The number of its heads shows in no shape of its parameters."""
    shutil.copytree(run[2], tmp_path / "model")
    path = tmp_path / "model" / "text_encoder" / "config.json"
    settings = json.loads(path.read_text())
    assert settings["condition"]["num_heads"] != 1
    settings["condition"]["num_heads"] = 1
    path.write_text(json.dumps(settings))
    with pytest.raises(UnreadableFile, match=r"condition\.num_heads is .*, there 1"):
        ldm_jax.load(str(tmp_path / "model"))


def test_its_directory_may_move_and_it_is_sampled_from_guided(run, tmp_path):
    _, _, directory = run
    shutil.copytree(directory, tmp_path / "moved")
    argv = ["sample", f"--model={tmp_path / 'moved'}", f"--out={tmp_path / 'out'}"]
    assert cli.main([*argv, "--prompt=a cat", "--num=2", "--guidance-scale=2"]) == 0
    assert Image.open(tmp_path / "out" / "000001.png").size == (16, 16)
    out = str(tmp_path / "source")
    export_weights(str(tmp_path / "moved"), out, "diffusers")
    again = import_model(tmp_path / "source")
    jax.tree.map(
        np.testing.assert_array_equal,
        again.params["conditioner"],
        ldm_jax.load(str(directory))[1]["conditioner"],
    )
    assert (tmp_path / "source" / "tokenizer" / "merges.txt").exists()


def test_a_run_resumes_with_the_same_encoder_after_it_was_moved(run, clip, tmp_path):
    root, stable, directory = run
    shutil.copytree(clip[0], tmp_path / "elsewhere")
    shutil.copytree(directory, tmp_path / "model")
    config = experiment_of(root, str(tmp_path / "elsewhere"), stable)
    config.train.num_steps = 2
    assert int(train_config(config, str(tmp_path / "model")).step) == 2
    # Another encoder with the same settings.
    other = jax.tree.map(lambda x: x + 1, clip[1])
    shutil.rmtree(tmp_path / "elsewhere" / "checkpoints")
    from ldm_jax.training.checkpoints.params import save_params

    settings = json.loads((tmp_path / "elsewhere" / "config.json").read_text())
    save_params(str(tmp_path / "elsewhere"), {"conditioner": other}, settings)
    with pytest.raises(ValueError, match="keeps the text encoder that it began with"):
        train_config(config, str(tmp_path / "model"))


@pytest.mark.parametrize(
    ("condition", "directory", "message"),
    [
        (dict(width=16), "{clip}", r"got width=16 in the text condition, width=8 in"),
        (dict(kind="none"), "{clip}", "is for a text condition"),
        ({}, "{stable}/autoencoder", "that one has none"),
        (dict(encoder="clip", tokenizer="clip"), "", "reads the conditioner, which"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    run, clip, tmp_path, condition, directory, message
):
    root, stable, _ = run
    directory = directory.format(clip=clip[0], stable=stable)
    config = experiment_of(root, directory, stable, **condition)
    if condition.get("kind") == "none":
        config.objective.drop_probability = 0.0
        config.condition = dict(kind="none")
    with pytest.raises(ValueError, match=message):
        train_config(config, str(tmp_path / "model"))


def test_a_tokenizer_that_knows_more_ids_than_the_encoder_is_refused(tmp_path):
    write_vocabulary(tmp_path)
    files = {"vocab": "vocab.json", "merges": "merges.txt"}
    files = {name: str(tmp_path / file) for name, file in files.items()}
    with pytest.raises(ValueError, match=r"ids in \[0, 49408\)"):
        make_condition(**CLIP | files | dict(vocab_size=50))
    # A model that takes tokens only needs none of them.
    make_condition(**CLIP | dict(vocab_size=50))


def test_a_part_of_a_hybrid_may_be_frozen(run, clip):
    """Identity: the tokens of a learned class are joined to those of the text."""
    root, stable, _ = run
    config = experiment_of(root, clip[0], stable)
    text = config.condition.to_dict()
    parts = dict(label=dict(kind="class", num_classes=3, width=8), words=text)
    with config.unlocked():
        config.condition = dict(kind="hybrid", parts=parts)
    run = prepare(config, abstract=True)
    frozen = run.task.frozen
    assert set(frozen["conditioner"]) == {"words"}
    made = run.model.conditioner
    y = dict(label=jnp.array([1]), tokens=jnp.full((1, 77), 320))
    learned = made.init(jax.random.key(0), y)
    assert set(learned) == {"label"}
    read = {"conditioner": {"words": clip[1]}}
    context = made.encode(learned, y, read).context
    assert context.shape == (1, 1 + 77, 8)
    alone = token_transformer(CLIP).apply({"params": clip[1]}, y["tokens"])
    np.testing.assert_allclose(context[:, 1:], alone, atol=1e-6)
