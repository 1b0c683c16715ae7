# SPDX-License-Identifier: Apache-2.0
"""Feature networks: the same features as the published ones, from safe files."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax import cli
from ldm_jax.interop.feature_networks import weights
from ldm_jax.models.features.inception import resize_bilinear
from tests.metrics.features import published_tensors, write_feature_network


def an_image(height, width):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (2, height, width, 3)).astype(np.uint8)


@pytest.mark.torch
def test_inception_agrees_with_torch_fidelity_and_pytorch_fid(
    monkeypatch, tmp_path, capsys
):
    """By way of a .pth like the published one, in the form that PyTorch had then."""
    torch = pytest.importorskip("torch")
    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    pytorch_fid = pytest.importorskip("pytorch_fid.inception")
    tensors = {n: torch.tensor(x) for n, x in published_tensors("inception").items()}
    tensors["fc.bias"] = torch.zeros(1008)
    state = {**tensors}
    for name in tensors:
        if name.endswith("running_mean"):
            counter = name.replace("running_mean", "num_batches_tracked")
            state[counter] = torch.tensor(0)
    loader = "load_state_dict_from_url"
    monkeypatch.setattr(extractor, loader, lambda *_, **__: state)
    monkeypatch.setattr(pytorch_fid, loader, lambda *_, **__: state)
    net = extractor.FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"])
    seen = []
    net.Mixed_6d.branch1x1.register_forward_hook(lambda m, i, o: seen.append(o))
    source, out = tmp_path / "published.pth", tmp_path / "inception.safetensors"
    # What the network holds is what its published file must hold, name by name.
    torch.save(net.state_dict(), source, _use_new_zipfile_serialization=False)
    argv = ["weights", "inception", str(source), f"--out={out}"]
    assert cli.main(argv) == 2 and not out.exists()
    assert "must begin with 6726825d0af5f729" in capsys.readouterr().err
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    published = weights.PUBLISHED["inception"]._replace(sha256=digest)
    monkeypatch.setitem(weights.PUBLISHED, "inception", published)
    assert cli.main(argv) == 0
    assert "inception with the published weights" in capsys.readouterr().out
    module, params, header = weights.load_feature_network(out, "inception")
    assert header["official"] == "True" and header["sha256"] == digest
    image = an_image(40, 56)
    actual = jax.jit(lambda x: module.apply({"params": params}, x))(image)
    with torch.inference_mode():
        pool, logits = net(torch.tensor(image).permute(0, 3, 1, 2))
    spatial = seen[0][:, :7].permute(0, 2, 3, 1).flatten(1)
    for name, expected in dict(pool=pool, logits=logits, spatial=spatial).items():
        scale = np.abs(expected.numpy()).max()
        np.testing.assert_allclose(actual[name] / scale, expected / scale, atol=2e-5)
    # pytorch-fid resizes and scales otherwise; from there on it is the same network.
    net = pytorch_fid.InceptionV3([3], resize_input=False, normalize_input=False).eval()
    resized = (resize_bilinear(jnp.asarray(image, jnp.float32), 299) - 128) / 128
    with torch.inference_mode():
        (pool,) = net(torch.tensor(np.asarray(resized)).permute(0, 3, 1, 2))
    expected = pool[:, :, 0, 0].numpy()
    np.testing.assert_allclose(actual["pool"], expected, atol=2e-5 * expected.max())


def test_a_file_is_made_of_the_published_one_alone(tmp_path, monkeypatch):
    """A checksum decides; other weights are used on request, with a warning."""
    from ldm_jax.interop.safetensors import write_safetensors

    source = tmp_path / "mobilenet.safetensors"
    write_safetensors(source, published_tensors("mobilenet"))
    out = tmp_path / "out.safetensors"
    with pytest.raises(
        ValueError, match=r"must begin with b0353104: got .*skip-checksum"
    ):
        weights.build_feature_network("mobilenet", out, source)
    assert not out.exists()
    assert not weights.build_feature_network(
        "mobilenet", out, source, skip_checksum=True
    )
    _, params, header = weights.load_feature_network(out, "mobilenet")
    assert header["official"] == "False" and "block_3" in params
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    url = source.as_uri()
    published = weights.PUBLISHED["mobilenet"]._replace(sha256=digest[:8], url=url)
    monkeypatch.setitem(weights.PUBLISHED, "mobilenet", published)
    downloaded = tmp_path / "there" / "out.safetensors"
    assert weights.build_feature_network("mobilenet", downloaded)
    assert (
        weights.load_feature_network(downloaded, "mobilenet")[2]["official"] == "True"
    )
    gone = published._replace(url=(tmp_path / "gone").as_uri())
    monkeypatch.setitem(weights.PUBLISHED, "mobilenet", gone)
    with pytest.raises(OSError, match="download it elsewhere and give"):
        weights.build_feature_network("mobilenet", tmp_path / "b.safetensors")


def test_files_that_do_not_fit_are_refused(tmp_path):
    missing = tmp_path / "inception.safetensors"
    with pytest.raises(ValueError, match=r"there is none at .*ldm-jax weights incep"):
        weights.load_feature_network(missing, "inception")
    other = write_feature_network(tmp_path / "mobilenet.safetensors")
    with pytest.raises(ValueError, match="must hold inception weights: got mobilenet"):
        weights.load_feature_network(other, "inception")
    # torchvision's InceptionV3 has the same names, and 1,000 classes.
    tensors = published_tensors("inception")
    tensors["fc.weight"] = tensors["fc.weight"][:1000]
    with pytest.raises(ValueError, match=r"not those of inception: fc\.weight makes"):
        weights.convert_feature_network("inception", tensors)
    tensors = published_tensors("mobilenet")
    del tensors["features.4.conv.0.1.running_var"]
    with pytest.raises(ValueError, match=r"features\.4\.conv\.0\.1\.running_var is mi"):
        weights.convert_feature_network("mobilenet", tensors)
