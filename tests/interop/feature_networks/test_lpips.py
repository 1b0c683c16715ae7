# SPDX-License-Identifier: Apache-2.0
"""Published LPIPS weights are recognised, combined and read back."""

import functools
import hashlib

import numpy as np
import pytest
from flax import traverse_util

from ldm_jax import cli
from ldm_jax.interop.feature_networks import lpips
from ldm_jax.interop.feature_networks.lpips import (
    Part,
    PublishedPart,
    build_lpips,
    identify,
)
from ldm_jax.interop.feature_networks.lpips_file import LpipsFile, trunk_shapes
from ldm_jax.interop.safetensors import write_safetensors
from ldm_jax.interop.torch_files.writer import write_ckpt
from ldm_jax.models.features.lpips import LPIPS, TRUNKS


@functools.cache
def published(part, lin_name="lin{}.model.1.weight"):
    """Random arrays under the names and in the layout of a published file."""
    rng = np.random.default_rng(len(str(part)))
    tensors = {}
    for path, names in lpips.published_names(part).items():
        shape = trunk_shapes(part.trunk)[path]
        array = rng.normal(size=shape).astype(np.float32)
        if part.half == "lin":
            name = lin_name.format(path.removeprefix("lin_"))
            tensors[name] = array[None, :, None, None]
        else:
            is_kernel = array.ndim == 4
            tensors[names[0]] = array.transpose(3, 2, 0, 1) if is_kernel else array
    return tensors


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Both parts of the small trunks, each in another kind of file."""
    root = tmp_path_factory.mktemp("published")
    parts = lpips.parts_of_trunks(["alex", "squeeze"])
    paths = [root / f"{n}{s}" for n, s in enumerate([".pth", ".npz", ".safetensors"])]
    write_ckpt(paths[0], {**published(parts[0]), "classifier.6.bias": np.zeros(9)})
    np.savez(paths[1], **published(parts[1], "lin{}"))
    write_safetensors(paths[2], published(parts[2]))
    paths.append(root / "3.pth")
    write_ckpt(paths[3], published(parts[3]))
    return dict(zip(parts, paths, strict=True))


def test_a_part_is_recognised_by_names_and_shapes(files):
    for part, path in files.items():
        recognised, _ = identify(path)
        assert recognised == part


@pytest.mark.parametrize("trunk", sorted(TRUNKS))
def test_every_parameter_has_a_published_name(trunk):
    """Identity: the names of both parts cover the parameters, each once."""
    names = [lpips.published_names(part) for part in lpips.parts_of_trunks([trunk])]
    assert sorted([*names[0], *names[1]]) == sorted(trunk_shapes(trunk))
    flat = [name for part in names for (name, *_) in part.values()]
    assert len(set(flat)) == len(flat)


def test_names_are_torchvisions():
    """Golden: names and shapes of torchvision's models, written down by hand."""
    vgg = lpips.published_names(Part("vgg", "trunk"))
    assert vgg["trunk/conv_12/kernel"] == ("features.28.weight",)
    squeeze = lpips.published_names(Part("squeeze", "trunk"))
    assert squeeze["trunk/fire_7/expand_3/bias"] == ("features.12.expand3x3.bias",)
    assert squeeze["trunk/fire_2/squeeze/kernel"] == ("features.6.squeeze.weight",)
    alex = lpips.published_names(Part("alex", "trunk"))
    assert alex["trunk/conv_2/kernel"] == ("features.6.weight",)


def test_the_command_makes_one_file_with_every_number(files, tmp_path, capsys):
    """Identity: the parameters read back are those of the published files."""
    out = tmp_path / "lpips.safetensors"
    argv = ["weights", "lpips", *map(str, files.values()), f"--out={out}"]
    assert cli.main(argv) == 0
    assert "alex, squeeze" in capsys.readouterr().out
    for trunk in ("alex", "squeeze"):
        params = traverse_util.flatten_dict(LpipsFile(str(out)).load(trunk), sep="/")
        for part in lpips.parts_of_trunks([trunk]):
            tensors = published(part)
            for path, names in lpips.published_names(part).items():
                array = tensors[names[0]]
                if array.ndim == 4:
                    array = array.transpose(2, 3, 1, 0)
                np.testing.assert_array_equal(
                    params[path], array.reshape(params[path].shape)
                )


