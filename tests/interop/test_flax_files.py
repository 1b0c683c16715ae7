# SPDX-License-Identifier: Apache-2.0
"""Flax weights of older diffusers, made by flax.serialization."""

import re

import numpy as np
import pytest
from flax import serialization, traverse_util

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.interop.convert import export_model, import_model
from ldm_jax.interop.flax_files import read_flax
from ldm_jax.interop.safetensors import read_safetensors
from tests.interop import small


def to_flax(name, array):
    """The renaming of diffusers' convert_pytorch_state_dict_to_flax, forwards."""
    for part in re.findall(r"\w+[.]\d+", name):
        name = name.replace(part, "_".join(part.split(".")))
    *modules, leaf = name.split(".")
    if leaf == "weight" and "norm" in modules[-1]:
        leaf = "scale"
    elif leaf == "weight":
        leaf = "kernel"
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return (*modules, leaf), np.ascontiguousarray(array)


def test_a_folder_of_flax_weights_is_the_model_of_pytorchs(tmp_path):
    """Identity: a UNet with cross-attention and a KL first stage, renamed and back."""
    spec = {**small.CLASSES, "autoencoder": small.FIRST_STAGE}
    params = small.drawn(spec)
    export_model(tmp_path, "diffusers", spec, params, image_size=16)
    for folder in ("unet", "vqvae"):
        file = tmp_path / folder / "diffusion_pytorch_model.safetensors"
        pairs = [to_flax(n, x) for n, x in read_safetensors(file).items()]
        tree = traverse_util.unflatten_dict(dict(pairs))
        file.unlink()
        (tmp_path / folder / "diffusion_flax_model.msgpack").write_bytes(
            serialization.to_bytes(tree)
        )
    imported = import_model(tmp_path)
    for network in ("unet", "autoencoder"):
        actual, expected = (
            traverse_util.flatten_dict(tree[network])
            for tree in (params, imported.params)
        )
        assert actual.keys() == expected.keys()
        for name, array in actual.items():
            np.testing.assert_array_equal(expected[name], array)


def test_names_of_a_text_encoder_keep_their_numbers(tmp_path):
    layer = {"self_attn": {"q_proj": {"kernel": np.arange(6.0).reshape(2, 3)}}}
    tree = {"text_model": {"encoder": {"layers": {"0": layer}}}}
    tree["text_model"]["embeddings"] = {"token_embedding": {"embedding": np.eye(2)}}
    path = tmp_path / "flax_model.msgpack"
    path.write_bytes(serialization.to_bytes({"params": tree}))
    weights = read_flax(path)
    kernel = weights["text_model.encoder.layers.0.self_attn.q_proj.weight"]
    np.testing.assert_array_equal(kernel, np.arange(6.0).reshape(2, 3).T)
    assert "text_model.embeddings.token_embedding.weight" in weights


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xc1", "cannot be unpacked"),
        (serialization.msgpack_serialize({"a": 3}), "a is a int"),
        (serialization.msgpack_serialize([1]), "by name: got list"),
        (b"\x85\xa1x", "cannot be unpacked"),
    ],
)
def test_what_holds_no_arrays_is_refused(data, reason, tmp_path):
    path = tmp_path / "model.msgpack"
    path.write_bytes(data)
    with pytest.raises(UnreadableFile, match=reason):
        read_flax(path)
