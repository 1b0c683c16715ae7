# SPDX-License-Identifier: Apache-2.0
"""Measures what judging costs: InceptionV3's features and the Frechet distance."""

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
from flax import traverse_util

from ldm_jax.interop import judges
from ldm_jax.jobs.judging import on_devices
from ldm_jax.metrics.frechet import Moments, frechet_distance
from ldm_jax.models.inception import InceptionV3

PROTOCOL = 50_000


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark and prints its figures; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="ldm-jax bench metrics",
        description="Passes random images through InceptionV3 with random weights and "
        "takes the Frechet distance of two halves of them: ours and (if torch and "
        "torch-fidelity are installed) torch-fidelity's, in turns; the best counts.",
    )
    parser.add_argument("--images", type=int, default=10_000, help="for the features")
    parser.add_argument("--size", type=int, default=256, help="height and width")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3, help="of a batch")
    parser.add_argument(
        "--no_torch", action="store_true", help="measure ours alone, even with torch"
    )
    args = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    shape = (args.batch_size, args.size, args.size, 3)
    image = rng.integers(0, 256, shape).astype(np.uint8)
    flat = _weights(rng)
    runs = {"ldm_jax": _ours(flat)}
    installed = all(map(importlib.util.find_spec, ("torch", "torch_fidelity")))
    if installed and not args.no_torch:
        runs["torch-fidelity"] = _theirs(flat)
    elif not args.no_torch:
        print("torch-fidelity is not installed; nothing to compare with")
    found = {name: run(image) for name, run in runs.items()}  # warms up, compiles
    if len(found) == 2:
        ours, theirs = found.values()
        print(f"features     {np.abs(ours - theirs).max() / theirs.max():.1e} apart")
    seconds = _best_of(runs, image, args.repeats)
    for name, best in seconds.items():
        print(f"{name:14s} {args.batch_size / best:8.2f} images/s")
    if len(seconds) == 2:
        ratio = seconds["ldm_jax"] / seconds["torch-fidelity"]
        print(f"ratio          {ratio:8.2f} (below 1: ldm_jax is faster)")
    rest = _whole(runs["ldm_jax"], image, args.images)
    hours = (PROTOCOL / args.batch_size * seconds["ldm_jax"] + rest) / 3600
    print(f"the paper's {PROTOCOL} images take {hours:.2f} h here, sampling apart")
    return 0


def _weights(rng) -> dict[str, np.ndarray]:
    """Draws weights that keep activations of one size."""
    flat = {}
    for path, shape in judges.shapes_of("inception", "tensorflow").items():
        spread = 0.1 if len(shape) == 1 else (2 / np.prod(shape[:-1])) ** 0.5
        flat[path] = (spread * rng.standard_normal(shape)).astype(np.float32)
    return flat


def _ours(flat) -> Callable[[np.ndarray], np.ndarray]:
    params = jax.device_put(traverse_util.unflatten_dict(flat, sep="/"))
    apply = jax.jit(lambda x: InceptionV3().apply({"params": params}, x)["pool"])
    return lambda image: on_devices(apply, image)


def _theirs(flat) -> Callable[[np.ndarray], np.ndarray]:
    """Makes the same network of torch-fidelity; its normalisations do nothing."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import (
        FeatureExtractorInceptionV3,
    )

    state = {"fc.bias": torch.zeros(1008)}
    for path, value in flat.items():
        names = judges.names_of("inception", path)
        if len(names) == 1:
            state[names[0]] = torch.tensor(value.T.copy())
        elif path.endswith("kernel"):
            bias = flat[path.replace("kernel", "bias")]
            ones = np.ones_like(bias)
            # Their epsilon is 0.001.
            values = (value.transpose(3, 2, 0, 1), ones, bias, 0 * ones, 0.999 * ones)
            state |= {
                name: torch.tensor(np.ascontiguousarray(x))
                for name, x in zip(names, values, strict=True)
            }
            counter = names[-1].replace("running_var", "num_batches_tracked")
            state[counter] = torch.tensor(0)
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save(state, file.name)
        network = FeatureExtractorInceptionV3(
            "inception", ["2048"], feature_extractor_weights_path=file.name
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device).eval()
    print(f"torch-fidelity on {device}, ldm_jax on {jax.devices()[0].device_kind}")

    @torch.inference_mode()
    def run(image):
        x = torch.from_numpy(image).to(device).permute(0, 3, 1, 2).contiguous()
        return network(x)[0].cpu().numpy()

    return run


def _best_of(runs, image, repeats: int) -> dict[str, float]:
    """Runs each in turns; returns the least seconds of each."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run(image)
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def _whole(run, image, num_images: int) -> float:
    """Times the whole of a small evaluation; returns the Frechet distance's share."""
    halves = [Moments(2048), Moments(2048)]
    rng = np.random.default_rng(1)
    start = time.perf_counter()
    done = 0
    while done < num_images:
        batch = rng.permutation(image.ravel()).reshape(image.shape)
        batch = batch[: num_images - done]
        halves[done // len(image) % 2].update(run(batch))
        done += len(batch)
    features = time.perf_counter() - start
    start = time.perf_counter()
    if min(half.count for half in halves) > 1:
        frechet_distance(*(half.gaussian() for half in halves))
    distance = time.perf_counter() - start
    print(
        f"{num_images} images: features and moments {features:.1f} s, the distance of "
        f"2,048 features {distance:.1f} s"
    )
    return distance


if __name__ == "__main__":
    raise SystemExit(main())
