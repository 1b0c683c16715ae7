# SPDX-License-Identifier: Apache-2.0
"""State dicts to import: weights that are a pure function of name and shape."""

import importlib.util
import json
import pathlib

import numpy as np

from ldm_jax.interop.compvis.buffers import schedule_buffers
from ldm_jax.interop.compvis.read_config import spec_from_compvis

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"

_spec = importlib.util.spec_from_file_location("golden_weights", GOLDEN / "weights.py")
golden_weights = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden_weights)


def make_state(keys, spec):
    """Builds the state dict with the names and shapes `keys`; buffers are real.

    A first stage that occurs twice is the same twice, as it is in the original.
    """
    buffers = schedule_buffers(spec["schedule"]) if "schedule" in spec else {}
    buffers["scale_factor"] = np.array(0.5, np.float32)
    buffers["model_ema.decay"] = np.array(0.9999, np.float32)
    buffers["model_ema.num_updates"] = np.array(7, np.int32)
    inpaints = spec.get("condition", {}).get("kind") == "inpaint"
    state = {}
    for name, shape in keys.items():
        source = name
        if inpaints and name.startswith("cond_stage_model."):
            source = name.replace("cond_stage_model.", "first_stage_model.")
        made = buffers.get(name)
        state[name] = (
            golden_weights.tensor(source, tuple(shape)) if made is None else made
        )
    return state


def load_golden(name):
    """(state dict, spec, golden arrays) of a golden model."""
    described = json.loads((GOLDEN / f"{name}.json").read_text())
    spec = spec_from_compvis(described["meta"])
    arrays = dict(np.load(GOLDEN / f"{name}.npz"))
    state = make_state(described["keys"], spec)
    if "scale_factor" in state:
        state["scale_factor"] = arrays["scale_factor"]
    return state, spec, arrays


def channels_last(x):
    """[B, C, H, W] -> [B, H, W, C]."""
    return np.moveaxis(x, 1, -1)


def relative_error(a, b):
    """||a - b|| / ||b||."""
    return float(np.linalg.norm(np.asarray(a) - b) / np.linalg.norm(b))
