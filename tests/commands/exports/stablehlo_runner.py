# SPDX-License-Identifier: Apache-2.0
import json
import pathlib

import jax
import jax.export
import numpy as np


def load(folder, name):
    """Reads a program; manifest.json lists the names of its inputs and outputs."""
    folder = pathlib.Path(folder)
    program = json.loads((folder / "manifest.json").read_text())["programs"][name]
    exported = jax.export.deserialize((folder / program["file"]).read_bytes())
    with np.load(folder / "params.npz") as weights:
        names = [w for w in weights if w.split("/")[0] in program["params"]]
        params = {w: jax.device_put(weights[w]) for w in names}
    call = jax.jit(exported.call)
    return lambda **inputs: call(params, inputs)
