# SPDX-License-Identifier: Apache-2.0
"""The state dict is found in a checkpoint, or its entries are listed."""

import pathlib

import numpy as np
import pytest

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.interop.stored import Stored
from ldm_jax.interop.torch_files.rebuild import Unreadable
from ldm_jax.interop.torch_files.state_dicts import state_dict
from ldm_jax.interop.torch_files.unpickler import Inert

PATH = pathlib.Path("model.ckpt")
ONE = Stored(PATH, 0, np.dtype("<f4"), (2,), (4,))


def tensors(count=3, prefix=""):
    return {f"{prefix}layer_{i}.weight": ONE for i in range(count)}


OPTIMIZER = {"state": {0: {"exp_avg": ONE, "step": 3}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    "root",
    [
        tensors(),
        {"state_dict": tensors(), "epoch": 3},
        {"state_dict": tensors(), "ema": tensors(3)},
        {"model": tensors(), "optimizer": OPTIMIZER, "step": 7},
        {"state": {"model": tensors()}, "loss": 0.5},
        {"weights": tensors(40), "loss": ONE},
    ],
)
def test_the_state_dict_is_found(root):
    state = state_dict(PATH, root)
    assert set(state) == {f"layer_{i}.weight" for i in range(len(state))}
    assert len(state) in (3, 40)


def test_several_state_dicts_are_listed_and_chosen_by_key():
    root = {"model": tensors(), "ema": tensors(3), "args": {"lr": 1}}
    with pytest.raises(UnreadableFile, match=r'"model" \(3 tensors\), "ema" .*--key'):
        state_dict(PATH, root)
    assert list(state_dict(PATH, root, "ema")) == list(tensors())
    with pytest.raises(UnreadableFile, match='no tensors at "emma" but at "model"'):
        state_dict(PATH, root, "emma")


def test_a_key_is_also_what_names_begin_with():
    root = {"state_dict": tensors(2, "vae.") | tensors(3, "unet.")}
    assert list(state_dict(PATH, root, "vae")) == list(tensors(2))
    assert list(state_dict(PATH, root, "unet.")) == list(tensors(3))


def test_a_checkpoint_without_tensors_lists_its_entries():
    with pytest.raises(UnreadableFile, match=r"entries are: epoch, args\."):
        state_dict(PATH, {"epoch": 3, "args": {"lr": 1}})


def test_a_whole_model_is_refused_with_the_way_out():
    model = type("UNetModel", (Inert,), {})()
    with pytest.raises(UnreadableFile, match=r"got UNetModel; save the .*state_dict\("):
        state_dict(PATH, model)
    with pytest.raises(UnreadableFile, match=r"are: model; save the .*state_dict\("):
        state_dict(PATH, {"model": model})


def test_a_tensor_that_is_not_read_is_named():
    with pytest.raises(UnreadableFile, match=r'"b" is a tensor without .*_qtensor'):
        state_dict(PATH, {"a": ONE, "b": Unreadable("_rebuild_qtensor")})
