# SPDX-License-Identifier: Apache-2.0
"""A classifier guides samples by command; one that does not fit is refused by name."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

import ldm_jax
from ldm_jax import cli
from ldm_jax.commands.train import train_config
from ldm_jax.experiment import model_directory, stored_config
from ldm_jax.experiment.guiding.classifier_guide import guided_labels, open_guide
from tests.experiment.builders.test_classifier import guided, settings
from tests.metrics.features import write_feature_network

__all__ = ["guided"]  # a fixture


@pytest.fixture(scope="module")
def classifier(guided, tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("classifier") / "c")
    train_config(settings(guided), directory)
    return directory


def sampled(guided, out, *flags):
    argv = ["sample", f"--model={guided / 'b'}", f"--out={out}", "--label=3,4"]
    argv += ["--num-steps=2", "--grid=even", "--guidance-scale=1", *flags]
    assert cli.main(argv) == 0
    return np.stack([np.asarray(Image.open(out / f"{i:06d}.png")) for i in range(2)])


def test_a_classifier_changes_samples_and_is_noted(guided, classifier, tmp_path):
    plain = sampled(guided, tmp_path / "plain")
    off = sampled(
        guided, tmp_path / "off", f"--classifier={classifier}", "--classifier-scale=0"
    )
    np.testing.assert_array_equal(plain, off)
    flags = (f"--classifier={classifier}", "--classifier-scale=50")
    pulled = sampled(guided, tmp_path / "pulled", *flags)
    assert (pulled != plain).any()
    noted = json.loads((tmp_path / "pulled" / "settings.json").read_text())
    assert noted["classifier"] == classifier and noted["classifier_scale"] == 50.0


def test_an_image_changes_samples_by_command_and_is_noted(guided, tmp_path):
    """Identity: guides are a folder of samples; at scale 0 they change nothing."""
    plain = sampled(guided, tmp_path / "plain")
    by_image = f"--guide={tmp_path / 'plain'}"
    off = sampled(guided, tmp_path / "off", by_image, "--guide-scale=0")
    np.testing.assert_array_equal(plain, off)
    flags = (by_image, "--guide-scale=9", "--seed=7", "--guide-through=decoder")
    pulled = sampled(guided, tmp_path / "pulled", *flags)
    assert (pulled != sampled(guided, tmp_path / "other", "--seed=7")).any()
    noted = json.loads((tmp_path / "pulled" / "settings.json").read_text())
    assert noted["guide"]["scale"] == 9.0 and noted["guide"]["through"] == "decoder"


def test_the_mean_form_is_of_ddpm_alone(guided, classifier, tmp_path):
    config = stored_config.read_config(str(guided / "b"))
    open_guide(classifier, 1.0, config, (8, 8, 2), "mean", "ddpm")
    with pytest.raises(ValueError, match=r'got sampler "ddim"; choose --sampler ddpm'):
        open_guide(classifier, 1.0, config, (8, 8, 2), "mean", "ddim")


def test_a_classifier_is_exported_and_imported_by_command(guided, classifier, tmp_path):
    """Identity: the parameters come back, for the model that the config names."""
    state = tmp_path / "classifier.ckpt"
    assert cli.main(["export", classifier, "--to=compvis", f"--out={state}"]) == 0
    config = tmp_path / "config.py"
    plain = stored_config.read_config(classifier).to_dict()
    config.write_text(
        "from ml_collections import ConfigDict\n\n"
        f"def get_config(arg=''):\n    return ConfigDict({plain!r})\n"
    )
    out = tmp_path / "back"
    argv = ["import", str(state), f"--config={config}", f"--out={out}"]
    assert cli.main(argv) == 0
    _, params = model_directory.load(classifier)
    _, back = model_directory.load(str(out))
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_a_classifier_that_was_saved_guides_the_same_model(
    guided, classifier, tmp_path
):
    """Sections that leave out default values make the same first stage."""
    model, params = ldm_jax.load(classifier)
    ldm_jax.save(tmp_path / "a", model, params)
    config = stored_config.read_config(str(guided / "b"))
    saved = stored_config.read_config(str(tmp_path / "a"))
    assert dict(saved.autoencoder) != dict(config.autoencoder)
    guide, _ = open_guide(str(tmp_path / "a"), 1.0, config, (8, 8, 2))
    assert guide.classifier.classifier == model.classifier


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents.scale": 1.0}, r"latent scale .* has 3\.5, the model 1\.0"),
        ({"schedule": dict(kind="cosine")}, "must have the schedule of the model"),
        ({"condition.num_classes": 5}, "has 10, the model 5"),
    ],
)
def test_a_classifier_of_another_model_is_refused(guided, classifier, changes, message):
    config = stored_config.read_config(str(guided / "b"))
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        open_guide(classifier, 1.0, config, (8, 8, 2))


def test_a_classifier_of_one_size_refuses_another(guided, classifier):
    config = stored_config.read_config(str(guided / "b"))
    with pytest.raises(ValueError, match="reads images of 16x16 only: got 32x16"):
        open_guide(classifier, 1.0, config, (16, 8, 2))


def test_the_null_class_never_reaches_the_classifier(guided, classifier, capsys):
    """Of ten classes, 10 is the null class of the denoiser, which training uses."""
    config = stored_config.read_config(str(guided / "b"))
    guide, _ = open_guide(classifier, 1.0, config, (8, 8, 2))
    model, _ = model_directory.load(str(guided / "b"))
    y = {"label": np.array([3, 9], np.int32)}
    np.testing.assert_array_equal(guided_labels(guide, y, None), y["label"])
    null = model.conditioner.null({"label": np.array([3], np.int32)})
    with pytest.raises(ValueError, match=r"0\.\.9, and no null class: got 10; give"):
        guided_labels(guide, {"label": np.asarray(null["label"])}, None)
    with pytest.raises(ValueError, match=r"a class is in 0\.\.9: got 10"):
        guided_labels(guide, {}, 10)
    with pytest.raises(ValueError, match="guides towards a class: got no --label"):
        guided_labels(guide, {}, None)
    argv = ["sample", f"--model={guided / 'b'}", "--out=x", "--label=10"]
    assert cli.main([*argv, f"--classifier={classifier}"]) == 2
    assert "a class is in 0..9" in capsys.readouterr().err


def test_only_a_classifier_guides(guided):
    config = stored_config.read_config(str(guided / "b"))
    with pytest.raises(ValueError, match="needs a model of the task classifier"):
        open_guide(str(guided / "a"), 1.0, config, (8, 8, 2))


def test_samples_with_a_classifier_are_evaluated_and_it_is_noted(
    guided, classifier, tmp_path
):
    """Identity: the images are those of `sample` with the same classifier."""
    write_feature_network(tmp_path / "mobilenet.safetensors")
    out, flags = tmp_path / "out", ["--classifier-scale=50", "--guidance-scale=1"]
    flags += [f"--classifier={classifier}", "--num-steps=2", "--grid=even"]
    argv = ["evaluate", f"--model={guided / 'b'}", f"--out={out}", "--metrics=is"]
    argv += ["--feature-network=mobilenet", "--num=10", "--batch-size=5", *flags]
    assert (
        cli.main([*argv, f"--feature-weights={tmp_path / 'mobilenet.safetensors'}"])
        == 0
    )
    results = json.loads((out / "results.json").read_text())
    assert results["settings"]["classifier"] == classifier
    noted = json.loads((out / "images" / "settings.json").read_text())
    assert noted["classifier_scale"] == 50.0


def test_finished_images_take_no_classifier(tmp_path, capsys):
    argv = ["evaluate", f"--images={tmp_path}", f"--out={tmp_path / 'o'}"]
    assert cli.main([*argv, "--classifier=c", "--metrics=is"]) == 2
    assert "finished images takes no classifier" in capsys.readouterr().err