def test_missing_foreign_and_double_parts_are_refused(files, tmp_path):
    trunk, lin, *_ = files.values()
    out = tmp_path / "lpips.safetensors"
    with pytest.raises(ValueError, match=r"add, or let --download fetch,\n  alex lin"):
        build_lpips([trunk], out)
    with pytest.raises(ValueError, match="no file"):
        build_lpips([], out)
    with pytest.raises(ValueError, match="both hold the alex convolutions"):
        build_lpips([trunk, lin, trunk], out)
    some = dict(list(published(Part("vgg", "trunk")).items())[:8])
    write_safetensors(tmp_path / "some.safetensors", some)
    with pytest.raises(ValueError, match=r"18 are missing.*features.10.weight \(256"):
        build_lpips([tmp_path / "some.safetensors"], out)
    np.savez(tmp_path / "other.npz", weight=np.zeros(3))
    with pytest.raises(ValueError, match="no part of LPIPS: it has weight"):
        build_lpips([tmp_path / "other.npz"], out)
    assert not out.exists()


def test_a_download_is_checked(files, tmp_path, monkeypatch):
    """From this machine, through the same opener; a wrong checksum is refused."""
    parts = lpips.parts_of_trunks(["alex"])
    sums = {}
    for part in parts:
        data = files[part].read_bytes()
        sums[part] = PublishedPart(
            files[part].as_uri(), hashlib.sha256(data).hexdigest()[:8]
        )
    monkeypatch.setattr(lpips, "SOURCES", sums)
    out = tmp_path / "lpips.safetensors"
    assert build_lpips([], out, ["alex"]) == ["alex"]
    sums[parts[1]] = sums[parts[1]]._replace(sha256="0000")
    with pytest.raises(ValueError, match="must begin with 0000"):
        build_lpips([], out, ["alex"])
    with pytest.raises(ValueError, match="unknown LPIPS trunk 'resnet'"):
        build_lpips([], out, ["resnet"])


@pytest.mark.torch
@pytest.mark.parametrize("trunk", ["vgg", "alex", "squeeze"])
def test_distance_agrees_with_the_package_of_its_authors(trunk, tmp_path):
    """Golden: linear weights of the package on a random trunk, in published files."""
    torch, authors = pytest.importorskip("torch"), pytest.importorskip("lpips")
    torch.manual_seed(0)
    net = authors.LPIPS(net=trunk, pnet_rand=True, verbose=False).eval()
    halves = {"trunk.npz": {}, "lin.npz": {}}
    for name, tensor in net.state_dict().items():
        if name.startswith("net."):  # net.slice1.0.weight is torchvision's features.0
            halves["trunk.npz"]["features." + name.split(".", 2)[2]] = tensor.numpy()
        elif name.startswith("lin") and not name.startswith("lins"):
            halves["lin.npz"][name] = tensor.numpy()
    for name, arrays in halves.items():
        np.savez(tmp_path / name, **arrays)
    file = tmp_path / "lpips.safetensors"
    assert build_lpips([tmp_path / name for name in halves], file) == [trunk]
    rng = np.random.default_rng(0)
    first, second = rng.uniform(-1, 1, (2, 2, 64, 48, 3)).astype(np.float32)
    distance = LPIPS(trunk).apply(
        {"params": LpipsFile(str(file)).load(trunk)}, first, second
    )
    with torch.inference_mode():
        images = (torch.tensor(x.transpose(0, 3, 1, 2)) for x in (first, second))
        expected = net(*images).numpy().reshape(-1)
    np.testing.assert_allclose(distance, expected, rtol=1e-4)
