# SPDX-License-Identifier: Apache-2.0
import itertools
import json
import pathlib

import numpy as np
import onnxruntime


def load(folder):
    """Returns the manifest of an export and a function that runs its files."""
    folder = pathlib.Path(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    sessions = {
        name: onnxruntime.InferenceSession(folder / program["file"])
        for name, program in manifest["programs"].items()
    }

    def run(name, **inputs):
        outputs = manifest["programs"][name]["outputs"]
        return dict(zip(outputs, sessions[name].run(None, inputs), strict=True))

    return manifest, run


def sample(folder, z, num_steps=50, guidance_scale=1.0, **condition):
    """Samples images [B, H, W, 3] in [-1, 1] from noise z [B, h, w, c] by DDIM."""
    manifest, run = load(folder)
    alpha, sigma = (np.float32(manifest[name]) for name in ("alpha", "sigma"))
    cond = run("condition", **condition) if condition else {}
    null = run("null", **condition) if guidance_scale != 1 else {}
    stride = len(alpha) // num_steps
    steps = [*(np.arange(0, len(alpha), stride) + 1)[::-1], 0]
    for t, s in itertools.pairwise(steps):
        steps_t = np.full(len(z), t, np.int32)
        (y,) = run("denoiser", z_t=z, t=steps_t, **cond).values()
        if guidance_scale != 1:
            (without,) = run("denoiser", z_t=z, t=steps_t, **null).values()
            y = without + guidance_scale * (y - without)
        x0 = y  # guidance is linear, so it may come before this
        if manifest["prediction"] == "eps":
            x0 = (z - sigma[t] * y) / alpha[t]
        elif manifest["prediction"] == "v":
            x0 = alpha[t] * z - sigma[t] * y
        z = alpha[s] * x0 + sigma[s] * (z - alpha[t] * x0) / sigma[t]
    if "decoder" not in manifest["programs"]:  # a model of pixels
        return z / np.float32(manifest["latent_scale"])
    return run("decoder", z_0=z)["image"]
